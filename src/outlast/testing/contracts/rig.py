"""What the contract tests stand on: a store, engines opened on it, and the few moves that all tests make."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, ClassVar, Protocol

import pytest
from msgspec import Raw

from outlast.adapters.system import SystemWorld
from outlast.core.message import Envelope
from outlast.core.naming import encode
from outlast.ports import (
    OUTBOX,
    Address,
    Changes,
    DeadLetter,
    Delivery,
    Engine,
    Inspector,
    Parcel,
    Receipt,
    Saved,
    World,
)
from outlast.testing.world import StillWorld

Method = Callable[..., Coroutine[Any, Any, None]]

TIME_LIMIT_SECONDS = 60
RELAY_LIMIT = 1000
OUTBOX_SECONDS = 20
"""So long at most may a broker need for what is in the outbox."""
BROUGHT_SECONDS = 1
"""So long at most may it then take until a message is brought on a machine that is busy."""
POLL_SECONDS = 0.005
ALL = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """What an engine has. What it has not is skipped, and the skip says what it was."""

    ordered: bool = True
    """Messages of one queue are handed over in the order in which they were committed."""
    world_clock: bool = True
    """It takes the time from the `World` that it is given; else the tests wait in real time."""
    overlapping: bool = False
    """Two transactions may be open at once, and the later commit is refused when they collide."""
    durable: bool = False
    """What was committed is there when all engines were closed and one is opened again."""
    processes: bool = False
    """Several processes may open the store. The `Store` must bear pickling then."""
    notices_death: bool = False
    """What a killed process had claimed comes back as soon as its service is declared again."""
    notifies: bool = True
    """Those who `listen` are told without polling."""
    shared: bool = True
    """Every engine sees all that waits; else a broker brings each message to one of those who declared its service."""
    leases: bool = True
    """A claim ends when its time is over; else it ends with the process that has it."""
    arrives_within: timedelta = timedelta()
    """How long what was committed may take to be brought, where it is not shared."""
    returns_within: timedelta = timedelta()
    """How long what a dead process had may take to be brought to another, where it is not shared."""


class Store(Protocol):
    """A store under test: empty at first, and the same for every engine that it opens."""

    def open(self, world: World) -> Engine:
        """One more engine on this store, as another process would have it."""
        ...

    def inspector(self, engine: Engine) -> Inspector:
        """What operators use on this engine."""
        ...


class Contract:
    """Base of all parts of the contract."""

    features: ClassVar[Features] = Features()

    @pytest.fixture
    def store(self) -> Store:
        """An empty store; to be overridden."""
        raise NotImplementedError(f"{type(self).__name__} has no fixture named store. Return an empty Store from it.")


def promise(*needs: str) -> Callable[[Method], Callable[..., None]]:
    """Makes a test of an async method that is given a `Rig`; `needs` names the features that it is about."""
    unknown = set(needs) - {field.name for field in fields(Features)}
    assert not unknown, f"no such features: {unknown}"

    def made(method: Method) -> Callable[..., None]:
        @functools.wraps(method)
        def test(self: Contract, store: Store, **parameters: object) -> None:
            lacking = [need for need in needs if not getattr(self.features, need)]
            if lacking:
                pytest.skip(f"the engine declares that it has not: {', '.join(lacking)}")

            async def whole() -> None:
                rig = Rig(store, self.features)
                try:
                    async with asyncio.timeout(TIME_LIMIT_SECONDS):
                        await method(self, rig, **parameters)
                finally:
                    await rig.close()

            asyncio.run(whole())

        # pytest is to give it the fixture `store`; the rig is built on that.
        signature = inspect.signature(method)
        parameters = [p.replace(name="store") if p.name == "rig" else p for p in signature.parameters.values()]
        vars(test)["__signature__"] = signature.replace(parameters=parameters)
        return test

    return made


class Rig:
    """Engines on one store, and what tests do with them."""

    def __init__(self, store: Store, features: Features) -> None:
        self.store = store
        self.features = features
        self.world: World = StillWorld() if features.world_clock else SystemWorld()
        self.lease = timedelta(seconds=30) if features.world_clock else timedelta(seconds=0.5)
        """A time that tests can afford to wait for."""
        self.engines: list[Engine] = []
        self.engine = self.open()
        self.inspector = store.inspector(self.engine)
        self._subscribed: set[tuple[Engine, str]] = set()
        self._claimed: set[Receipt] = set()

    def open(self) -> Engine:
        """One more engine, closed at the end of the test."""
        engine = self.store.open(self.world)
        self.engines.append(engine)
        return engine

    async def reopen(self) -> None:
        """Closes everything and opens one engine anew."""
        await self.close()
        self.engine = self.open()
        self.inspector = self.store.inspector(self.engine)

    async def close(self) -> None:
        """Closes what was opened."""
        self._subscribed.clear()
        self._claimed.clear()
        while self.engines:
            await self.engines.pop().close()

    async def pass_time(self, delay: timedelta) -> None:
        """Lets this much time pass, and a little more."""
        delay += timedelta(milliseconds=10)
        if isinstance(self.world, StillWorld):
            self.world.advance(delay)
        else:
            await asyncio.sleep(delay.total_seconds())

    async def commit(self, changes: Changes, service: str = "", engine: Engine | None = None) -> None:
        """One transaction with nothing but these changes."""
        engine = engine or self.engine
        work = await engine.begin(service)
        try:
            await work.commit(changes)
        except BaseException:
            await work.rollback()
            raise
        await engine.acknowledge(service, changes.handled)
        self._claimed.update(delivery.receipt for delivery in changes.claimed)
        self._claimed.difference_update(delivery.receipt for delivery in [*changes.handled, *changes.released])

    async def send(self, queue: str, *packets: bytes) -> None:
        """Commands to a service."""
        await self.commit(Changes(parcels=[self.parcel(packet, queue=queue) for packet in packets]))

    def parcel(self, packet: bytes, **fields: Any) -> Parcel:
        """A parcel with an id of its own."""
        return Parcel(self.world.new_id(), packet, **fields)

    async def receive(self, service: str, engine: Engine | None = None, limit: int = ALL) -> Sequence[Delivery]:
        """What is waiting for a service, when all that was committed before is there."""
        engine = engine or self.engine
        if not self.features.shared:
            await self.subscribe(service, engine)
            await self.arrived()
            await self._brought(service, engine)
        return await engine.receive(service, limit)

    async def subscribe(self, service: str, engine: Engine) -> None:
        """Declares a service on this engine with the topics that it has, if that was not done."""
        if (engine, service) not in self._subscribed:
            self._subscribed.add((engine, service))
            topics = [topic for q in await self.inspector.queues() if q.service == service for topic in q.topics]
            await engine.declare(service, topics)

    async def arrived(self) -> None:
        """Waits until what was committed is where it can be received: the outbox is empty, and a moment has passed."""
        if self.features.shared:
            return
        async with asyncio.timeout(OUTBOX_SECONDS):
            while True:
                if not any(q.service == OUTBOX and q.waiting + q.claimed for q in await self.inspector.queues()):
                    break
                await asyncio.sleep(POLL_SECONDS)
        await asyncio.sleep(self.features.arrives_within.total_seconds())

    async def _brought(self, service: str, engine: Engine) -> None:
        """Waits, but not for long, until the broker has brought what it counts: some of it may be another engine's."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + BROUGHT_SECONDS
        while loop.time() < deadline:
            counted = [queue.waiting for queue in await self.inspector.queues() if queue.service == service]
            if sum(counted) <= len(await engine.receive(service, ALL)) + len(self._claimed):
                break
            await asyncio.sleep(POLL_SECONDS)

    async def comes(self, service: str, packet: bytes, engine: Engine | None = None) -> Delivery:
        """The delivery with this packet, which a process that is gone may have had."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.features.returns_within.total_seconds()
        while True:
            for delivery in await self.receive(service, engine):
                if delivery.packet == packet:
                    return delivery
            assert loop.time() < deadline, f"{packet!r} does not come back"
            await asyncio.sleep(POLL_SECONDS)

    async def waiting(self, service: str, engine: Engine | None = None) -> list[bytes]:
        """The packets that are waiting for a service."""
        packets = [delivery.packet for delivery in await self.receive(service, engine)]
        return packets if self.features.ordered else sorted(packets)

    async def first(self, service: str, engine: Engine | None = None) -> Delivery:
        """The delivery at the head of a queue; an engine may keep from one what another was handed just now."""
        found = await self.receive(service, engine)
        while not found:
            await asyncio.sleep(0.01)
            found = await self.receive(service, engine)
        return found[0]

    async def claim(self, service: str, delivery: Delivery, engine: Engine | None = None) -> Delivery:
        """Claims a delivery for one lease, and returns it as the claimer has it from then on."""
        until = self.world.now() + self.lease
        await self.commit(Changes(claimed=[delivery], claimed_until=until), service, engine)
        return Delivery(delivery.receipt, delivery.packet, delivery.count + 1)

    async def first_sight(
        self, service: str, deliveries: Sequence[Delivery], engine: Engine | None = None
    ) -> set[Receipt]:
        """What a transaction says of these deliveries."""
        work = await (engine or self.engine).begin(service)
        try:
            return await work.first_sight(deliveries)
        finally:
            await work.rollback()

    async def relay(self, limit: int = RELAY_LIMIT) -> datetime | None:
        """Moves what is due."""
        return await self.engine.relay(self.world.now(), limit)

    async def load(self, address: Address, engine: Engine | None = None) -> tuple[bytes, int, bool] | None:
        """State, version and whether it is done, of an instance that exists."""
        work = await (engine or self.engine).begin(address.service)
        try:
            stored = (await work.load([address])).get(address)
        finally:
            await work.rollback()
        return None if stored is None else (bytes(stored.state), stored.version, stored.done)

    def saved(self, address: Address, state: bytes = b"{}", version: int = 0, **fields: Any) -> Saved:
        """An instance, new unless a version is given."""
        conversation: str = fields.pop("conversation", "c")
        return Saved(address, state, version, conversation, **fields)

    def letter(self, packet: bytes = b"dead", **fields: Any) -> DeadLetter:
        """A dead letter."""
        given: dict[str, Any] = {"id": self.world.new_id(), "service": "shop", "at": self.world.now()}
        return DeadLetter(packet=packet, reason="it failed", **given | fields)

    def packet(self, conversation: str) -> bytes:
        """A packet with a real envelope."""
        id, now = self.world.new_id(), self.world.now()
        return encode(Envelope(id=id, type="t", conversation=conversation, sent_at=now, body=Raw(b"{}")))
