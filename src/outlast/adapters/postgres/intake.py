"""What waits in the queues: handed to a turn, and kept from others until that ends.

Where several processes have a queue open, what is read is locked; where only one has, it need not be. Who is mistaken
in that loses no more than a turn: a commit that finds that another has taken something is refused.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from outlast.adapters.postgres.names import Names, Numbers
from outlast.adapters.postgres.schema import micros, within
from outlast.adapters.postgres.sessions import OwnSession
from outlast.adapters.postgres.trouble import attempting
from outlast.ports import Receipt, World

HELD_SECONDS = 0.05
"""How long what was received is kept from others, for a turn to begin."""
HELD_SECONDS_EMPTY = 0.005
LOOK_BACK_SECONDS = 1.0
"""How long at most a message waits that was committed after one with a higher number."""
NOTHING = (0, 0)

_TAKE = """
    SELECT id, packet, count FROM outlast.messages
    WHERE queue = $1 AND id > $2 AND (id < $3 OR id > $4) AND (claimed_until IS NULL OR claimed_until <= $5)
    ORDER BY id LIMIT $6"""
_TAKE_LOCKED = f"{_TAKE} FOR UPDATE SKIP LOCKED"


@dataclass(eq=False, slots=True)
class Pending:
    """What was received last, and the connection for the turn that is about it."""

    intake: Intake
    service: str
    session: OwnSession
    rows: Sequence[Any]
    timer: asyncio.TimerHandle | None = None

    @property
    def counts(self) -> dict[Receipt, int]:
        """How often each was handed over, by id."""
        return {id: count for id, _, count in self.rows}

    @property
    def range(self) -> tuple[int, int]:
        """The first and the last id."""
        return (self.rows[0][0], self.rows[-1][0]) if self.rows else NOTHING

    def ended(self, *, is_committed: bool, is_overruled: bool = False) -> None:
        """The turn has ended; only the first call counts."""
        under_way = self.intake.turns[self.service]
        if self not in under_way:
            return
        under_way.remove(self)
        if not is_committed:
            self.intake.look_back(self.service)
        if is_overruled:
            self.intake.alone.discard(self.service)

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
    """Hands out what waits, batch by batch."""

    def __init__(self, session: Callable[[], Awaitable[OwnSession]], names: Names, world: World, *, where: str) -> None:
        self.alone: set[str] = set()
        """The services that no other process has, as far as is known."""
        self.turns: dict[str, list[Pending]] = defaultdict(list)
        """Those under way."""
        self._session = session
        self._names = names
        self._world = world
        self._where = where
        self._pending: dict[str, Pending] = {}
        self._edges: dict[str, Edge] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def receive(self, service: str, limit: int) -> Sequence[Any]:
        """Id, packet and count of what waits and no turn is about, oldest first; kept for a turn for a short time."""
        before = self._pending.pop(service, None)
        if before is not None:
            await before.let_go()
        pending = self._pending[service] = await self._look(service, limit)
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
        if pending.rows:
            self.turns[service].append(pending)
        return pending

    def under_way(self, service: str) -> tuple[int, int]:
        """The first and the last id of what turns are about, and of what was received for the next."""
        pending = self._pending.get(service)
        ranges = [each.range for each in (*self.turns[service], *([pending] if pending else [])) if each.rows]
        return (min(first for first, _ in ranges), max(last for _, last in ranges)) if ranges else NOTHING

    def look_back(self, service: str) -> None:
        """Something older waits again."""
        if service in self._edges:
            self._edges[service].id = 0

    async def close(self) -> None:
        """Lets go of everything."""
        while self._pending:
            await self._pending.popitem()[1].let_go()
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
        return Pending(self, service, session, rows)

    async def _take(self, session: OwnSession, service: str, limit: int) -> Sequence[Any]:
        """What is waiting, without waiting for what others have locked."""
        sql = within(self._names.schema, _TAKE if service in self.alone else _TAKE_LOCKED)
        if service not in self.alone:
            await session.begin()
        queue = (await Numbers(self._names, session).queues([service], make=False)).get(service)
        if queue is None:
            return []
        clock, now = asyncio.get_running_loop().time(), micros(self._world.now())
        edge = self._edges.setdefault(service, Edge())
        if clock >= edge.valid_until:
            edge.id, edge.valid_until = 0, clock + LOOK_BACK_SECONDS
        first, last = self.under_way(service)
        after = max(edge.id, last) if edge.id else 0
        rows = await session.fetch(sql, queue, after, first, last, now, limit)
        if not rows and after:
            after = 0
            rows = await session.fetch(sql, queue, after, first, last, now, limit)
        edge.id = rows[0][0] - 1 if rows else 0
        return rows

    def _give_up(self, service: str, pending: Pending) -> None:
        """No turn has begun in time."""
        if self._pending.get(service) is pending:
            del self._pending[service]
            self._soon(pending.let_go())

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
