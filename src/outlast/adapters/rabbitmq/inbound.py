"""Consuming: one channel for each service, and one for the answers to this process's own requests.

A message is kept for this process until it is acknowledged or released, at most `prefetch` of them for each service.
RabbitMQ loses patience after 30 minutes (`consumer_timeout`): it then closes the service's channel and hands out all
that was on it again. Nothing can be told it to prevent that. A handler that runs longer is therefore started again
elsewhere while it runs; its effects still happen once, because only one of the two can commit. Raise the timeout at
the broker where handlers are that slow.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from typing import NamedTuple

from outlast.adapters.rabbitmq.frames import Deliveries, acknowledgement, properties_of, rejection
from outlast.adapters.rabbitmq.link import Link, Pause
from outlast.adapters.rabbitmq.settings import Settings
from outlast.adapters.rabbitmq.topology import (
    REPLIES_KEPT_MILLISECONDS,
    count,
    ensure_bindings,
    ensure_exchange,
    ensure_queue,
)
from outlast.adapters.rabbitmq.wire import CLOSE_SECONDS, Channel, ChannelLost, Wire, channel_on
from outlast.errors import Misuse, Unavailable
from outlast.ports import Arrival, Finding, Receiver, World

Tag = tuple["Consumer", int]
Brought = tuple[int, bool, bytes, bytes]
"""A message's number on its channel, whether it was handed over before, its properties and its body."""


class Consumer:
    """One consumer on a channel of its own: what it has brought, and what of that was settled."""

    def __init__(self, channel: Channel, queue: str, take: Callable[[Consumer, list[Brought]], None]) -> None:
        self.channel = channel
        self.queue = queue
        self._take = take
        self._brought: list[Brought] = []
        self.is_open = False
        """Whether the broker has said that it consumes."""
        self._held: dict[int, None] = {}
        """The numbers of what it has brought and what is not settled, in order; they are counted from 1."""

    @property
    def is_over(self) -> bool:
        """All that it has brought and that is not settled is in its queue again, or with others."""
        return self.channel.ended.done()

    @property
    def held(self) -> int:
        """How many messages it has brought that are not settled."""
        return len(self._held)

    async def open(self, prefetch: int) -> None:
        """Returns when it consumes. Raises `ChannelLost`."""
        await self.channel.open()
        self.channel.wire.readers[self.channel.number] = Deliveries(self._delivered)
        self.channel.on("cancel", self._has_been_cancelled)
        await self.channel.call("basic_qos", prefetch_count=prefetch)
        await self.channel.call("basic_consume", queue=self.queue, on_message_callback=_never)
        self.is_open = True

    def acknowledge(self, numbers: Iterable[int]) -> None:
        """Lets the broker forget these: with one word for all that come before the first that is still held."""
        fresh = self._settle(numbers)
        first_held = next(iter(self._held), None)
        run = fresh if first_held is None else fresh[: bisect_left(fresh, first_held)]
        frames = [acknowledgement(self.channel.number, run[-1], multiple=True)] if run else []
        frames += [acknowledgement(self.channel.number, number, multiple=False) for number in fresh[len(run) :]]
        self._say(frames)

    def release(self, numbers: Iterable[int]) -> None:
        """Gives these back to the queue."""
        self._say([rejection(self.channel.number, number) for number in self._settle(numbers)])

    def _say(self, frames: Sequence[bytes]) -> None:
        if frames:
            self.channel.wire.say(b"".join(frames))

    def _settle(self, numbers: Iterable[int]) -> list[int]:
        """Those that were not settled before, in order. To settle one twice would cost the channel."""
        fresh = sorted({number for number in numbers if number in self._held})
        for number in fresh:
            del self._held[number]
        return fresh

    def _delivered(self, number: int, redelivered: bool, properties: bytes, packet: bytes) -> None:
        if not self._brought:
            asyncio.get_running_loop().call_soon(self._flush)
        self._held[number] = None
        self._brought.append((number, redelivered, properties, packet))

    def _flush(self) -> None:
        brought, self._brought = self._brought, []
        if not self.is_over:
            self._take(self, brought)

    def _has_been_cancelled(self, _said: object) -> None:
        """The queue is gone, or its node: the broker sends no more, and says nothing else."""
        self.channel.abandon("the broker has ended the consumer, as it does when the queue is deleted")


class Wish(NamedTuple):
    """What a service was declared with."""

    topics: Sequence[str]
    dropped: Sequence[str]


