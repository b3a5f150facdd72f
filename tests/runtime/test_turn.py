"""The turn, where an engine does what engines rarely do."""

from __future__ import annotations

import asyncio
from typing import Any

from outlast import Client, Command, Service, Worker
from outlast.adapters.memory import MemoryEngine, MemoryStore, MemoryWork
from outlast.adapters.system import SystemWorld
from outlast.errors import Unavailable
from outlast.ports import Changes


class Ship(Command[None], to="depot"):
    number: int


class Moody(MemoryEngine):
    """Refuses any batch, and then every second transaction of one message."""

    commits = 0

    async def begin(self, service: str) -> Any:
        return MoodyWork(self, service)


class MoodyWork(MemoryWork):
    async def commit(self, changes: Changes) -> None:
        if len(changes.claimed) > 1:
            raise RuntimeError("too much at once")
        if changes.claimed and isinstance(self.engine, Moody):
            self.engine.commits += 1
            if self.engine.commits % 2 == 0:
                raise Unavailable("not just now")
        await super().commit(changes)


async def test_what_was_claimed_before_the_engine_failed_is_carried_out_at_once() -> None:
    world = SystemWorld()
    engine = Moody(MemoryStore(), world)
    depot = Service("depot")
    seen: list[int] = []

    @depot.handles
    async def ship(command: Ship) -> None:
        seen.append(command.number)

    async with Client(engine=engine, world=world) as client:
        await client.send_all(*[Ship(number=n) for n in range(4)])
        async with Worker([depot], engine=engine, world=world):
            for _ in range(300):
                if len(seen) == 4:
                    break
                await asyncio.sleep(0.01)

    # A claim that nobody carried out would have come back after the lease, half a minute later.
    assert sorted(seen) == [0, 1, 2, 3]
