"""One write transaction on the file, and the statements that make a turn's changes true."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import msgspec

from outlast.adapters.sqlite import history
from outlast.adapters.sqlite.claimant import Claimant
from outlast.adapters.sqlite.inbox import Inbox
from outlast.adapters.sqlite.queues import Queue
from outlast.adapters.sqlite.schema import (
    COMMIT,
    RELEASE,
    ROLLBACK,
    ROLLBACK_TO,
    SAVEPOINT,
    SharedConnection,
    micros,
    plainly,
)
from outlast.adapters.sqlite.tables import Tables
from outlast.errors import BadHandler, Conflict, Misuse
from outlast.ports import (
    OUTBOX,
    OUTBOX_LEASE,
    RELAY,
    REPLIES,
    Address,
    Changes,
    DeadLetter,
    Delivery,
    Parcel,
    Posted,
    Receipt,
    Saved,
    Stash,
    Stored,
    World,
    by_keeper,
    pack,
    with_id_of_its_own,
)

_encode = msgspec.json.Encoder().encode

_ENDED = (
    "a statement of the handler ended the turn's transaction. Do without OR ROLLBACK and RAISE(ROLLBACK), whose place "
    "ABORT can take, and let errors of the database out of the handler."
)


def _is_of_the_file(error: BaseException | None) -> bool:
    """Whether the file or its disk is to blame, such as a full one, and not what the statement asked for."""
    while error is not None and not isinstance(error, sqlite3.OperationalError):
        error = error.__cause__ or error.__context__
    return error is not None


class SqliteStatements:
    """What a handler may do in the turn's transaction."""

    __slots__ = ("connection",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    async def execute(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
        return self.connection.execute(sql, parameters).fetchall()

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self.connection.executemany(sql, rows)


class SqliteWork:
    """A write transaction. It has begun when it is made, so everything it reads stays as it is until the end."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        tables: Tables,
        *,
        service: str,
        world: World,
        claimant: Claimant | None,
        ended: Callable[[], None],
        ring: Callable[[set[str]], None],
        posted: Posted | None = None,
    ) -> None:
        self.connection = connection
        self.tables = tables
        self.service = service
        self.world = world
        self._claimant = claimant
        self.now = micros(world.now())
        self._ended = ended
        self._ring = ring
        self._posted = posted
        self._for_broker: list[Parcel] = []
        self._is_open = True
        self._rung: set[str] = set()
        self._rows: dict[Address, int] = {}
        self._workflows: dict[tuple[str, str], int] = {}

    async def first_sight(self, deliveries: Sequence[Delivery]) -> set[Receipt]:
        own, brought = by_keeper(deliveries)
        if self._claimant is not None and own:
            ids = [int(delivery.receipt) for delivery in own]
            self._claimant.handles(min(ids), max(ids))
        try:
            unseen = self._inbox().unseen([str(delivery.receipt) for delivery in brought]) if brought else set[str]()
            return self._queue(self.service).ours(own) | unseen
        except sqlite3.OperationalError as error:
            raise self.tables.unavailable("reading", error) from error

    async def load(self, addresses: Sequence[Address]) -> Mapping[Address, Stored]:
        found: dict[Address, Stored] = {}
        keys: dict[tuple[str, str], list[str]] = defaultdict(list)
        for address in addresses:
            keys[address.service, address.workflow].append(address.key)
        for (service, workflow), wanted in keys.items():
            id = self.tables.workflow(service, workflow, self.connection)
            if id is None:
                continue
            columns = "SELECT key, id, version, done, state FROM outlast_instances WHERE workflow = ?"
            # SQLite's JSON ends a text at its first NUL, so a key that has one is looked up by itself.
            plain = [key for key in wanted if "\0" not in key]
            rows = self._all(f"{columns} AND key IN (SELECT value FROM json_each(?))", (id, _encode(plain).decode()))
            for key in wanted if len(plain) < len(wanted) else ():
                if "\0" in key:
                    rows += self._all(f"{columns} AND key = ?", (id, key))
            for key, row, version, done, state in rows:
                address = Address(service, workflow, key)
                self._rows[address] = row
                found[address] = Stored(state, version, bool(done))
        return found

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[SqliteStatements]:
        connection = self.connection
        assert isinstance(connection, SharedConnection)
        connection.execute(SAVEPOINT)
        connection.lend()
        try:
            yield SqliteStatements(connection)
        except BaseException as error:
            connection.take_back()
            if not connection.in_transaction:
                # SQLite has ended the whole transaction; what others did in it is gone too.
                if _is_of_the_file(error):
                    raise self.tables.unavailable("running a handler's statement", error) from error
                raise BadHandler(_ENDED) from error
            connection.execute(ROLLBACK_TO)
            connection.execute(RELEASE)
            raise
        connection.take_back()
        if not connection.in_transaction:
            raise BadHandler(_ENDED)
        connection.execute(RELEASE)

    async def commit(self, changes: Changes) -> None:
        try:
            if not self.connection.in_transaction:
                # Only the caller of `begin_on` can do that: a handler is refused.
                raise Misuse(
                    "the transaction was ended before its messages were written, so they were not sent. Leave "
                    "commit() and rollback() to client.transaction; raise an exception to undo everything."
                )
            with plainly(self.connection):
                self._write(changes)
                row = self._write_outbox() if self._for_broker else None
            self.connection.execute(COMMIT)
        except sqlite3.OperationalError as error:
            await self.rollback()
            raise self.tables.unavailable("committing", error) from error
        except BaseException:
            await self.rollback()
            raise
        self._end()
        self._ring(self._rung)
        if self._posted is not None and row is not None:
            self._posted(row)

    async def rollback(self) -> None:
        if self._is_open:
            try:
                if self.connection.in_transaction:
                    self.connection.execute(ROLLBACK)
            finally:
                self._end()

    def _end(self) -> None:
        self._is_open = False
        if self._claimant is not None:
            self._claimant.rests()
        self._ended()

    def _write(self, changes: Changes) -> None:
        if changes.handled or changes.claimed or changes.renewed or changes.released:
            self._settle(changes)
        if changes.stashed:
            self._stash(changes.stashed)
        if changes.saved:
            self._save(changes.saved)
        if changes.parcels:
            self.post(changes.parcels)
        if changes.withdrawn:
            self.connection.executemany(
                "DELETE FROM outlast_dated WHERE due = ? AND id = ?",
                [(micros(letter.due), letter.id) for letter in changes.withdrawn],
            )
        if changes.dead:
            self.bury(changes.dead)
        if changes.history:
            history.write(self.connection, self.tables.queue(self.service, self.connection), changes.history)

    def _settle(self, changes: Changes) -> None:
        """Consumes, claims, renews and releases deliveries; only those that are still ours."""
        queue = self._queue(self.service)
        until = micros(changes.claimed_until) if changes.claimed_until is not None else None
        owner = self._claimant.number if self._claimant is not None else None
        handled, brought = by_keeper(changes.handled)
        claimed, suspects = by_keeper(changes.claimed)
        queue.settle(handled, claimed, until, owner)
        queue.renew(by_keeper(changes.renewed)[0], until)
        released = by_keeper(changes.released)[0]
        if released:
            queue.release(released)
            self._rung.add(self.service)
        if brought or suspects:
            self._inbox().note(brought, self.now)
            self._inbox().count(suspects)

    def _queue(self, service: str) -> Queue:
        return Queue(self.tables.queue(service, self.connection), self.connection)

    def _inbox(self) -> Inbox:
        return Inbox(self.tables.queue(self.service, self.connection), self.connection)

    def _write_outbox(self) -> Delivery:
        """One row for all that goes to the broker, claimed for this process from the beginning."""
        queue = self._queue(OUTBOX)
        packet = pack(self._for_broker)
        queue.append([packet])
        row = queue.last()
        queue.settle([], [Delivery(row, packet)], self.now + OUTBOX_LEASE // timedelta(microseconds=1), None)
        return Delivery(row, packet, 1)

    def _save(self, saved: Sequence[Saved]) -> None:
        begun = [s for s in saved if s.version == 0]
        changed = [s for s in saved if s.version != 0]
        now, many = self.now, self.connection.executemany
        try:
            many(
                "INSERT INTO outlast_instances (workflow, key, version, done, conversation, started_at, changed_at, "
                "keep_until, state) VALUES (?, ?, 1, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        self._workflow(s.address),
                        s.address.key,
                        s.done,
                        s.conversation,
                        now,
                        now,
                        micros(s.keep_until) if s.keep_until is not None else None,
                        s.state,
                    )
                    for s in begun
                ],
            )
        except sqlite3.IntegrityError as error:
            raise Conflict(f"an instance of {self.service!r} was started by another turn") from error
        if changed:
            cursor = many(
                "UPDATE outlast_instances SET version = version + 1, done = ?, changed_at = ?, keep_until = ?, "
                "state = ? WHERE id = ? AND version = ?",
                [
                    (
                        s.done,
                        now,
                        micros(s.keep_until) if s.keep_until is not None else None,
                        s.state,
                        self._row(s.address),
                        s.version,
                    )
                    for s in changed
                ],
            )
            if cursor.rowcount != len(changed):
                raise Conflict(f"an instance of {self.service!r} was changed by another turn")
        if begun:
            self._unstash(begun)

    def _row(self, address: Address) -> int:
        """The row of an instance, as `load` found it (or, for one who did not load, now)."""
        row = self._rows.get(address)
        if row is None:
            found = self._all(
                "SELECT id FROM outlast_instances WHERE workflow = ? AND key = ?",
                (self._workflow(address), address.key),
            )
            row = self._rows[address] = found[0][0] if found else -1
        return row

    def _stash(self, stashed: Sequence[Stash]) -> None:
        cursor = self.connection.executemany(
            "INSERT INTO outlast_stash (workflow, key, until, packet) SELECT ?1, ?2, ?3, ?4 WHERE NOT EXISTS "
            "(SELECT 1 FROM outlast_instances WHERE key = ?2 AND workflow = ?1)",
            [(self._workflow(s.address), s.address.key, micros(s.until), s.packet) for s in stashed],
        )
        if cursor.rowcount != len(stashed):
            raise Conflict(f"an instance of {self.service!r} was started by another turn")

    def _unstash(self, begun: Sequence[Saved]) -> None:
        """Puts what waited for these instances back into the queue."""
        if not self._all("SELECT 1 FROM outlast_stash LIMIT 1", ()):
            return
        for saved in begun:
            rows = self._all(
                "DELETE FROM outlast_stash WHERE key = ? AND workflow = ? RETURNING id, packet",
                (saved.address.key, self._workflow(saved.address)),
            )
            queue, new_id = saved.address.service, self.world.new_id
            self._deliver([Parcel(new_id(), packet, queue=queue) for _, packet in sorted(rows)])

    def post(self, parcels: Sequence[Parcel]) -> None:
        """Puts parcels where they belong: queues, the dated ones, waiting requests."""
        at_once: list[Parcel] = []
        dated: list[tuple[int, str, str, str, bytes]] = []
        for parcel in parcels:
            if parcel.once and not self._is_new(parcel.id):
                continue
            if parcel.due is not None and (due := micros(parcel.due)) > self.now:
                dated.append((due, parcel.id, parcel.queue, parcel.topic, parcel.packet))
            else:
                at_once.append(parcel)
        self._deliver(at_once)
        if dated:
            self.connection.executemany("INSERT OR REPLACE INTO outlast_dated VALUES (?, ?, ?, ?, ?)", dated)
            self._rung.add(RELAY)

    def _deliver(self, parcels: Sequence[Parcel]) -> None:
        """Puts parcels without dates where they belong: into the outbox, if a broker has the queues."""
        if self._posted is not None:
            for queue in {parcel.queue for parcel in parcels if parcel.queue}:
                self._queue(queue)  # so that it is listed, also if its service was never up
            self._for_broker += [with_id_of_its_own(parcel, self.world.new_id) for parcel in parcels]
            return
        by_queue: dict[str, list[bytes]] = defaultdict(list)
        subscribers: dict[str, list[str]] | None = None
        for parcel in parcels:
            if parcel.queue:
                by_queue[parcel.queue].append(parcel.packet)
            if parcel.topic:
                if subscribers is None:
                    subscribers = self._subscribers()
                for queue in subscribers.get(parcel.topic, ()):
                    by_queue[queue].append(parcel.packet)
            if parcel.reply_to:
                self._all(
                    "INSERT OR REPLACE INTO outlast_replies VALUES (?, ?, ?)",
                    (parcel.reply_to, self.now, parcel.packet),
                )
                self._rung.add(REPLIES)
        for queue, packets in by_queue.items():
            self._enqueue(queue, packets)

    def _is_new(self, id: str) -> bool:
        return bool(self._all("INSERT OR IGNORE INTO outlast_sent VALUES (?, ?) RETURNING 1", (id, self.now)))

    def _subscribers(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for topic, queue in self._all(
            "SELECT topic, name FROM outlast_topics JOIN outlast_queues ON outlast_queues.id = queue", ()
        ):
            found[topic].append(queue)
        return found

    def _enqueue(self, queue: str, packets: Sequence[bytes]) -> None:
        self._queue(queue).append(packets)
        self._rung.add(queue)

    def deliver_due(self, now: int, limit: int) -> None:
        """Moves dated parcels that are due into their queues, oldest first."""
        rows = self._all(
            "SELECT due, id, queue, topic, packet FROM outlast_dated WHERE due <= ? ORDER BY due, id LIMIT ?",
            (now, limit),
        )
        self.connection.executemany("DELETE FROM outlast_dated WHERE due = ? AND id = ?", [row[:2] for row in rows])
        self.post([Parcel(id, packet, queue=queue, topic=topic) for _, id, queue, topic, packet in rows])

    def expire_stashes(self, now: datetime, limit: int) -> None:
        """Makes dead letters of messages whose instance did not come in time."""
        rows = self._all(
            "SELECT s.id, w.service, w.name, s.key, s.packet FROM outlast_stash s "
            "JOIN outlast_workflows w ON w.id = s.workflow WHERE s.until <= ? ORDER BY s.until LIMIT ?",
            (micros(now), limit),
        )
        self.connection.executemany("DELETE FROM outlast_stash WHERE id = ?", [row[:1] for row in rows])
        self.bury(
            [
                DeadLetter(
                    id=self.world.new_id(),
                    service=service,
                    packet=packet,
                    key=key,
                    reason=f"no {workflow!r} with key {key!r} began within the time that its messages are stashed",
                    at=now,
                )
                for _, service, workflow, key, packet in rows
            ]
        )

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Adds dead letters."""
        self.connection.executemany(
            "INSERT INTO outlast_dead (id, status, service, packet, letter) VALUES (?, 'open', ?, ?, ?)",
            [(d.id, d.service, d.packet, _encode(msgspec.structs.replace(d, packet=b""))) for d in letters],
        )

    def _workflow(self, address: Address) -> int:
        """The number of the instance's workflow; it gets one if it has none."""
        name = (address.service, address.workflow)
        number = self._workflows.get(name) or self.tables.workflow(*name, self.connection)
        if number is None:
            number = int(
                self._all("INSERT INTO outlast_workflows (service, name) VALUES (?, ?) RETURNING id", name)[0][0]
            )
        self._workflows[name] = number
        return number

    def _all(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        try:
            return self.connection.execute(sql, parameters).fetchall()
        except sqlite3.OperationalError as error:
            raise self.tables.unavailable("reading", error) from error
