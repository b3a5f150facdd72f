"""The engine on SQLite: one writer at a time, so a transaction that has begun owns whatever it reads."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from outlast.adapters.sqlite.bell import Bell
from outlast.adapters.sqlite.schema import QUEUE, SharedConnection, connect, micros, moment, run_script
from outlast.core.recovery import Patience
from outlast.errors import Conflict, Misuse, Unavailable
from outlast.ports import RELAY, REPLIES, Address, Changes, DeadLetter, Delivery, Parcel, Receipt, Saved, Stored, World

SUSPECTS = 256
"""How many messages at the head of a queue a worker that died may have been handling."""

LOCK_WAIT_SECONDS = 10.0

_encode = msgspec.json.Encoder().encode


class SqliteEngine:
    """One process's connection to the file. `synchronous=FULL`: what is committed survives a power cut."""

    connection_type: type[Any] | None = sqlite3.Connection

    def __init__(self, path: Path, world: World, *, synchronous: str = "FULL") -> None:
        self.path = path
        self.world = world
        self.connection: SharedConnection = connect(path, synchronous=synchronous)
        self.bell = Bell(path.with_name(path.name + "-wake"))
        self.lock = asyncio.Lock()
        self.services: dict[str, str] = {}
        """The services that this process has declared, and under which name each claims deliveries."""
        self._listeners: dict[str, list[Callable[[], None]]] = defaultdict(list)
        self._queues: dict[str, int] = {}
        self._workflows: dict[tuple[str, str], int] = {}

    async def declare(self, service: str, topics: Sequence[str]) -> None:
        work = await self.begin(service)
        try:
            queue = self.queue_id(service)
            execute = self.connection.execute
            execute("DELETE FROM outlast_topics WHERE queue = ?", (queue,))
            self.connection.executemany("INSERT INTO outlast_topics VALUES (?, ?)", [(t, queue) for t in topics])
            dead = self._give_back_what_the_dead_had(service)
            await work.commit(Changes())
        except BaseException:
            await work.rollback()
            raise
        self.bell.remove(dead)
        self.services[service] = self.bell.hang(
            service, id=self.world.new_id(), notify=lambda: self._notify(service)
        )

    def _give_back_what_the_dead_had(self, service: str) -> list[str]:
        """Within a transaction: frees the claims of processes that died; returns the names of their FIFOs."""
        dead = self.bell.dead(service)
        if dead:
            table = self.table(service)
            self.connection.executemany(
                f"UPDATE {table} SET claimed_until = NULL, owner = NULL WHERE owner = ?", [(name,) for name in dead]
            )
            self.connection.execute(
                f"UPDATE {table} SET count = count + 1 WHERE count < ? AND id IN "
                f"(SELECT id FROM {table} ORDER BY id LIMIT ?)",
                (Patience().alone_after, SUSPECTS),
            )
        return dead

    async def receive(self, service: str, limit: int) -> Sequence[Delivery]:
        try:
            rows = self.connection.execute(
                f"SELECT id, packet, count FROM {self.table(service)} "
                "WHERE claimed_until IS NULL OR claimed_until <= ? ORDER BY id LIMIT ?",
                (micros(self.world.now()), limit),
            ).fetchall()
        except sqlite3.OperationalError as error:
            raise self.unavailable("reading the queue", error) from error
        return [Delivery(id, packet, count) for id, packet, count in rows]

    async def begin(self, service: str) -> SqliteWork:
        return await self._begin(service, self.connection)

    async def begin_on(self, connection: sqlite3.Connection) -> SqliteWork:
        """A transaction on the caller's own connection to this file, so that its rows commit with the messages."""
        (_, _, file), *_ = connection.execute("PRAGMA database_list").fetchall()
        if not file or not os.path.samefile(file, self.path):
            raise Misuse(
                f"the connection is open on {file or 'memory'!r} and the messages are in {str(self.path)!r}. Only "
                "rows in the engine's own file can commit together with messages; connect to that one."
            )
        if connection.in_transaction:
            raise Misuse(
                "the connection is in a transaction already. Commit it first: rows and messages commit together "
                "only in the transaction that client.transaction begins."
            )
        return await self._begin("", connection)

    async def _begin(self, service: str, connection: sqlite3.Connection) -> SqliteWork:
        await self.lock.acquire()
        try:
            await self._begin_immediate(connection)
        except BaseException:
            self.lock.release()
            raise
        return SqliteWork(self, service, connection)

    async def _begin_immediate(self, connection: sqlite3.Connection) -> None:
        """Takes SQLite's write lock. Short sleeps of our own: `busy_timeout` can starve a process for seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LOCK_WAIT_SECONDS
        tries = 0
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) and "busy" not in str(error):
                    raise self.unavailable("beginning a transaction", error) from error
                if loop.time() > deadline:
                    raise self.unavailable(f"waiting {LOCK_WAIT_SECONDS:.0f} s for the write lock", error) from error
            else:
                return
            tries += 1
            if tries <= 10:
                # An event loop sleeps a millisecond at least, several times as long as most transactions take.
                time.sleep(0.0002)  # noqa: ASYNC251
            else:
                await asyncio.sleep(0.001)

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        pass

    async def relay(self, now: datetime, limit: int) -> datetime | None:
        execute = self.connection.execute
        stamp = micros(now)
        try:
            due = execute("SELECT min(due) FROM outlast_dated").fetchone()[0]
            until = execute("SELECT min(until) FROM outlast_stash").fetchone()[0]
        except sqlite3.OperationalError as error:
            raise self.unavailable("looking for what is due", error) from error
        died = [service for service in self.services if self.bell.dead(service)]
        if not died and (due is None or due > stamp) and (until is None or until > stamp):
            return min((moment(at) for at in (due, until) if at is not None), default=None)
        work = await self.begin("")
        try:
            dead = [name for service in died for name in self._give_back_what_the_dead_had(service)]
            work.deliver_due(stamp, limit)
            work.expire_stashes(now, limit)
            await work.commit(Changes())
        except BaseException:
            await work.rollback()
            raise
        self.bell.remove(dead)
        return now

    def listen(self, name: str, notify: Callable[[], None]) -> None:
        self._listeners[name].append(notify)
        if name in (RELAY, REPLIES) and len(self._listeners[name]) == 1:
            self.bell.hang(name, id=self.world.new_id(), notify=lambda: self._notify(name))

    def _notify(self, name: str) -> None:
        for notify in self._listeners[name]:
            notify()

    async def reply(self, request: str) -> bytes | None:
        found = self.connection.execute("SELECT packet FROM outlast_replies WHERE request = ?", (request,)).fetchone()
        if found is None:
            return None
        work = await self.begin("")
        self.connection.execute("DELETE FROM outlast_replies WHERE request = ?", (request,))
        await work.commit(Changes())
        packet: bytes = found[0]
        return packet

    async def close(self) -> None:
        self.bell.close()
        self.connection.really_close()

    def table(self, service: str) -> str:
        """The name of a queue's table: made of a number of ours, never of anything from outside."""
        return f"outlast_queue_{self.queue_id(service)}"

    def queue_id(self, service: str, connection: sqlite3.Connection | None = None) -> int:
        """The number of a queue; it is made if there is none (within a transaction, or in one of its own)."""
        known = self._queues.get(service)
        if known is not None:
            return known
        connection = connection or self.connection
        execute = connection.execute
        found = execute("SELECT id FROM outlast_queues WHERE name = ?", (service,)).fetchone()
        if found is None:
            execute("SAVEPOINT outlast_queue")
            id: int = execute(
                "INSERT INTO outlast_queues (name) VALUES (?) ON CONFLICT (name) DO UPDATE SET name = name RETURNING id",
                (service,),
            ).fetchone()[0]
            run_script(connection, QUEUE.format(id=id))
            execute("RELEASE outlast_queue")
            # Not remembered before it is committed: the transaction may be rolled back yet.
            return id
        if not connection.in_transaction:
            self._queues[service] = found[0]
        return found[0]  # type: ignore[no-any-return]

    def workflow_id(self, service: str, workflow: str) -> int | None:
        """The number of a workflow, if it has ever been stored."""
        known = self._workflows.get((service, workflow))
        if known is None:
            found = self.connection.execute(
                "SELECT id FROM outlast_workflows WHERE service = ? AND name = ?", (service, workflow)
            ).fetchone()
            if found is None:
                return None
            known = found[0]
            if not self.connection.in_transaction:
                self._workflows[service, workflow] = known
        return known

    def unavailable(self, attempt: str, error: BaseException) -> Unavailable:
        """The error for a failure of the file or the disk."""
        return Unavailable(
            f"{attempt} on {self.path} failed: {error}. Nothing was changed, and it is tried again. Look for a full "
            "or read-only disk, or a process that holds the file locked."
        )


