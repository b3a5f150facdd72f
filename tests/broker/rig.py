"""Processes that share a simulated broker and a store, and what tests do with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

from outlast.adapters.broker import BrokerEngine
from outlast.adapters.memory import MemoryEngine, MemoryStore
from outlast.ports import OUTBOX, Changes, Delivery, Parcel
from outlast.testing import StillWorld
from outlast.testing.broker import SimulatedBroker, SimulatedTransport

SOON_SECONDS = 3.0
"""More than anything here takes."""


class Desk:
    """A world with one broker and one store, and the processes in it."""

    def __init__(self, kind: str = "rabbitmq") -> None:
        self.broker = SimulatedBroker(kind)
        if kind == "nats":
            self.broker.habits = replace(self.broker.habits, ack_wait=timedelta(seconds=0.2))
        self.store = MemoryStore()
        self.world = StillWorld()
        self.engines: list[BrokerEngine] = []

    def process(self, *, bundle: int = 1, look: timedelta = timedelta(milliseconds=5)) -> BrokerEngine:
        """One more process."""
        transport = SimulatedTransport(self.broker)
        store = MemoryEngine(self.store, self.world)
        engine = BrokerEngine(transport, store, self.world, bundle=bundle, look=look)
        self.engines.append(engine)
        return engine

    def kill(self, engine: BrokerEngine) -> None:
        """What SIGKILL does to a process."""
        assert isinstance(engine.store, MemoryEngine)
        self.transport(engine).die()
        engine.store.die()
        if engine.postman._task is not None:
            engine.postman._task.cancel()
        self.engines.remove(engine)

    def transport(self, engine: BrokerEngine) -> SimulatedTransport:
        """The process's connection."""
        assert isinstance(engine.transport, SimulatedTransport)
        return engine.transport

    @property
    def outbox(self) -> int:
        """Rows that are not at the broker for certain."""
        return len(self.store.queues.get(OUTBOX, {}))

    def depth(self, service: str) -> int:
        """What the broker has for a service."""
        return len(self.broker.queues.get(service, ()))


@asynccontextmanager
async def desk(kind: str = "rabbitmq") -> AsyncGenerator[Desk]:
    """A world that is closed at the end."""
    made = Desk(kind)
    try:
        yield made
    finally:
        made.broker.is_down = made.broker.is_blocked = False
        for engine in made.engines:
            await engine.close()


async def commit(engine: BrokerEngine, changes: Changes, service: str = "") -> None:
    """One transaction."""
    work = await engine.begin(service)
    await work.commit(changes)


async def until(holds: Callable[[], bool]) -> None:
    """Waits until this is so."""
    async with asyncio.timeout(SOON_SECONDS):
        while not holds():
            await asyncio.sleep(0.001)


async def received(engine: BrokerEngine, service: str, count: int) -> Sequence[Delivery]:
    """So many deliveries, when they are there."""
    async with asyncio.timeout(SOON_SECONDS):
        while len(found := await engine.receive(service, 1000)) < count:
            await asyncio.sleep(0.001)
    return found


async def tried(engine: BrokerEngine, service: str, deliveries: Sequence[Delivery]) -> None:
    """A turn with these that does not get to its end."""
    work = await engine.begin(service)
    await work.first_sight(deliveries)
    await work.rollback()


async def handle(world: Desk, engine: BrokerEngine, service: str) -> list[bytes]:
    """Takes turns that only consume, until the broker has nothing more; returns what was not a copy."""
    packets: list[bytes] = []
    await until(lambda: world.depth(service) > 0)
    async with asyncio.timeout(SOON_SECONDS):
        while world.depth(service):
            deliveries = await engine.receive(service, 1000)
            work = await engine.begin(service)
            fresh = await work.first_sight(deliveries)
            handled = [d for d in deliveries if d.receipt in fresh]
            await work.commit(Changes(handled=handled))
            await engine.acknowledge(service, deliveries)
            packets += [d.packet for d in handled]
            await asyncio.sleep(0.001)
    return packets


def command(id: str, packet: bytes = b"1", queue: str = "shop") -> Parcel:
    return Parcel(id, packet, queue=queue)
