"""What waits in the queues: locked when it is looked at, until a turn begins that is about it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from outlast.adapters.postgres.connections import Places
from outlast.adapters.postgres.names import Names, Numbers
from outlast.adapters.postgres.schema import micros, within
from outlast.adapters.postgres.sessions import OwnSession
from outlast.adapters.postgres.trouble import attempting
from outlast.errors import Unavailable
from outlast.ports import Receipt, World

HELD_SECONDS = 0.05
"""How long what was received is kept from others, for a turn to begin."""
HELD_SECONDS_EMPTY = 0.005
AHEAD_SECONDS = 0.5
"""How long what was taken ahead is kept from others, while the turn before it goes on."""
LOOK_BACK_SECONDS = 1.0
"""How long at most a message waits that was committed after one with a higher number."""

_TAKE = """
    SELECT id, packet, count FROM outlast.messages
    WHERE queue = $1 AND id > $2 AND (claimed_until IS NULL OR claimed_until <= $3)
    ORDER BY id LIMIT $4 FOR UPDATE SKIP LOCKED"""


@dataclass(slots=True)
class Pending:
    """The transaction in which something is locked, waiting for a turn to begin."""

    session: OwnSession
    rows: Sequence[Any]
    look_ahead: Callable[[], None]
    """To be called by a turn that is about all of them, for there are probably more."""
    timer: asyncio.TimerHandle | None = None

    @property
    def locked(self) -> dict[Receipt, int]:
        """How often each was handed over, by id."""
        return {id: count for id, _, count in self.rows}

    async def let_go(self) -> None:
        """Others may have it."""
        if self.timer is not None:
            self.timer.cancel()
        await self.session.rollback()


@dataclass(slots=True)
class Edge:
    """Up to here a queue has nothing for us, as far as we know: what was deleted there is not walked over again."""

    id: int = 0
    valid_until: float = 0.0


class Intake:
    """Locks what waits, batch by batch. While a turn goes on, the batch for the next one is locked already."""

    def __init__(
        self, places: Places, session: Callable[[], Awaitable[OwnSession]], names: Names, world: World, *, where: str
    ) -> None:
        self._places = places
        self._session = session
        self._names = names
        self._world = world
        self._where = where
        self._pending: dict[str, Pending] = {}
        self._ahead: dict[str, asyncio.Task[Pending]] = {}
        self._edges: dict[str, Edge] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def receive(self, service: str, limit: int) -> Sequence[Any]:
        """Id, packet and count of what waits, oldest first; kept from others for a short time."""
        before = self._pending.pop(service, None)
        if before is not None:
            await before.let_go()
        pending = await self._looked_ahead(service) or await self._look(service, limit)
        self._pending[service] = pending
        held = HELD_SECONDS if pending.rows else HELD_SECONDS_EMPTY
        pending.timer = asyncio.get_running_loop().call_later(held, self._give_up, service, pending)
        return pending.rows

    def begin(self, service: str) -> Pending | None:
        """What was received last, for the turn that begins now."""
        pending = self._pending.pop(service, None)
        if pending is None:
            return None
        if pending.timer is not None:
            pending.timer.cancel()
        return pending

    def look_back(self, service: str) -> None:
        """Something older waits again."""
        if service in self._edges:
            self._edges[service].id = 0

    async def close(self) -> None:
        """Lets go of everything."""
        while self._pending:
            await self._pending.popitem()[1].let_go()
        while self._ahead:
            await self._undo(self._ahead.popitem()[1])
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _look(self, service: str, limit: int) -> Pending:
        session = await self._session()
        try:
            with attempting("reading the queue", where=self._where):
                rows = await self._take(session, service, limit)
        except BaseException:
            await session.rollback()
            raise
        return Pending(session, rows, lambda: self._look_ahead(service, limit) if len(rows) == limit else None)

    async def _take(self, session: OwnSession, service: str, limit: int) -> Sequence[Any]:
        """Locks what is waiting, without waiting for what others have locked."""
        await session.begin()
        queue = (await Numbers(self._names, session).queues([service], make=False)).get(service)
        if queue is None:
            return []
        clock = asyncio.get_running_loop().time()
        edge = self._edges.setdefault(service, Edge())
        if clock >= edge.valid_until:
            edge.id, edge.valid_until = 0, clock + LOOK_BACK_SECONDS
        sql, now = within(self._names.schema, _TAKE), micros(self._world.now())
        rows = await session.fetch(sql, queue, edge.id, now, limit)
        if not rows and edge.id:
            edge.id = 0
            rows = await session.fetch(sql, queue, edge.id, now, limit)
        if rows:
            edge.id = rows[0][0] - 1
        return rows

    async def _looked_ahead(self, service: str) -> Pending | None:
        """What was taken ahead, if there was something then; by now there may be more."""
        ahead = self._ahead.pop(service, None)
        if ahead is None:
            return None
        pending = await ahead
        if pending.rows:
            return pending
        await pending.let_go()
        return None

    def _look_ahead(self, service: str, limit: int) -> None:
        """Begins to lock the next batch, if there is a connection for that."""
        if self._places.is_full or service in self._ahead:
            return
        loop = asyncio.get_running_loop()
        task = self._ahead[service] = loop.create_task(self._look(service, limit))
        loop.call_later(AHEAD_SECONDS, self._drop_ahead, service, task)

    def _drop_ahead(self, service: str, task: asyncio.Task[Pending]) -> None:
        """No receive has come for it in time."""
        if self._ahead.get(service) is task:
            del self._ahead[service]
            self._soon(self._undo(task))

    def _give_up(self, service: str, pending: Pending) -> None:
        """No turn has begun in time."""
        if self._pending.get(service) is pending:
            del self._pending[service]
            self._soon(pending.let_go())

    async def _undo(self, ahead: asyncio.Task[Pending]) -> None:
        with suppress(Unavailable):
            await (await ahead).let_go()

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