class Inbound:
    """Consumes over a connection that comes back."""

    def __init__(self, settings: Settings, world: World) -> None:
        self.link = Link(settings, world, self._keep)
        self.receiver: Receiver | None = None
        self.reply_queue = f"{settings.prefix}replies.{world.new_id()}"
        self._settings = settings
        self._world = world
        self._wishes: dict[str, Wish] = {}
        self._wants_replies = False
        self._consumers: dict[str, Consumer] = {}
        """By queue; at most one for each."""
        self._troubles: dict[str, str] = {}
        """By queue: why nothing is consumed from it."""
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._changed = asyncio.Event()

    @property
    def trouble(self) -> str:
        """What does not work; empty when all is well."""
        if self.link.trouble:
            return self.link.trouble
        idle = [queue for queue in self._wanted() if not self._is_consumed(queue)]
        return "; ".join(self._troubles.get(queue, f"nothing is consumed from {queue!r} yet") for queue in idle)

    async def declare(self, service: str, topics: Sequence[str], dropped: Sequence[str]) -> None:
        """As `Transport.declare` says."""
        wish = Wish(tuple(topics), tuple(dropped))
        self.link.start()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.confirm_timeout
        while True:
            try:
                wire = await self.link.wire_in_time()
            except Unavailable as error:
                raise (self.link.misuse or error) from error
            try:
                async with asyncio.timeout(self._settings.confirm_timeout):
                    await self._serve(wire, service, wish)
                break
            except (ChannelLost, TimeoutError) as error:
                if wire.ended.done() and loop.time() < deadline:
                    # RabbitMQ ends the connection of who consumes from a quorum queue that is just being made.
                    continue
                why = error.text if isinstance(error, ChannelLost) else "it does not answer in time"
                raise Unavailable(f"the service {service!r} cannot be declared at {self._settings}: {why}.") from error
        self._wishes[service] = wish

    def want_replies(self) -> None:
        """From now on, and after every loss of the connection, there is a queue for answers."""
        if not self._wants_replies:
            self._wants_replies = True
            self._changed.set()
            self.link.start()

    async def replies_in_time(self) -> None:
        """Returns when answers can come. Raises `Unavailable`. An answer without a queue would be lost."""
        if not self._wants_replies or self._is_consumed(self.reply_queue):
            return
        wire = await self.link.wire_in_time()
        try:
            async with asyncio.timeout(self._settings.confirm_timeout):
                await self._await_replies(wire)
        except (ChannelLost, TimeoutError) as error:
            why = error.text if isinstance(error, ChannelLost) else "it does not answer in time"
            raise Unavailable(f"answers cannot be received from {self._settings}: {why}.") from error

    async def depth(self, service: str) -> int:
        """What is ready in the queue, and what this process holds of it."""
        self.link.start()
        queue = self._settings.queue(service)
        held = self._consumers[queue].held if queue in self._consumers else 0
        wire = await self.link.wire_in_time()
        try:
            async with asyncio.timeout(self._settings.confirm_timeout):
                return held + await count(wire, queue)
        except (ChannelLost, TimeoutError) as error:
            raise Unavailable(f"the queue {queue!r} cannot be counted: {error or 'no answer in time'}.") from error

    async def examine(self) -> list[Finding]:
        """The broker's version, how queues are made, and what is wrong at the moment."""
        self.link.start()
        wire = await self.link.wire_in_time()
        is_quorum = self._settings.queue_type == "quorum"
        return [
            Finding(what="broker", is_good=True, seen=f"{wire.product} at {wire.host}"),
            Finding(
                what="queues",
                is_good=is_quorum,
                seen=self._settings.queue_type,
                advice=""
                if is_quorum
                else "Classic queues are on one node only. Use ?queue_type=quorum where it counts.",
            ),
            Finding(
                what="consuming",
                is_good=not self.trouble,
                seen=self.trouble or "all is well",
                advice="Nothing is lost; it goes on when the cause is gone." if self.trouble else "",
            ),
        ]

    async def close(self) -> None:
        """Lets go of everything; the queue for answers goes too."""
        wire = self.link.wire
        if wire is not None and wire.is_open and self._wants_replies:
            with suppress(ChannelLost, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS), channel_on(wire) as channel:
                    await channel.call("queue_delete", queue=self.reply_queue)
        self._wishes.clear()
        self._wants_replies = False
        await self.link.close()

    async def _keep(self, wire: Wire) -> None:
        """Has a consumer for each service as long as there is a connection."""
        pause = Pause(self._world)
        wire.ended.add_done_callback(lambda _: self._changed.set())
        while not wire.ended.done():
            self._changed.clear()
            pause.began()
            await self._restore(wire)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause.seconds() if self._troubles else None):
                    await self._changed.wait()
            if self._changed.is_set():
                # A consumer that the broker ends again and again is not to cost all of its time.
                await asyncio.wait([wire.ended], timeout=pause.seconds())

    def _wanted(self) -> list[str]:
        queues = [self._settings.queue(service) for service in self._wishes]
        return [*queues, self.reply_queue] if self._wants_replies else queues

    def _is_consumed(self, queue: str) -> bool:
        return queue in self._consumers and self._consumers[queue].is_open

    async def _restore(self, wire: Wire) -> None:
        """All at once: a queue that does not answer, as one without a leader, holds up no other."""
        missing = {
            self._settings.queue(service): self._serve(wire, service, wish)
            for service, wish in self._wishes.items()
            if not self._is_consumed(self._settings.queue(service))
        }
        if self._wants_replies and not self._is_consumed(self.reply_queue):
            missing[self.reply_queue] = self._await_replies(wire)
        await asyncio.gather(*(self._try(queue, wire, restoring) for queue, restoring in missing.items()))

    async def _try(self, queue: str, wire: Wire, restoring: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._settings.confirm_timeout):
                await restoring
        except (ChannelLost, Misuse, TimeoutError) as error:
            if not wire.ended.done():
                since = f"{self._world.now():%Y-%m-%d %H:%M:%S} UTC"
                why = str(error) or "it does not answer"
                self._troubles.setdefault(queue, f"nothing is consumed from {queue!r} since {since}: {why}")

    async def _serve(self, wire: Wire, service: str, wish: Wish) -> None:
        """The queue, its bindings, and one consumer."""
        queue = self._settings.queue(service)
        async with self._locks[queue]:
            await ensure_exchange(wire, self._settings)
            await ensure_queue(wire, self._settings, service)
            await ensure_bindings(wire, self._settings, service, topics=wish.topics, dropped=wish.dropped)
            await self._consume(wire, queue, partial(self._arrived, service))

    async def _await_replies(self, wire: Wire) -> None:
        """A queue of our own. It outlives a short loss of the connection, and an exclusive one would be locked then.

        It is classic, since it lives a minute longer than we do, and what is in it is not kept over a restart.
        """
        async with self._locks[self.reply_queue]:
            async with channel_on(wire) as channel:
                kept = {"x-expires": REPLIES_KEPT_MILLISECONDS}
                await channel.call("queue_declare", queue=self.reply_queue, durable=True, arguments=kept)
            await self._consume(wire, self.reply_queue, self._answered)

    async def _consume(self, wire: Wire, queue: str, take: Callable[[Consumer, list[Brought]], None]) -> None:
        if queue in self._consumers:
            return
        consumer = Consumer(Channel(wire), queue, take)
        self._consumers[queue] = consumer
        consumer.channel.ended.add_done_callback(lambda _: self._has_lost(consumer))
        try:
            await consumer.open(self._settings.held_max)
        except BaseException:
            consumer.channel.abandon("it could not be opened")
            self._has_lost(consumer)
            raise
        self._troubles.pop(queue, None)

    def _arrived(self, service: str, consumer: Consumer, brought: list[Brought]) -> None:
        assert self.receiver is not None
        arrivals: list[Arrival] = []
        for number, redelivered, properties, packet in brought:
            id, _, handed_over = properties_of(properties)
            arrivals.append(
                Arrival(
                    id or derived_id(packet),
                    packet,
                    int(redelivered) if handed_over is None else handed_over,
                    (consumer, number),
                )
            )
        self.receiver.arrived(service, arrivals)

    def _answered(self, consumer: Consumer, brought: list[Brought]) -> None:
        assert self.receiver is not None
        for _, _, properties, packet in brought:
            self.receiver.answered(properties_of(properties)[1], packet)
        consumer.acknowledge([number for number, *_ in brought])

    def _has_lost(self, consumer: Consumer) -> None:
        if self._consumers.get(consumer.queue) is not consumer:
            return
        del self._consumers[consumer.queue]
        self._changed.set()
        service = self._settings.service(consumer.queue)
        if consumer.queue != self.reply_queue and self.receiver is not None:
            self.receiver.lost(service)


def _never(*_: object) -> None:
    """What pika is to call with a message; the messages do not get to it."""


def derived_id(packet: bytes) -> str:
    """An id for a message whose sender gave none: the same whenever the same is handed over.

    It is made of the body alone, so two messages that are equal byte for byte count as one. One of ours has its own
    id in it. A foreign sender that means two equal messages gives each a `message_id`.
    """
    return blake2b(packet, digest_size=16).hexdigest()
