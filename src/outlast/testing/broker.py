"""A broker in one process, which fails on demand in the ways of RabbitMQ or of NATS JetStream. Nothing survives it.

It models what a client sees: queues, topics, consumers, what is handed over again and when, and publishing whose
outcome is unknown. Every habit and every fault modelled here has been seen at the real server; `docs/proof.md` lists
where. It lives on whatever event loop runs, in real time or in virtual time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

from outlast.errors import Misuse, Unavailable
from outlast.ports import Arrival, Finding, Parcel, Receiver

RECONNECT_SECONDS = 0.2
PATIENCE_SECONDS = 10.0
"""How long a call waits for a connection, or for a broker that is blocked."""
PREFETCH = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Habits:
    """How a kind of broker differs from the others."""

    frees_at_once: bool
    """What a lost connection held is handed over again at once; else when the wait for its acknowledgement ends, or
    when the broker was started again."""
    ack_wait: timedelta
    """How long it waits for an acknowledgement, unless it is told that the message is still being handled."""
    breaks_off: bool
    """After that wait it ends the connection, and renewing does not help; else it hands the message over again."""
    drops: bool
    """A message that was handed over too often is dropped; else it stays, and is never handed over again."""
    dedupes_for: timedelta = timedelta()
    """How long it remembers the ids of what was published, and drops what comes again."""


KINDS: Mapping[str, Habits] = {
    "rabbitmq": Habits(frees_at_once=True, ack_wait=timedelta(minutes=30), breaks_off=True, drops=True),
    "nats": Habits(
        frees_at_once=False,
        ack_wait=timedelta(seconds=30),
        breaks_off=False,
        drops=False,
        dedupes_for=timedelta(minutes=2),
    ),
}


class Mishap(StrEnum):
    """What can happen to one call of `publish`."""

    LOST_CONFIRM = "lost confirm"
    """All of it is in; the connection is lost before the broker could say so."""
    HALF = "half"
    """The connection is lost when one half of it is in."""
    REFUSED = "refused"
    """One half of it is in, and the broker refuses the other."""


@dataclass(eq=False, slots=True)
class Message:
    """A message in a queue."""

    id: str
    packet: bytes
    number: int
    count: int = 0
    """How often it was handed over in vain."""


@dataclass(eq=False, slots=True)
class Tag:
    """One message handed over to one consumer."""

    transport: SimulatedTransport
    connection: int
    queue: str
    message: Message
    until: float


@dataclass(slots=True)
class Queue:
    """One service's messages, and who consumes them."""

    topics: set[str] = field(default_factory=set[str])
    ready: deque[Message] = field(default_factory=deque[Message])
    held: dict[Message, Tag] = field(default_factory=dict[Message, Tag])
    stuck: list[Message] = field(default_factory=list[Message])
    consumers: list[SimulatedTransport] = field(default_factory=list[Any])
    turn: int = 0

    def __len__(self) -> int:
        return len(self.ready) + len(self.held) + len(self.stuck)

    def all(self) -> list[Message]:
        """All messages, in no order."""
        return [*self.ready, *self.held, *self.stuck]


