"""RabbitMQ as a transport: what the other modules do, as `ports.Transport` asks for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta

from outlast.adapters.rabbitmq.inbound import Consumer, Inbound, Tag
from outlast.adapters.rabbitmq.outbound import Outbound
from outlast.adapters.rabbitmq.settings import read
from outlast.ports import Finding, Parcel, Receiver, World

CONSUMER_TIMEOUT = timedelta(minutes=30)
"""RabbitMQ's own, which cannot be asked for over AMQP."""


class RabbitMQTransport:
    """One process's connections to a RabbitMQ: one to publish, and one to consume if anything is to be consumed.

    A message is kept by the broker from the return of `publish` until it is acknowledged, on a quorum queue by most
    of its nodes. What becomes of a process, of its connections and of the broker meanwhile can only make a message
    come again. Answers to requests are kept for a minute without a connection, and not over a restart of the broker.
    """

    def __init__(self, url: str, world: World) -> None:
        self.settings = read(url)
        if self.settings.tls:
            self.settings.context()  # what is wrong with the certificates is said now, not when it does not connect
        self._outbound = Outbound(self.settings, world)
        self._inbound = Inbound(self.settings, world)

    @property
    def name(self) -> str:
        return str(self.settings)

    @property
    def reply_address(self) -> str:
        self._inbound.want_replies()
        return self._inbound.reply_queue

    @property
    def bundle(self) -> int:
        """How many parcels are to travel in one message."""
        return self.settings.bundle

    @property
    def trouble(self) -> str:
        return self._outbound.trouble or self._inbound.trouble

    @property
    def patience(self) -> timedelta:
        return CONSUMER_TIMEOUT

    @property
    def can_publish(self) -> bool:
        return not self._outbound.trouble

    def open(self, receiver: Receiver) -> None:
        self._inbound.receiver = receiver
        self._outbound.link.start()

    async def declare(self, service: str, topics: Sequence[str], dropped: Sequence[str]) -> None:
        await self._inbound.declare(service, topics, dropped)

    async def publish(self, parcels: Sequence[Parcel]) -> None:
        if parcels:
            await self._inbound.replies_in_time()
            await self._outbound.publish(parcels)

    async def acknowledge(self, tags: Sequence[Tag]) -> None:
        for consumer, numbers in _by_consumer(tags).items():
            consumer.acknowledge(numbers)

    async def release(self, tags: Sequence[Tag]) -> None:
        for consumer, numbers in _by_consumer(tags).items():
            consumer.release(numbers)

    async def renew(self, tags: Sequence[Tag]) -> None:
        """RabbitMQ cannot be told; see `inbound` for what follows from that."""

    async def depths(self, services: Sequence[str]) -> Mapping[str, int]:
        """What other processes hold is not in it: RabbitMQ tells that to its management interface only."""
        return {service: await self._inbound.depth(service) for service in services}

    async def examine(self) -> Sequence[Finding]:
        """What can be asked over AMQP. How large messages may be, and the consumer timeout, cannot."""
        return await self._inbound.examine()

    async def close(self) -> None:
        await self._inbound.close()
        await self._outbound.close()


def _by_consumer(tags: Sequence[Tag]) -> Mapping[Consumer, list[int]]:
    """The numbers of messages that are still with us."""
    numbers: dict[Consumer, list[int]] = defaultdict(list)
    for consumer, number in tags:
        if not consumer.is_over:
            numbers[consumer].append(number)
    return numbers
