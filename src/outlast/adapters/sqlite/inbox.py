"""The inbox: which messages, of those that a broker keeps, a committed turn has handled."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

import msgspec

from outlast.errors import Conflict
from outlast.ports import Delivery

_encode = msgspec.json.Encoder().encode


class Inbox:
    """One service's inbox as a transaction sees and changes it. `number` is the service's id in `outlast_queues`."""

    def __init__(self, number: int, connection: sqlite3.Connection) -> None:
        self.number = number
        self.connection = connection

    def unseen(self, ids: Sequence[str]) -> set[str]:
        """Those that no committed turn has handled."""
        found: list[tuple[str]] = self.connection.execute(
            "SELECT id FROM outlast_inbox WHERE queue = ? AND id IN (SELECT value FROM json_each(?))",
            (self.number, _encode(ids).decode()),
        ).fetchall()
        for id in ids:
            if "\0" in id:  # where SQLite's JSON ends a text
                found += self.connection.execute(
                    "SELECT id FROM outlast_inbox WHERE queue = ? AND id = ?", (self.number, id)
                ).fetchall()
        return set(ids).difference(id for (id,) in found)

    def note(self, handled: Sequence[Delivery], now: int) -> None:
        """Notes that these are handled. Raises `Conflict` if one of them was before."""
        try:
            self.connection.executemany(
                "INSERT INTO outlast_inbox VALUES (?, ?, ?)", [(self.number, d.receipt, now) for d in handled]
            )
        except sqlite3.IntegrityError as error:
            raise Conflict("a delivery was handled by another turn") from error
        self.connection.executemany(
            "DELETE FROM outlast_tries WHERE queue = ? AND id = ?",
            [(self.number, d.receipt) for d in handled if d.count],
        )

    def count(self, claimed: Sequence[Delivery]) -> None:
        """Counts that these suspects are tried once more."""
        self.connection.executemany(
            "INSERT INTO outlast_tries VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1",
            [(self.number, d.receipt) for d in claimed if d.count],
        )

    def tries(self, ids: Sequence[str]) -> Mapping[str, int]:
        """How often these were tried as suspects, those that were."""
        return dict(
            self.connection.execute(
                "SELECT id, count FROM outlast_tries WHERE queue = ? AND id IN (SELECT value FROM json_each(?))",
                (self.number, _encode(ids).decode()),
            ).fetchall()
        )
