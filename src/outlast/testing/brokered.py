"""A simulated world whose queues are a broker's: every call of the broker and of the store is an effect that can fail.

The engine between them is the real one. Its store is the reference engine in memory, its broker a model of RabbitMQ
or of NATS (`outlast.testing.broker`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from outlast.adapters.broker import BrokerEngine
from outlast.adapters.broker.bundles import members
from outlast.adapters.memory import MemoryEngine
from outlast.errors import Unavailable
from outlast.ports import OUTBOX, RELAY, Delivery, Finding, Parcel, Posted, Receiver, Store, Work, World, unpack
from outlast.testing.backstage import MemoryBackstage
from outlast.testing.broker import Mishap, SimulatedBroker, SimulatedTransport
from outlast.testing.faults import FaultyEngine, Vessel
from outlast.testing.invariants import Books, Remains
from outlast.testing.tape import Fault

T = TypeVar("T")

RARE_LOOK = timedelta(hours=12)
"""The postman's own look at the outbox; the simulation wakes it when it would find something."""
OUTAGE = timedelta(seconds=40)
BLOCKADE = timedelta(seconds=20)
"""Longer than a publisher is patient."""


class BrokerBackstage(MemoryBackstage):
    """One broker and one store that several simulated processes share. `bundle`: parcels in one message, at most."""

    def __init__(self, kind: str, *, bundle: int = 1) -> None:
        super().__init__()
        self.bundle = bundle
        self.broker = SimulatedBroker(kind)

    def engine(self, world: World, vessel: Vessel, books: Books) -> BrokeredEngine:
        store = FaultyStore(MemoryEngine(self.store, world), vessel, books)
        transport = FaultyTransport(SimulatedTransport(self.broker), vessel)
        return BrokeredEngine(BrokerEngine(transport, store, world, bundle=self.bundle, look=RARE_LOOK), vessel, books)

    async def prepare(self, engine: Any, topics: Mapping[str, Sequence[str]]) -> None:
        for service, wanted in topics.items():
            self.store.topics[service] = set(wanted)
            self.broker.queue(service).topics.update(wanted)

    def kill(self, engine: Any) -> None:
        engine.store.inner.die()
        engine.transport.inner.die()

    def silent(self, engine: Any) -> None:
        """A process that stands still is not heard of, and its connection is given up."""
        engine.transport.inner.cut()

    def befall(self, engine: Any, fault: Fault) -> None:
        transport: SimulatedTransport = engine.transport.inner
        match fault:
            case Fault.CUT:
                transport.cut()
            case Fault.HALF:
                transport.mishaps.append(Mishap.HALF)
            case Fault.REFUSED:
                transport.mishaps.append(Mishap.REFUSED)
            case Fault.BLOCKED if not self.broker.is_blocked:
                self.broker.block(for_=BLOCKADE)
            case Fault.OUTAGE if not self.broker.is_down:
                self.broker.down(for_=OUTAGE)
            case _:
                pass

    def is_idle(self) -> bool:
        return super().is_idle() and not any(len(queue) for queue in self.broker.queues.values())

    def next_expiry(self, now: datetime) -> datetime | None:
        if not self.broker.is_down:
            if self.store.queues.get(OUTBOX):
                return now
            if not self.broker.habits.breaks_off and any(queue.held for queue in self.broker.queues.values()):
                return now
        return super().next_expiry(now)

    def remains(self, now: datetime) -> Remains:
        remains = super().remains(now)
        at_broker = {
            (name, id): packet
            for name, queue in self.broker.queues.items()
            for message in queue.all()
            for id, packet in members(message.packet) or [(message.id, message.packet)]
        }
        for row in self.store.queues.get(OUTBOX, {}).values():
            for parcel in unpack(row.packet):
                for service in [parcel.queue] if parcel.queue else self._subscribers(parcel.topic):
                    at_broker.setdefault((service, parcel.id), parcel.packet)
        remains.waiting = [(key[0], packet) for key, packet in at_broker.items() if key not in self.store.inbox]
        remains.claimed = 0
        return remains

    def _subscribers(self, topic: str) -> list[str]:
        return [service for service, topics in self.store.topics.items() if topic and topic in topics]