class SimulatedBroker:
    """What all transports of one world share. `kind` is `rabbitmq` or `nats`."""

    def __init__(self, kind: str = "rabbitmq", *, prefetch: int = PREFETCH, delivery_limit: int | None = None) -> None:
        if kind not in KINDS:
            raise Misuse(f"a simulated broker was to be of the kind {kind!r}. There are {', '.join(KINDS)}.")
        self.habits = KINDS[kind]
        self.prefetch = prefetch
        self.delivery_limit = delivery_limit
        """After so many times in vain a message is not handed over again. `None` is how queues have to be declared."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """Set where the broker is called from outside of the loop."""
        self.later: Callable[..., object] = self._later
        """How what happens to the broker from outside is put off."""
        self.queues: dict[str, Queue] = {}
        self.transports: list[SimulatedTransport] = []
        self.is_down = False
        self.is_blocked = False
        self._published: dict[tuple[str, str], float] = {}
        self._numbers = 0
        self._context = Context()

    # What happens to it.

    def down(self, *, for_: timedelta) -> None:
        """Every connection is lost and none is made for a time. The messages are kept."""
        self.is_down = True
        for transport in list(self.transports):
            transport.cut(is_restart=True)
        self.later(for_.total_seconds(), self.up)

    def up(self) -> None:
        """Connections can be made again."""
        self.is_down = False
        for transport in self.transports:
            transport.reconnect()

    def block(self, *, for_: timedelta) -> None:
        """As at an alarm for memory or disk: it takes nothing in for a time, and goes on handing over."""
        self.is_blocked = True
        self.later(for_.total_seconds(), self.unblock)

    def unblock(self) -> None:
        """It takes messages in again."""
        self.is_blocked = False
        for transport in self.transports:
            transport.wake_waiting()

    def delete(self, name: str) -> None:
        """Somebody deletes a queue that is empty. Its consumers notice."""
        queue = self.queues[name]
        if len(queue):
            raise Misuse(f"the queue {name!r} has {len(queue)} messages. Only an empty one can be deleted here.")
        del self.queues[name]
        for transport in queue.consumers:
            transport.was_cancelled(name)

    def purge(self, name: str) -> None:
        """Somebody throws away what waits in a queue, and what was handed over of it."""
        queue = self.queues[name]
        queue.ready.clear()
        queue.held.clear()

    # What transports ask of it.

    def queue(self, name: str) -> Queue:
        """The queue of this name; it is made if there is none."""
        return self.queues.setdefault(name, Queue())

    def put(self, parcels: Sequence[Parcel]) -> None:
        """Takes these in."""
        for parcel in parcels:
            if parcel.reply_to:
                self._answer(parcel)
            names = [parcel.queue] if parcel.queue else []
            if parcel.topic:
                names += [name for name, queue in self.queues.items() if parcel.topic in queue.topics]
            for name in names:
                if self._is_new(name, parcel.id):
                    self._numbers += 1
                    self.queue(name).ready.append(Message(parcel.id, parcel.packet, self._numbers))
                    self.pump(name)

    def pump(self, name: str) -> None:
        """Hands over what is waiting, to consumers in turn, as far as they have room."""
        queue = self.queues.get(name)
        brought: dict[SimulatedTransport, list[Tag]] = {}
        while queue is not None and queue.ready:
            able = [c for c in queue.consumers if c.is_connected and c.holds.get(name, 0) < self.prefetch]
            if not able:
                break
            queue.turn += 1
            transport, message = able[queue.turn % len(able)], queue.ready.popleft()
            tag = Tag(transport, transport.connection, name, message, self._deadline())
            queue.held[message] = tag
            transport.holds[name] = transport.holds.get(name, 0) + 1
            self._watch(tag)
            brought.setdefault(transport, []).append(tag)
        for transport, tags in brought.items():
            transport.bring(name, tags)

    def forget(self, tag: Tag) -> None:
        """The message was acknowledged."""
        queue = self.queues.get(tag.queue)
        if queue is None:
            return
        if tag.message in queue.held:
            self._let_go(queue, tag.message)
        elif tag.message in queue.ready:  # it was to be handed over again
            queue.ready.remove(tag.message)
        self.pump(tag.queue)

    def give_back(self, tag: Tag) -> None:
        """The message is to be handed over again."""
        queue = self.queues.get(tag.queue)
        if queue is None or queue.held.get(tag.message) is not tag:
            return
        self._let_go(queue, tag.message)
        tag.message.count += 1
        if self.delivery_limit is None or tag.message.count <= self.delivery_limit:
            # Ahead of the others, and the last one first: nobody promises any order here.
            queue.ready.appendleft(tag.message)
        elif not self.habits.drops:
            queue.stuck.append(tag.message)
        self.pump(tag.queue)

    def renew(self, tag: Tag) -> None:
        """The message is still being handled."""
        if not self.habits.breaks_off:
            tag.until = self._deadline()

    def disconnected(self, transport: SimulatedTransport, *, frees: bool) -> None:
        """A connection has ended; what it held is free."""
        for name, queue in self.queues.items():
            if transport in queue.consumers:
                queue.consumers.remove(transport)
            if frees:
                for tag in [tag for tag in queue.held.values() if tag.transport is transport]:
                    self.give_back(tag)
                self.pump(name)

    def call(self, transport: SimulatedTransport, function: Callable[..., object], *args: Any) -> None:
        """Calls something in the process that has the transport, as soon as that can be."""
        self._running().call_soon(function, *args, context=transport.context)

    def _running(self) -> asyncio.AbstractEventLoop:
        return self.loop or asyncio.get_running_loop()

    def _later(self, seconds: float, function: Callable[..., object], *args: Any) -> None:
        self._running().call_later(seconds, function, *args, context=self._context)

    def _deadline(self) -> float:
        return self._running().time() + self.habits.ack_wait.total_seconds()

    def _watch(self, tag: Tag) -> None:
        self._later(tag.until - self._running().time(), self._expire, tag)

    def _expire(self, tag: Tag) -> None:
        queue = self.queues.get(tag.queue)
        if queue is None or queue.held.get(tag.message) is not tag:
            return
        if tag.until > self._running().time():
            self._watch(tag)
        elif self.habits.breaks_off:
            tag.transport.cut()
        else:
            self.give_back(tag)

    def _let_go(self, queue: Queue, message: Message) -> None:
        tag = queue.held.pop(message)
        tag.transport.holds[tag.queue] -= 1

    def _is_new(self, name: str, id: str) -> bool:
        window = self.habits.dedupes_for.total_seconds()
        if not window:
            return True
        now, key = self._running().time(), (name, id)
        if self._published.get(key, now - window) > now - window:
            return False
        self._published[key] = now
        return True

    def _answer(self, parcel: Parcel) -> None:
        request, _, address = parcel.reply_to.partition("@")
        for transport in self.transports:
            if transport.reply_address == address and transport.is_connected and transport.receiver is not None:
                self.call(transport, transport.receiver.answered, request, parcel.packet)


class SimulatedTransport:
    """One process's connection to a `SimulatedBroker`. It keeps the contract of `ports.Transport`."""

    def __init__(self, broker: SimulatedBroker) -> None:
        self.broker = broker
        self.mishaps: deque[Mishap] = deque()
        """What happens to the next calls of `publish`."""
        self.receiver: Receiver | None = None
        self.connection = 0
        """Counts the connections that were made."""
        self.is_connected = False
        self.holds: dict[str, int] = {}
        self.context: Context = copy_context()
        broker.transports.append(self)
        self._is_over = False
        self._number = len(broker.transports)
        self._topics: dict[str, set[str]] = {}
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def name(self) -> str:
        return "a simulated broker"

    @property
    def reply_address(self) -> str:
        return f"replies-{self._number}"

    @property
    def trouble(self) -> str:
        if not self.is_connected:
            return "there is no connection"
        return "it takes nothing in" if self.broker.is_blocked else ""

    @property
    def patience(self) -> timedelta:
        return self.broker.habits.ack_wait

    @property
    def can_publish(self) -> bool:
        return not self.trouble

    def open(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.context = copy_context()
        self._connect()

    async def declare(self, service: str, topics: Sequence[str], dropped: Sequence[str]) -> None:
        await self._connected()
        bound = self.broker.queue(service).topics
        bound.difference_update(dropped)
        bound.update(topics)
        self._topics[service] = set(topics)
        self._consume(service)

    async def publish(self, parcels: Sequence[Parcel]) -> None:
        await self._connected()
        if self.broker.is_blocked:
            await self._wait(lambda: self.is_connected and not self.broker.is_blocked)
        half = len(parcels) // 2
        match self.mishaps.popleft() if self.mishaps else None:
            case None:
                self.broker.put(parcels)
                await asyncio.sleep(0)
            case Mishap.REFUSED:
                self.broker.put(parcels[:half])
                raise _unavailable("it refused some of what was published")
            case mishap:
                self.broker.put(parcels if mishap is Mishap.LOST_CONFIRM else parcels[:half])
                self.cut()
                raise _unavailable("the connection was lost before it confirmed what was published")

    async def acknowledge(self, tags: Sequence[Any]) -> None:
        for tag in self._valid(tags):
            self.broker.forget(tag)

    async def release(self, tags: Sequence[Any]) -> None:
        for tag in self._valid(tags):
            self.broker.give_back(tag)

    async def renew(self, tags: Sequence[Any]) -> None:
        for tag in self._valid(tags):
            self.broker.renew(tag)

    async def depths(self, services: Sequence[str]) -> Mapping[str, int]:
        await self._connected()
        return {service: len(self.broker.queues.get(service, ())) for service in services}

    async def examine(self) -> Sequence[Finding]:
        return []

    async def close(self) -> None:
        self._end(frees=True)

    # What happens to it.

    def cut(self, *, is_restart: bool = False) -> None:
        """The connection is lost; soon a new one is made, unless the broker is down."""
        if not self.is_connected:
            return
        self.is_connected = False
        frees = is_restart or self.broker.habits.frees_at_once
        self.broker.disconnected(self, frees=frees)
        if frees and self.receiver is not None:
            for service in self._topics:
                self.broker.call(self, self.receiver.lost, service)
        self.reconnect()

    def die(self) -> None:
        """The process was killed: nothing is tidied up, and the broker notices in its own way."""
        self._end(frees=self.broker.habits.frees_at_once)

    def reconnect(self) -> None:
        """Tries again, soon."""
        if not self._is_over:
            self.broker.call(self, self._reconnect_soon)

    def was_cancelled(self, service: str) -> None:
        """The queue is gone; it is made again."""
        self.holds.pop(service, None)
        self.broker.call(self, self._restore, service)

    def bring(self, service: str, tags: Sequence[Tag]) -> None:
        """The broker hands these over."""
        self.broker.call(self, self._arrive, service, tags)

    def wake_waiting(self) -> None:
        """Something is possible again that calls are waiting for."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _end(self, *, frees: bool) -> None:
        self._is_over = True
        self.is_connected = False
        if self in self.broker.transports:
            self.broker.transports.remove(self)
        self.broker.disconnected(self, frees=frees)

    def _reconnect_soon(self) -> None:
        # Called within the process, so that one that stands still or is dead does not connect.
        asyncio.get_running_loop().call_later(RECONNECT_SECONDS, self._connect)

    def _connect(self) -> None:
        if self.is_connected or self._is_over or self.broker.is_down:
            return
        self.is_connected = True
        self.connection += 1
        for service in self._topics:
            self._restore(service)
        self.wake_waiting()

    def _restore(self, service: str) -> None:
        if self.is_connected:
            self.broker.queue(service).topics.update(self._topics[service])
            self._consume(service)

    def _consume(self, service: str) -> None:
        queue = self.broker.queue(service)
        if self not in queue.consumers:
            queue.consumers.append(self)
        self.broker.pump(service)

    def _arrive(self, service: str, tags: Sequence[Tag]) -> None:
        here = [tag for tag in tags if tag.connection == self.connection and self.is_connected]
        if here and self.receiver is not None:
            arrivals = [Arrival(tag.message.id, tag.message.packet, tag.message.count, tag) for tag in here]
            self.receiver.arrived(service, arrivals)

    def _valid(self, tags: Sequence[Any]) -> list[Tag]:
        """Those that the broker would know; where a connection frees what it held, only those of this one."""
        if not self.is_connected:
            return []
        if not self.broker.habits.frees_at_once:
            return list(tags)
        return [tag for tag in tags if tag.connection == self.connection]

    async def _connected(self) -> None:
        if not self.is_connected:
            await self._wait(lambda: self.is_connected)

    async def _wait(self, is_possible: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not is_possible():
                    future = asyncio.get_running_loop().create_future()
                    self._waiting.append(future)
                    await future
        except TimeoutError:
            raise _unavailable(self.trouble) from None


def _unavailable(why: str) -> Unavailable:
    return Unavailable(f"the simulated broker cannot be used: {why}. What was published is published again.")
