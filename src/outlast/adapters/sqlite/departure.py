"""All that a file keeps, as changes that any engine can commit; and a file that is left for another engine.

A file that is being moved can be read by who moves it, and be used by nobody, also not by processes that have it
open: its table of queues has another name from then on.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec

from outlast.adapters.sqlite import history
from outlast.adapters.sqlite.queues import Queue
from outlast.adapters.sqlite.schema import BEGIN, COMMIT, MOVED, ROLLBACK, moment
from outlast.ports import OUTBOX, Address, Changes, DeadLetter, Delivery, Entry, Parcel, Saved, Stash, unpack

PAGE = 500

_decode_letter = msgspec.json.Decoder(DeadLetter).decode


def block(connection: sqlite3.Connection, target: str) -> None:
    """Leaves the file for `target`. From here on nothing is added to it."""
    connection.execute(BEGIN)
    try:
        connection.execute("CREATE TABLE outlast_moved (url TEXT NOT NULL, done INTEGER NOT NULL)")
        connection.execute("INSERT INTO outlast_moved VALUES (?, 0)", (target,))
        connection.execute("ALTER TABLE outlast_queues RENAME TO outlast_left_queues")
        connection.execute(f"PRAGMA user_version = {MOVED}")
        connection.execute(COMMIT)
    except BaseException:
        connection.execute(ROLLBACK)
        raise


def finish(connection: sqlite3.Connection) -> None:
    """Notes that all of the file has arrived."""
    connection.execute("UPDATE outlast_moved SET done = 1")


def target_of(connection: sqlite3.Connection) -> tuple[str, bool] | None:
    """Where a file was left for, and whether all of it has arrived there; `None` if it was not left."""
    [[version]] = connection.execute("PRAGMA user_version")
    if version != MOVED:
        return None
    [[url, is_done]] = connection.execute("SELECT url, done FROM outlast_moved")
    return url, bool(is_done)


class Departure:
    """What is in a file that was left, in pages; a service and its changes each. What is waiting comes last."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.queues: dict[str, int] = dict(self._all("SELECT name, id FROM outlast_left_queues"))

    def topics(self) -> dict[str, list[str]]:
        """What each service was declared with."""
        names = {id: name for name, id in self.queues.items()}
        found: dict[str, list[str]] = {name: [] for name in self.queues if name != OUTBOX}
        for topic, queue in self._all("SELECT topic, queue FROM outlast_topics"):
            found[names[queue]].append(topic)
        return found

    def pages(self) -> Iterator[tuple[str, Changes]]:
        """All of it but the topics."""
        yield from self._instances()
        yield from self._stashes()
        yield from self._dead()
        yield from self._history()
        yield from self._known_ids()
        yield from self._dated()
        yield from self._waiting()

    def settled(self) -> dict[str, str]:
        """The dead letters that somebody has retried or archived, and which it was."""
        return dict(self._all("SELECT id, status FROM outlast_dead WHERE status <> 'open'"))

    def _instances(self) -> Iterator[tuple[str, Changes]]:
        rows = self._each(
            "SELECT w.service, w.name, i.key, i.state, i.conversation, i.done, i.keep_until FROM outlast_instances i "
            "JOIN outlast_workflows w ON w.id = i.workflow ORDER BY i.id"
        )
        for page in rows:
            saved: dict[str, list[Saved]] = defaultdict(list)
            for service, workflow, key, state, conversation, done, keep in page:
                kept = moment(keep) if keep is not None else None
                saved[service].append(Saved(Address(service, workflow, key), state, 0, conversation, bool(done), kept))
            yield from ((service, Changes(saved=some)) for service, some in saved.items())

    def _stashes(self) -> Iterator[tuple[str, Changes]]:
        rows = self._each(
            "SELECT w.service, w.name, s.key, s.packet, s.until FROM outlast_stash s "
            "JOIN outlast_workflows w ON w.id = s.workflow ORDER BY s.id"
        )
        for page in rows:
            for service, workflow, key, packet, until in page:
                yield service, Changes(stashed=[Stash(Address(service, workflow, key), packet, moment(until))])

    def _dead(self) -> Iterator[tuple[str, Changes]]:
        for page in self._each("SELECT packet, letter FROM outlast_dead ORDER BY number"):
            letters = [msgspec.structs.replace(_decode_letter(letter), packet=packet) for packet, letter in page]
            yield "", Changes(dead=letters)

    def _history(self) -> Iterator[tuple[str, Changes]]:
        turn: list[Entry] = []
        for _, entry in history.read(self.connection, conversation="", after=0, queues="outlast_left_queues"):
            if turn and (turn[0].service, turn[0].at) != (entry.service, entry.at):
                yield turn[0].service, Changes(history=turn)
                turn = []
            turn.append(msgspec.structs.replace(entry, receipt=None))
        if turn:
            yield turn[0].service, Changes(history=turn)

    def _known_ids(self) -> Iterator[tuple[str, Changes]]:
        """Ids that must not have effect again: those that callers gave, and those in the inbox."""
        for page in self._each("SELECT id FROM outlast_sent ORDER BY at"):
            yield "", Changes(parcels=[Parcel(id, b"", once=True) for (id,) in page])
        for name, number in self.queues.items():
            for page in self._each("SELECT id FROM outlast_inbox WHERE queue = ? ORDER BY at", number):
                yield name, Changes(handled=[Delivery(id, b"") for (id,) in page])

    def _dated(self) -> Iterator[tuple[str, Changes]]:
        for page in self._each("SELECT id, packet, queue, topic, due FROM outlast_dated ORDER BY due, id"):
            yield (
                "",
                Changes(
                    parcels=[
                        Parcel(id, packet, queue=queue, topic=topic, due=moment(due))
                        for id, packet, queue, topic, due in page
                    ]
                ),
            )

    def _waiting(self) -> Iterator[tuple[str, Changes]]:
        for name, number in self.queues.items():
            log = Queue(number, self.connection).log
            head = self._all("SELECT head FROM outlast_left_queues WHERE id = ?", number)[0][0]
            rows = self._each(
                f"SELECT id, packet FROM {log} WHERE id > ? OR id IN (SELECT id FROM outlast_open WHERE queue = ?) "
                "ORDER BY id",
                head,
                number,
            )
            for page in rows:
                if name == OUTBOX:
                    yield "", Changes(parcels=[parcel for _, packet in page for parcel in unpack(packet)])
                else:
                    yield "", Changes(parcels=[Parcel("", packet, queue=name) for _, packet in page])

    def _each(self, sql: str, *parameters: object) -> Iterator[list[Any]]:
        rows = self.connection.execute(sql, parameters)
        while page := rows.fetchmany(PAGE):
            yield page

    def _all(self, sql: str, *parameters: object) -> list[Any]:
        return self.connection.execute(sql, parameters).fetchall()
