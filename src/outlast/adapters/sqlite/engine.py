"""The engine on SQLite: one writer at a time, so a transaction that has begun owns whatever it reads."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from outlast.adapters.sqlite.bell import Bell
from outlast.adapters.sqlite.claimant import Claimant, handled_by_dead, note_of
from outlast.adapters.sqlite.inbox import Inbox
from outlast.adapters.sqlite.queues import Queue
from outlast.adapters.sqlite.schema import BEGIN, SharedConnection, connect, micros, moment, plainly
from outlast.adapters.sqlite.tables import Tables
from outlast.adapters.sqlite.work import SqliteWork
from outlast.core.recovery import Patience
from outlast.errors import Misuse
from outlast.ports import RELAY, REPLIES, Changes, Delivery, Posted, World

LOCK_WAIT_SECONDS = 10.0


class SqliteEngine:
    """One process's connection to the file. `synchronous=FULL`: what is committed survives a power cut."""

    connection_type: type[Any] | None = sqlite3.Connection
    connection_waits = False
    turns_at_once = 1
    trouble = ""

    def __init__(self, path: Path, world: World, *, synchronous: str = "FULL") -> None:
        self.path = path
        self.world = world
        self.connection: SharedConnection = connect(path, synchronous=synchronous)
        self._beside = path.with_name(path.name + "-wake")
        self.bell = Bell(self._beside)
        self.lock = asyncio.Lock()
        self.services: dict[str, Claimant] = {}
        """The services that this process has declared, and under which number each claims deliveries."""
        self.posted: Posted | None = None
        """Set where a broker has the queues; see `ports.Store`."""
        self._listeners: dict[str, list[Callable[[], None]]] = defaultdict(list)
        self._tables = Tables(path)

    async def declare(self, service: str, topics: Sequence[str]) -> None:
        work = await self.begin(service)
        try:
            queue = self._tables.queue(service, self.connection)
            execute = self.connection.execute
            execute("DELETE FROM outlast_topics WHERE queue = ?", (queue,))
            self.connection.executemany("INSERT INTO outlast_topics VALUES (?, ?)", [(t, queue) for t in topics])
            dead = self._give_back_what_the_dead_had(service)
            await work.commit(Changes())
        except BaseException:
            await work.rollback()
            raise
        self._forget(dead)
        if service not in self.services:
            # First the note: a process that is found dead has one.
            claimant = self.services[service] = Claimant(self._beside, service, self._new_number())
            self._hang(service, claimant.number)

    def _new_number(self) -> int:
        return int(self.world.dice() * (1 << 52))

    def _hang(self, name: str, number: int) -> None:
        """Makes this process wake up when someone rings for `name`."""
        self.bell.hang(name, number, notify=lambda: self._notify(name))

    def _give_back_what_the_dead_had(self, service: str) -> list[str]:
        """Within a transaction: frees the claims of processes that died; returns the names of their FIFOs."""
        dead = self.bell.dead(service)
        if dead:
            queue = Queue(self._tables.queue(service, self.connection), self.connection)
            for name in dead:
                handled = handled_by_dead(self._beside, name)
                if handled is not None:
                    queue.suspect(*handled, alone_after=Patience().alone_after)
                queue.free(int(name.rpartition(".")[2]))
        return dead

    def _forget(self, dead: Sequence[str]) -> None:
        """Takes away what processes that died left beside the file."""
        for name in dead:
            note_of(self._beside, name).unlink(missing_ok=True)
        self.bell.remove(dead)

    async def receive(self, service: str, limit: int) -> Sequence[Delivery]:
        try:
            queue = Queue(self._tables.queue(service, self.connection), self.connection)
            rows = queue.waiting(micros(self.world.now()), limit)
        except sqlite3.OperationalError as error:
            raise self._tables.unavailable("reading the queue", error) from error
        return [Delivery(id, packet, count) for id, packet, count in rows]

    async def begin(self, service: str) -> SqliteWork:
        return await self._begin(service, self.connection)

    async def begin_on(self, connection: sqlite3.Connection) -> SqliteWork:
        """A transaction on the caller's own connection to this file, so that its rows commit with the messages."""
        with plainly(connection):
            (_, _, file), *_ = connection.execute("PRAGMA database_list").fetchall()
            [[patience]] = connection.execute("PRAGMA busy_timeout").fetchall()
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
        # Ours is the waiting: the driver's own would hold up the event loop, five seconds unless told otherwise.
        connection.execute("PRAGMA busy_timeout = 0")
        try:
            return await self._begin("", connection)
        finally:
            connection.execute(f"PRAGMA busy_timeout = {patience}")

    async def _begin(self, service: str, connection: sqlite3.Connection) -> SqliteWork:
        await self.lock.acquire()
        try:
            await self._begin_immediate(connection)
        except BaseException:
            self.lock.release()
            raise
        return SqliteWork(
            connection,
            self._tables,
            service=service,
            world=self.world,
            claimant=self.services.get(service),
            ended=self.lock.release,
            ring=self.bell.ring,
            posted=self.posted,
        )

    async def _begin_immediate(self, connection: sqlite3.Connection) -> None:
        """Takes SQLite's write lock. Short sleeps of our own: `busy_timeout` can starve a process for seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LOCK_WAIT_SECONDS
        tries = 0
        while True:
            try:
                connection.execute(BEGIN)
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) and "busy" not in str(error):
                    raise self._tables.unavailable("beginning a transaction", error) from error
                if loop.time() > deadline:
                    raise self._tables.unavailable(
                        f"waiting {LOCK_WAIT_SECONDS:.0f} s for the write lock", error
                    ) from error
            else:
                return
            tries += 1
            if tries <= 10:
                # An event loop sleeps a millisecond at least, several times as long as most transactions take.
                time.sleep(0.0002)  # noqa: ASYNC251
            else:
                await asyncio.sleep(0.001)

    async def topics(self, service: str) -> Sequence[str]:
        rows = self.connection.execute(
            "SELECT topic FROM outlast_topics JOIN outlast_queues ON outlast_queues.id = queue WHERE name = ?",
            (service,),
        )
        return [topic for (topic,) in rows]

    async def tries(self, service: str, ids: Sequence[str]) -> Mapping[str, int]:
        return Inbox(self._tables.queue(service, self.connection), self.connection).tries(ids)

    async def acknowledge(self, service: str, deliveries: Sequence[Delivery]) -> None:
        pass

    async def relay(self, now: datetime, limit: int) -> datetime | None:
        execute = self.connection.execute
        stamp = micros(now)
        try:
            due = execute("SELECT min(due) FROM outlast_dated").fetchone()[0]
            until = execute("SELECT min(until) FROM outlast_stash").fetchone()[0]
        except sqlite3.OperationalError as error:
            raise self._tables.unavailable("looking for what is due", error) from error
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
        self._forget(dead)
        return now

    def listen(self, name: str, notify: Callable[[], None]) -> None:
        self._listeners[name].append(notify)
        if name in (RELAY, REPLIES) and len(self._listeners[name]) == 1:
            self._forget(self.bell.dead(name))
            self._hang(name, self._new_number())

    def _notify(self, name: str) -> None:
        for notify in self._listeners[name]:
            notify()

    def reply_to(self, request: str) -> str:
        return request

    async def reply(self, request: str) -> bytes | None:
        found = self.connection.execute("SELECT packet FROM outlast_replies WHERE request = ?", (request,)).fetchone()
        if found is None:
            return None
        work = await self.begin("")
        try:
            self.connection.execute("DELETE FROM outlast_replies WHERE request = ?", (request,))
            await work.commit(Changes())
        except BaseException:
            await work.rollback()
            raise
        packet: bytes = found[0]
        return packet

    async def close(self) -> None:
        self.bell.close()
        for claimant in self.services.values():
            claimant.close()
        self.connection.really_close()
