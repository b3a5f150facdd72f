"""Who gets what the transport brings in these tests, and how a test waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pika

from outlast.adapters.rabbitmq import RabbitMQTransport
from outlast.adapters.system import SystemWorld
from outlast.ports import Arrival, Parcel

LONGEST = 30.0


class Desk:
    """A receiver that writes down what happens."""

    def __init__(self, url: str) -> None:
        self.transport = RabbitMQTransport(url, SystemWorld())
        self.arrivals: list[tuple[str, Arrival]] = []
        self.losses: list[str] = []
        self.answers: list[tuple[str, bytes]] = []
        self.acknowledges = False
        """Whether everything is acknowledged as it comes."""

    def arrived(self, service: str, arrivals: Sequence[Arrival]) -> None:
        self.arrivals += [(service, arrival) for arrival in arrivals]
        if self.acknowledges:
            asyncio.get_running_loop().create_task(self.transport.acknowledge([a.tag for a in arrivals]))

    def lost(self, service: str) -> None:
        self.losses.append(service)

    def answered(self, request: str, packet: bytes) -> None:
        self.answers.append((request, packet))

    @property
    def ids(self) -> list[str]:
        return [arrival.id for _, arrival in self.arrivals]

    @property
    def tags(self) -> list[Any]:
        return [arrival.tag for _, arrival in self.arrivals]

    async def has(self, *ids: str) -> None:
        """Returns when all of these have arrived."""
        await until(lambda: set(ids) <= set(self.ids), f"{ids} of {self.ids[-20:]}, {self.transport.trouble}")

    async def publish(self, *ids: str, to: str = "payment", packet: bytes = b"{}") -> None:
        await self.transport.publish([Parcel(id, packet, queue=to) for id in ids])


@asynccontextmanager
async def desk(url: str, *services: str, topics: Sequence[str] = ()) -> AsyncIterator[Desk]:
    """An open transport that consumes for these services; closed at the end."""
    made = Desk(url)
    made.transport.open(made)
    try:
        for service in services:
            await made.transport.declare(service, topics, [])
        yield made
    finally:
        await made.transport.close()


async def until(condition: Callable[[], object], what: object = "it", *, seconds: float = LONGEST) -> None:
    """Returns when the condition is true."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        what = what() if callable(what) else what
        raise AssertionError(f"did not come true in {seconds:g} s: {what}") from None


async def consumers(url: str, queue: str) -> int:
    """How many consumers the broker counts for a queue."""
    async with foreign(url) as channel:
        return int(channel.queue_declare(queue, passive=True).method.consumer_count)


@asynccontextmanager
async def foreign(url: str) -> AsyncIterator[Any]:
    """A channel of a client that is none of ours."""
    connection = await asyncio.to_thread(pika.BlockingConnection, pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        if connection.is_open:
            connection.close()


def with_option(url: str, **options: object) -> str:
    return url + "?" + "&".join(f"{name}={value}" for name, value in options.items())
