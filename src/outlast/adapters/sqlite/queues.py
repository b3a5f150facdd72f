"""One queue within a transaction: appending to its log, moving its head, keeping its list of open deliveries."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from outlast.errors import Conflict
from outlast.ports import Delivery, Receipt

_encode = msgspec.json.Encoder().encode

CHUNK = 64
"""Rows per statement when many are appended: half the cost of one statement a row."""


class Queue:
    """A queue as one write transaction sees and changes it. `number` is its id in `outlast_queues`."""

    def __init__(self, number: int, connection: sqlite3.Connection) -> None:
        self.number = number
        self.connection = connection
        self.log = f"outlast_log_{number}"

    def append(self, packets: Sequence[bytes]) -> None:
        """Adds messages at the end."""
        whole = len(packets) - len(packets) % CHUNK
        for first in range(0, whole, CHUNK):
            self.connection.execute(f"INSERT INTO {self.log} (packet) VALUES {_PLACES}", packets[first : first + CHUNK])
        self.connection.executemany(
            f"INSERT INTO {self.log} (packet) VALUES (?)", [(packet,) for packet in packets[whole:]]
        )

    def last(self) -> int:
        """The id of the message that was appended last."""
        id: int = self.connection.execute(f"SELECT max(id) FROM {self.log}").fetchone()[0]
        return id

    def waiting(self, now: int, limit: int) -> list[tuple[int, bytes, int]]:
        """Id, packet and count of what can be handed over, oldest first."""
        # The view says the same, but SQLite would sort all of it: that is, read the whole backlog.
        rows: list[tuple[int, bytes, int]] = self.connection.execute(
            f"SELECT o.id, l.packet, o.count FROM outlast_open o CROSS JOIN {self.log} l ON l.id = o.id "
            "WHERE o.queue = ? AND (o.claimed_until IS NULL OR o.claimed_until <= ?) ORDER BY o.id LIMIT ?",
            (self.number, now, limit),
        ).fetchall()
        return rows + self._ahead("id, packet, 0", limit - len(rows))

    def _ahead(self, columns: str, limit: int) -> list[Any]:
        """These columns of the messages beyond the head, oldest first."""
        if limit <= 0:
            return []
        return self.connection.execute(
            f"SELECT {columns} FROM {self.log} WHERE id > ? ORDER BY id LIMIT ?", (self._head(), limit)
        ).fetchall()

    def unhandled(self, limit: int) -> list[tuple[bytes, int | None]]:
        """Packet and end of the claim of what is not handled yet, oldest first."""
        rows = self.connection.execute(
            f"SELECT l.packet, o.claimed_until FROM outlast_open o CROSS JOIN {self.log} l ON l.id = o.id "
            "WHERE o.queue = ? ORDER BY o.id LIMIT ?",
            (self.number, limit),
        ).fetchall()
        return rows + self._ahead("packet, NULL", limit - len(rows))

    def ours(self, deliveries: Sequence[Delivery]) -> set[Receipt]:
        """The receipts of those that nobody has handled, or claimed anew."""
        head = self._head()
        passed = [delivery.receipt for delivery in deliveries if int(delivery.receipt) <= head]
        counts: dict[Receipt, int] = {}
        if passed:
            counts = dict(
                self.connection.execute(
                    "SELECT id, count FROM outlast_open WHERE queue = ? AND id IN (SELECT value FROM json_each(?))",
                    (self.number, _encode(passed).decode()),
                ).fetchall()
            )
        return {d.receipt for d in deliveries if counts.get(d.receipt, 0 if int(d.receipt) > head else None) == d.count}

    def settle(
        self, handled: Sequence[Delivery], claimed: Sequence[Delivery], until: int | None, owner: int | None
    ) -> None:
        """Consumes and claims deliveries; `Conflict` if one of them is not ours any more."""
        head = self._head()
        ours = [d for d in (*handled, *claimed) if int(d.receipt) <= head or d.count == 0]
        if len(ours) != len(handled) + len(claimed):
            raise Conflict("a delivery was released and handed over again since it was received")
        self._change("DELETE FROM outlast_open", (), [d for d in handled if int(d.receipt) <= head])
        self._change(
            "UPDATE outlast_open SET count = count + 1, claimed_until = ?, owner = ?",
            (until, owner),
            [d for d in claimed if int(d.receipt) <= head],
        )
        ahead = sorted(int(d.receipt) for d in ours if int(d.receipt) > head)
        if ahead:
            self._pass_over(head, ahead)
            self.connection.executemany(
                "INSERT INTO outlast_open VALUES (?, ?, 1, ?, ?)",
                [(self.number, d.receipt, until, owner) for d in claimed if int(d.receipt) > head],
            )

    def renew(self, deliveries: Sequence[Delivery], until: int | None) -> None:
        """Keeps claimed deliveries hidden, those that are still ours."""
        for first, last, count in ranges(deliveries):
            self._update("UPDATE outlast_open SET claimed_until = ?", (until,), first, last, count)

    def release(self, deliveries: Sequence[Delivery]) -> None:
        """Gives claimed deliveries back uncounted, those that are still ours."""
        for first, last, count in ranges(deliveries):
            self._update(
                "UPDATE outlast_open SET count = count - 1, claimed_until = NULL, owner = NULL",
                (),
                first,
                last,
                count,
            )

    def suspect(self, first: int, last: int, *, alone_after: int) -> None:
        """Counts what a turn was about when its process died; what was claimed has been counted by that."""
        self.connection.execute(
            "UPDATE outlast_open SET count = count + 1 "
            "WHERE queue = ? AND id BETWEEN ? AND ? AND owner IS NULL AND count < ?",
            (self.number, first, last, alone_after),
        )
        rows = self.connection.execute(
            f"SELECT id, id >= ? FROM {self.log} WHERE id > ? AND id <= ?", (first, self._head(), last)
        ).fetchall()
        if rows:
            self.connection.executemany(
                "INSERT INTO outlast_open VALUES (?, ?, ?, NULL, NULL)",
                [(self.number, id, count) for id, count in rows],
            )
            self._move_head(last)

    def free(self, owner: int) -> None:
        """Makes deliverable what this claimant had claimed."""
        self.connection.execute(
            "UPDATE outlast_open SET claimed_until = NULL, owner = NULL WHERE queue = ? AND owner = ?",
            (self.number, owner),
        )

    def _pass_over(self, head: int, ahead: Sequence[int]) -> None:
        """Moves the head past these ids; those between them that are left for later become open."""
        last = ahead[-1]
        if last - head != len(ahead):
            taken = set(ahead)
            rows = self.connection.execute(
                f"SELECT id FROM {self.log} WHERE id > ? AND id < ?", (head, last)
            ).fetchall()
            self.connection.executemany(
                "INSERT INTO outlast_open VALUES (?, ?, 0, NULL, NULL)",
                [(self.number, id) for (id,) in rows if id not in taken],
            )
        self._move_head(last)

    def _head(self) -> int:
        head: int = self.connection.execute("SELECT head FROM outlast_queues WHERE id = ?", (self.number,)).fetchone()[
            0
        ]
        return head

    def _move_head(self, head: int) -> None:
        self.connection.execute("UPDATE outlast_queues SET head = ? WHERE id = ?", (head, self.number))

    def _change(self, statement: str, parameters: tuple[int | None, ...], deliveries: Sequence[Delivery]) -> None:
        changed = sum(
            self._update(statement, parameters, first, last, count) for first, last, count in ranges(deliveries)
        )
        if changed != len(deliveries):
            raise Conflict("a delivery was taken by another turn")

    def _update(self, statement: str, parameters: tuple[int | None, ...], first: int, last: int, count: int) -> int:
        return self.connection.execute(
            f"{statement} WHERE queue = ? AND id BETWEEN ? AND ? AND count = ?",
            (*parameters, self.number, first, last, count),
        ).rowcount


_PLACES = ", ".join(["(?)"] * CHUNK)


def ranges(deliveries: Sequence[Delivery]) -> list[tuple[int, int, int]]:
    """The deliveries as ranges of consecutive ids with the same count: first id, last id, count."""
    found: list[tuple[int, int, int]] = []
    first = last = count = -1
    for id, handed_over in sorted([(int(delivery.receipt), delivery.count) for delivery in deliveries]):
        if id == last + 1 and handed_over == count:
            last = id
            continue
        if count >= 0:
            found.append((first, last, count))
        first = last = id
        count = handed_over
    if count >= 0:
        found.append((first, last, count))
    return found
