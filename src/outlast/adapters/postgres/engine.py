"""The engine on PostgreSQL: many turns at once, in many processes, each with a transaction of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from outlast.adapters.postgres import deaths
from outlast.adapters.postgres.bell import Errands, Listening
from outlast.adapters.postgres.callers import IDENTITY, check_schema, session_on
from outlast.adapters.postgres.connections import OwnConnection, Places, Server, asyncpg
from outlast.adapters.postgres.inspector import PostgresInspector
from outlast.adapters.postgres.intake import Intake, Pending
from outlast.adapters.postgres.names import Names, Numbers
from outlast.adapters.postgres.relaying import deliver_due, expire_stashes, return_stashes
from outlast.adapters.postgres.schema import micros, moment, prepare, read, script, within, written
from outlast.adapters.postgres.sessions import OwnSession, Session
from outlast.adapters.postgres.trouble import attempting
from outlast.adapters.postgres.url import options_of
from outlast.adapters.postgres.work import PostgresWork
from outlast.errors import Unavailable
from outlast.ports import Changes, Delivery, Posted, World

DEATHS_SECONDS = 1.0
TRUST_SECONDS = 5.0
"""When our own connection was lost, others have probably lost theirs: so long they are not taken for dead."""
STASH_MET = timedelta(minutes=1)
AGAIN = timedelta(milliseconds=50)
TURNS_AT_ONCE = 3
OWN_PLACES = 4
"""Connections beside those of turns: for the relay, for rings and notes, for looking into things."""

_NEXT = "SELECT (SELECT min(due) FROM outlast.dated), (SELECT min(until) FROM outlast.stash)"
_REPLY = "DELETE FROM outlast.replies WHERE request = $1 RETURNING packet"
_TOPICS_OFF = "DELETE FROM outlast.topics WHERE queue = $1 AND topic <> ALL($2::text[])"
_TOPICS_ON = "INSERT INTO outlast.topics (topic, queue) SELECT unnest($2::text[]), $1 ON CONFLICT DO NOTHING"
_TOPICS = "SELECT t.topic FROM outlast.topics t JOIN outlast.queues q ON q.id = t.queue WHERE q.name = $1"
_TRIES = """
    SELECT t.id, t.count FROM outlast.tries t JOIN outlast.queues q ON q.id = t.queue
    WHERE q.name = $1 AND t.id = ANY($2::text[])"""
_AT_WORK = """
    INSERT INTO outlast.workers (number, queue, first, last) SELECT $1, unnest($2::integer[]), 1, 0
    ON CONFLICT DO NOTHING"""
_STOPPED = "DELETE FROM outlast.workers WHERE number = $1"


class PostgresEngine:
    """One process's connections to the database. Nothing is opened before it is needed."""

    connection_type: type[Any] | None = asyncpg.Connection
    connection_waits = True

    def __init__(self, url: str, world: World) -> None:
        options = options_of(url)
        self.world = world
        self.schema = schema = options.schema
        self.where = where = options.where
        self.posted: Posted | None = None
        """Set where a broker has the queues; see `ports.Store`."""
        self.services: dict[str, int] = {}
        """The services that this process has declared, and the numbers of their queues."""
        self.names = Names(schema)
        server = Server(options.dsn, where, synchronous_commit=options.synchronous_commit, dice=world.dice)
        self._server = server
        self._turns = Places(lambda: server.connect(plans=True), options.pool, where=where)
        self.own = Places(lambda: server.connect(plans=True), OWN_PLACES, where=where)
        token = world.new_id()
        self._listening = Listening(self._connect_ears, schema=schema, token=token, dice=world.dice)
        self._listening.on_return = self._came_back
        self._errands = Errands(self.own, schema=schema, token=token)
        self._intake = Intake(self.session, self.names, world, where=where)
        self._preparing = asyncio.Lock()
        self._is_prepared = False
        self._identity: Sequence[Any] = ()
        self._looked_for_dead_at = 0.0
        self._orphans_at: float | None = None
        """When to look for claims that a server which fell has forgotten the owners of; once after each return."""

    @property
    def trouble(self) -> str:
        """What does not work at the moment; empty when all is well."""
        return self._server.trouble

    @property
    def turns_at_once(self) -> int:
        """Several, as long as that leaves connections for others."""
        return TURNS_AT_ONCE if self._turns.has_plenty else 1

    def inspector(self) -> PostgresInspector:
        """What operators use to look into it."""
        return PostgresInspector(self)

    async def declare(self, service: str, topics: Sequence[str]) -> None:
        session = await self.session()
        try:
            with attempting(f"declaring {service!r}", where=self.where):
                await session.begin()
                numbers = Numbers(self.names, session)
                queue = await numbers.queue(service)
                await session.fetch(within(self.schema, _TOPICS_OFF), queue, list(topics))
                await session.fetch(within(self.schema, _TOPICS_ON), queue, list(topics))
                await deaths.give_back(session, self.schema, [queue], self._listening.number)
                await session.commit()
        except BaseException:
            await session.rollback()
            raise
        numbers.committed()
        number = await self._listening.hold()
        await self._errands.open()
        await self.fetch("declaring a worker", _AT_WORK, number, [queue])
        self.services[service] = queue
        queues = list(self.services.values())
        self._has_seen(await self.fetch("looking for other workers", deaths.OTHERS, queues, number))
        self._orphans_at = asyncio.get_running_loop().time() + TRUST_SECONDS

    async def receive(self, service: str, limit: int) -> Sequence[Delivery]:
        rows = await self._intake.receive(service, limit)
        if rows:
            self._note(service, rows[0][0], rows[-1][0])
        return [Delivery(id, packet, count) for id, packet, count in rows]

    def _note(self, service: str, first: int, last: int) -> None:
        """Lets others know what turns are about, these and those that are under way."""
        if self._listening.number is not None and service in self.services:
            lowest, highest = self._intake.under_way(service)
            if highest:
                first, last = min(first, lowest), max(last, highest)
            self._errands.note(self._listening.number, self.services[service], first, last)

    async def begin(self, service: str) -> PostgresWork:
        pending = self._intake.begin(service)
        if pending is None:
            return self._work(await self.session(), service)
        return self._work(pending.session, service, pending)

    async def begin_on(self, connection: Any) -> PostgresWork:
        """A transaction on the caller's own connection to this database, so that its rows commit with the messages."""
        if not self._identity:
            [self._identity] = await self.fetch("looking which database it is", IDENTITY)
        with attempting("beginning a transaction on your connection", where=self.where):
            session = await session_on(connection)
            await session.begin()
            try:
                await check_schema(session, self.schema, self._identity, self.where)
            except BaseException:
                await session.rollback()
                raise
        return self._work(session, "")

    def _work(self, session: Session, service: str, pending: Pending | None = None) -> PostgresWork:
        return PostgresWork(
            session,
            self.names,
            self.world,
            service=service,
            where=self.where,
            owner=self._listening.number,
            pending=pending,
            note=self._note,
            committed=lambda changes, rung: self._was_committed(service, changes, rung),
            posted=self.posted,
        )

    def _was_committed(self, service: str, changes: Changes, rung: set[str]) -> None:
        if changes.released:
            self._intake.look_back(service)
        if rung:
            self._listening.told(rung)
            self._errands.ring(rung)

    async def topics(self, service: str) -> Sequence[str]:
        return [topic for (topic,) in await self.fetch("looking for topics", _TOPICS, service)]

    async def tries(self, service: str, ids: Sequence[str]) -> Mapping[str, int]:
        rows = await self.fetch("looking for suspects", _TRIES, service, [written(id) for id in ids])
        return {read(id): count for id, count in rows}

    async def acknowledge(self, service: str, deliveries: Sequence[Delivery]) -> None:
        pass

    async def relay(self, now: datetime, limit: int) -> datetime | None:
        session = await self.session(self.own)
        work = self._work(session, "")
        try:
            with attempting("looking for what is due", where=self.where):
                [[due, until]] = await session.fetch(within(self.schema, _NEXT))
                freed = await self._look_for_dead(session)
                moved = 0
                if until is not None:
                    moved += await return_stashes(work, micros(now - STASH_MET))
                stamp = micros(now)
                if due is not None and due <= stamp:
                    moved += await deliver_due(work, stamp, limit)
                if until is not None and until <= stamp:
                    moved += await expire_stashes(work, now, limit)
            await work.commit(Changes())
        except BaseException:
            await work.rollback()
            raise
        self._was_committed("", Changes(), {name for name, queue in self.services.items() if queue in freed})
        if moved:
            return now
        next_at = min((moment(at) for at in (due, until) if at is not None), default=None)
        if next_at is not None and next_at <= now:
            return now + AGAIN  # what is due and was not to be had is in the hands of another relay
        return next_at

    async def _look_for_dead(self, session: OwnSession) -> set[int]:
        clock = asyncio.get_running_loop().time()
        if not self.services or clock < self._looked_for_dead_at + DEATHS_SECONDS:
            return set()
        self._looked_for_dead_at = clock
        await session.begin()
        queues = self.services.values()
        freed = await deaths.give_back(session, self.schema, queues, self._listening.number)
        if self._orphans_at is not None and clock >= self._orphans_at:
            freed |= await deaths.free_orphans(session, self.schema, queues)
            self._orphans_at = None
        self._has_seen(await session.fetch(within(self.schema, deaths.OTHERS), list(queues), self._listening.number))
        return freed

    def _has_seen(self, others: Sequence[Any]) -> None:
        """These queues other processes have as well."""
        shared = {queue for (queue,) in others}
        self._intake.alone = {service for service, queue in self.services.items() if queue not in shared}

    def listen(self, name: str, notify: Callable[[], None]) -> None:
        self._listening.listen(name, notify)

    def reply_to(self, request: str) -> str:
        return request

    async def reply(self, request: str) -> bytes | None:
        rows = await self.fetch("looking for an answer", _REPLY, written(request))
        return rows[0][0] if rows else None

    async def fetch(self, attempt: str, sql: str, *values: Any) -> Sequence[Any]:
        """One statement in a transaction of its own, on a connection that no turn waits for."""
        session = await self.session(self.own)
        try:
            with attempting(attempt, where=self.where):
                return await session.fetch(within(self.schema, sql), *values)
        finally:
            await session.rollback()

    async def session(self, places: Places | None = None) -> OwnSession:
        """A connection, once the schema is known to be there. Raises `Unavailable`."""
        places = places or self._turns
        if not self._is_prepared:
            await self._prepare()
        return OwnSession(await places.take(), places.give_back)

    def schema_sql(self) -> str:
        return script(self.schema)

    async def migrate(self) -> None:
        await self._prepare()

    async def _prepare(self) -> None:
        async with self._preparing:
            if self._is_prepared:
                return
            connection = await self.own.take()
            try:
                with attempting(f"preparing the schema {self.schema!r}", where=self.where):
                    await prepare(connection, self.schema)
                self._is_prepared = True
            finally:
                self.own.give_back(connection)

    async def _connect_ears(self) -> OwnConnection:
        if not self._is_prepared:
            await self._prepare()
        return await self._server.connect(plans=False, application_name="outlast listens")

    async def _came_back(self) -> None:
        self._looked_for_dead_at = self._orphans_at = asyncio.get_running_loop().time() + TRUST_SECONDS
        await self.fetch("declaring a worker", _AT_WORK, self._listening.number, list(self.services.values()))
        await self._errands.open()

    async def close(self) -> None:
        await self._intake.close()
        await self._errands.close()
        if self._listening.number is not None:
            with suppress(Unavailable):  # then others find out that we are gone
                await self.fetch("taking leave", _STOPPED, self._listening.number)
        await self._listening.close()
        await self._turns.close()
        await self.own.close()
        self._server.end()
        await asyncio.sleep(0)  # lets what the driver had to break off end