class FaultyStore(FaultyEngine):
    """The store behind a broker, in one simulated process."""

    def __init__(self, inner: Store, vessel: Vessel, books: Books) -> None:
        super().__init__(inner, vessel, books, None)
        self.store = inner
        self.posted: Posted | None = None
        inner.posted = self._posted

    def _posted(self, row: Delivery) -> None:
        if self.posted is not None:
            self.posted(row)

    async def topics(self, service: str) -> Sequence[str]:
        return await self.store.topics(service)

    async def tries(self, service: str, ids: Sequence[str]) -> Mapping[str, int]:
        return await self.store.tries(service, ids)

    async def receive(self, service: str, limit: int) -> Sequence[Delivery]:
        return await self.vessel.effect("look", lambda: self.inner.receive(service, limit))


class FaultyTransport:
    """The transport of one simulated process. An error in one of its calls is a lost connection."""

    def __init__(self, inner: SimulatedTransport, vessel: Vessel) -> None:
        self.inner = inner
        self.vessel = vessel

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def reply_address(self) -> str:
        return self.inner.reply_address

    @property
    def trouble(self) -> str:
        return self.inner.trouble

    @property
    def patience(self) -> timedelta:
        return self.inner.patience

    @property
    def can_publish(self) -> bool:
        return self.inner.can_publish

    def open(self, receiver: Receiver) -> None:
        self.inner.open(receiver)

    async def declare(self, service: str, topics: Sequence[str], dropped: Sequence[str]) -> None:
        await self._effect("bind", lambda: self.inner.declare(service, topics, dropped))

    async def publish(self, parcels: Sequence[Parcel]) -> None:
        await self._effect("publish", lambda: self.inner.publish(parcels))

    async def acknowledge(self, tags: Sequence[Any]) -> None:
        await self._effect("acknowledge", lambda: self.inner.acknowledge(tags))

    async def release(self, tags: Sequence[Any]) -> None:
        await self._effect("release", lambda: self.inner.release(tags))

    async def renew(self, tags: Sequence[Any]) -> None:
        await self._effect("renew", lambda: self.inner.renew(tags))

    async def depths(self, services: Sequence[str]) -> Mapping[str, int]:
        return await self._effect("depths", lambda: self.inner.depths(services))

    async def examine(self) -> Sequence[Finding]:
        return await self.inner.examine()

    async def close(self) -> None:
        await self.inner.close()

    async def _effect(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        is_the_brokers = False

        async def called() -> T:
            nonlocal is_the_brokers
            try:
                return await call()
            except Unavailable:
                is_the_brokers = True
                raise

        try:
            return await self.vessel.effect(name, called)
        except Unavailable:
            if not is_the_brokers:
                self.inner.cut()
            raise


class BrokeredEngine(FaultyEngine):
    """The real engine of a broker and a store, whose both halves fail; what it receives passes through here."""

    def __init__(self, whole: BrokerEngine, vessel: Vessel, books: Books) -> None:
        self.whole = whole
        super().__init__(whole, vessel, books, None)

    def wake(self) -> None:
        self.whole.postman.look()

    async def declare(self, service: str, topics: Sequence[str]) -> None:
        await self.whole.declare(service, topics)

    async def begin(self, service: str) -> Work:
        return await self.whole.begin(service)

    async def acknowledge(self, service: str, deliveries: Sequence[Delivery]) -> None:
        await self.whole.acknowledge(service, deliveries)

    async def relay(self, now: datetime, limit: int) -> datetime | None:
        return await self.whole.relay(now, limit)

    def listen(self, name: str, notify: Callable[[], None]) -> None:
        # The store tells of what is dated, and its half of this engine makes that fail.
        self.whole.listen(name, notify if name == RELAY else self.vessel.hears(notify))