class SqliteWork:
    """A write transaction. It has begun when it is made, so everything it reads stays as it is until the end."""

    def __init__(self, engine: SqliteEngine, service: str, connection: sqlite3.Connection) -> None:
        self.engine = engine
        self.service = service
        self.connection = connection
        self.now = micros(engine.world.now())
        self._is_open = True
        self._rung: set[str] = set()
        self._rows: dict[Address, int] = {}

    async def first_sight(self, deliveries: Sequence[Delivery]) -> set[Receipt]:
        rows = self._all(
            f"SELECT id, count FROM {self.engine.table(self.service)} WHERE id IN (SELECT value FROM json_each(?))",
            (_encode([delivery.receipt for delivery in deliveries]).decode(),),
        )
        counts: dict[Receipt, int] = dict(rows)
        return {d.receipt for d in deliveries if counts.get(d.receipt) == d.count}

    async def load(self, addresses: Sequence[Address]) -> Mapping[Address, Stored]:
        found: dict[Address, Stored] = {}
        keys: dict[tuple[str, str], list[str]] = defaultdict(list)
        for address in addresses:
            keys[address.service, address.workflow].append(address.key)
        for (service, workflow), wanted in keys.items():
            id = self.engine.workflow_id(service, workflow)
            if id is None:
                continue
            rows = self._all(
                "SELECT key, id, version, done, state FROM outlast_instances "
                "WHERE workflow = ? AND key IN (SELECT value FROM json_each(?))",
                (id, _encode(wanted).decode()),
            )
            for key, row, version, done, state in rows:
                address = Address(service, workflow, key)
                self._rows[address] = row
                found[address] = Stored(state, version, bool(done))
        return found

    @contextmanager
    def savepoint(self) -> Iterator[sqlite3.Connection]:
        execute = self.connection.execute
        execute("SAVEPOINT outlast_handler")
        try:
            yield self.connection
        except BaseException as error:
            if not self.connection.in_transaction:
                # A full disk, for one, makes SQLite end the whole transaction; what others did in it is gone too.
                raise self.engine.unavailable("running a handler's statement", error) from error
            execute("ROLLBACK TO outlast_handler")
            execute("RELEASE outlast_handler")
            raise
        try:
            execute("RELEASE outlast_handler")
        except sqlite3.OperationalError as error:
            raise self.engine.unavailable("ending a handler's part (it ended the transaction itself)", error) from error

    async def commit(self, changes: Changes) -> None:
        try:
            self._write(changes)
            if not self.connection.in_transaction:
                raise self.engine.unavailable("committing", RuntimeError("the transaction had been ended already"))
            self.connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            await self.rollback()
            raise self.engine.unavailable("committing", error) from error
        except BaseException:
            await self.rollback()
            raise
        self._end()
        self.engine.bell.ring(self._rung)

    async def rollback(self) -> None:
        if self._is_open:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            self._end()

    def _end(self) -> None:
        self._is_open = False
        self.engine.lock.release()

    def _write(self, changes: Changes) -> None:
        if changes.handled or changes.claimed or changes.renewed or changes.released:
            self._settle(changes)
        if changes.saved:
            self._save(changes.saved)
        if changes.parcels:
            self.post(changes.parcels)
        many = self.connection.executemany
        if changes.withdrawn:
            many(
                "DELETE FROM outlast_dated WHERE due = ? AND id = ?",
                [(micros(letter.due), letter.id) for letter in changes.withdrawn],
            )
        if changes.stashed:
            many(
                "INSERT INTO outlast_stash (workflow, key, until, packet) VALUES (?, ?, ?, ?)",
                [
                    (self._workflow(s.address), s.address.key, micros(s.until), s.packet)
                    for s in changes.stashed
                ],
            )
        if changes.dead:
            self.bury(changes.dead)
        if changes.history:
            last = changes.history[0].at
            stamp = micros(last)
            many(
                "INSERT INTO outlast_history (conversation, at, service, outcome, workflow, key, note, packet) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        e.conversation,
                        stamp if e.at is last else micros(e.at),
                        e.service,
                        e.outcome,
                        e.workflow,
                        e.key,
                        e.note,
                        e.packet,
                    )
                    for e in changes.history
                ],
            )

    def _settle(self, changes: Changes) -> None:
        """Consumes, claims, renews and releases deliveries; only those that are still ours."""
        many, table = self.connection.executemany, self.engine.table(self.service)
        if changes.handled:
            cursor = many(
                f"DELETE FROM {table} WHERE id = ? AND count = ?", [(d.receipt, d.count) for d in changes.handled]
            )
            if cursor.rowcount != len(changes.handled):
                raise Conflict(f"a delivery of {self.service!r} was taken by another turn")
        until = micros(changes.claimed_until) if changes.claimed_until is not None else None
        if changes.claimed:
            owner = self.engine.services.get(self.service)
            cursor = many(
                f"UPDATE {table} SET count = count + 1, claimed_until = ?, owner = ? WHERE id = ? AND count = ?",
                [(until, owner, d.receipt, d.count) for d in changes.claimed],
            )
            if cursor.rowcount != len(changes.claimed):
                raise Conflict(f"a delivery of {self.service!r} was claimed by another turn")
        many(
            f"UPDATE {table} SET claimed_until = ? WHERE id = ? AND count = ?",
            [(until, d.receipt, d.count) for d in changes.renewed],
        )
        many(
            f"UPDATE {table} SET count = count - 1, claimed_until = NULL, owner = NULL WHERE id = ? AND count = ?",
            [(d.receipt, d.count) for d in changes.released],
        )
        if changes.released:
            self._rung.add(self.service)

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

    def _unstash(self, begun: Sequence[Saved]) -> None:
        """Puts what waited for these instances back into the queue."""
        if not self._all("SELECT 1 FROM outlast_stash LIMIT 1", ()):
            return
        for saved in begun:
            rows = self._all(
                "DELETE FROM outlast_stash WHERE key = ? AND workflow = ? RETURNING id, packet",
                (saved.address.key, self._workflow(saved.address)),
            )
            self._enqueue(saved.address.service, [packet for _, packet in sorted(rows)])

    def post(self, parcels: Sequence[Parcel]) -> None:
        """Puts parcels where they belong: queues, the dated ones, waiting requests."""
        by_queue: dict[str, list[bytes]] = defaultdict(list)
        subscribers: dict[str, list[str]] | None = None
        dated: list[tuple[int, str, str, str, bytes]] = []
        for parcel in parcels:
            if parcel.once and not self._is_new(parcel.id):
                continue
            if parcel.due is not None and (due := micros(parcel.due)) > self.now:
                dated.append((due, parcel.id, parcel.queue, parcel.topic, parcel.packet))
                continue
            if parcel.queue:
                by_queue[parcel.queue].append(parcel.packet)
            if parcel.topic:
                if subscribers is None:
                    subscribers = self._subscribers()
                for queue in subscribers.get(parcel.topic, ()):
                    by_queue[queue].append(parcel.packet)
            if parcel.reply_to:
                self._all("INSERT OR REPLACE INTO outlast_replies VALUES (?, ?, ?)", (parcel.reply_to, self.now, parcel.packet))
                self._rung.add(REPLIES)
        for queue, packets in by_queue.items():
            self._enqueue(queue, packets)
        if dated:
            self.connection.executemany("INSERT OR REPLACE INTO outlast_dated VALUES (?, ?, ?, ?, ?)", dated)
            self._rung.add(RELAY)

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
        if not packets:
            return
        id = self.engine.queue_id(queue, self.connection)
        after: int = self._all(
            "UPDATE outlast_queues SET next = next + ? WHERE id = ? RETURNING next", (len(packets), id)
        )[0][0]
        self.connection.executemany(
            f"INSERT INTO outlast_queue_{id} (id, packet) VALUES (?, ?)",
            enumerate(packets, start=after - len(packets)),
        )
        self._rung.add(queue)

    def deliver_due(self, now: int, limit: int) -> None:
        """Moves dated parcels that are due into their queues, oldest first."""
        rows = self._all(
            "SELECT due, id, queue, topic, packet FROM outlast_dated WHERE due <= ? ORDER BY due, id LIMIT ?", (now, limit)
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
                    id=self.engine.world.new_id(),
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
            [
                (d.id, d.service, d.packet, _encode(msgspec.structs.replace(d, packet=b"")))
                for d in letters
            ],
        )

    def _workflow(self, address: Address) -> int:
        id = self.engine.workflow_id(address.service, address.workflow)
        if id is None:
            id = self._all(
                "INSERT INTO outlast_workflows (service, name) VALUES (?, ?) RETURNING id",
                (address.service, address.workflow),
            )[0][0]
        return id  # type: ignore[no-any-return]

    def _all(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        try:
            return self.connection.execute(sql, parameters).fetchall()
        except sqlite3.OperationalError as error:
            raise self.engine.unavailable("reading", error) from error
