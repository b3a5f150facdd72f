"""A transport with a receiver that only remembers, and the waits that all these tests need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import nats

from outlast.adapters.nats import NatsTransport
from outlast.adapters.system import SystemWorld
from outlast.ports import Arrival, Parcel

WAIT_SECONDS = 15.0

world = SystemWorld()


class Remembered:
    """What a transport has brought."""

    def __init__(self) -> None:
        self.arrivals: dict[str, list[Arrival]] = {}
        self.losses: list[str] = []
        self.answers: list[tuple[str, bytes]] = []

    def arrived(self, service: str, arrivals: Sequence[Arrival]) -> None:
        self.arrivals.setdefault(service, []).extend(arrivals)

    def lost(self, service: str) -> None:
        self.losses.append(service)

    def answered(self, request: str, packet: bytes) -> None:
        self.answers.append((request, packet))

    def of(self, service: str) -> list[Arrival]:
        return self.arrivals.get(service, [])

    def ids(self, service: str) -> list[str]:
        return [arrival.id for arrival in self.of(service)]

    async def wait_for(self, service: str, count: int, *, seconds: float = WAIT_SECONDS) -> list[Arrival]:
        """At least so many different messages."""
        await until(lambda: len(set(self.ids(service))) >= count, f"{count} for {service}", seconds=seconds)
        return self.of(service)

    def take(self, service: str) -> list[Arrival]:
        """What has arrived so far, which is then forgotten."""
        return self.arrivals.pop(service, [])


async def until(condition: Callable[[], object], what: str, *, seconds: float = WAIT_SECONDS) -> None:
    """Waits for a condition, and says what did not become true."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"in {seconds:g} s there was not: {what}"
        await asyncio.sleep(0.01)


def with_options(url: str, **options: object) -> str:
    """The URL with these options."""
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return urlsplit(url)._replace(query=query).geturl()


@asynccontextmanager
async def opened(url: str, **options: object) -> AsyncIterator[tuple[NatsTransport, Remembered]]:
    """A transport on this NATS, closed at the end."""
    transport, remembered = NatsTransport(with_options(url, **options), world), Remembered()
    transport.open(remembered)
    try:
        yield transport, remembered
    finally:
        await transport.close()


def commands(count: int, queue: str = "payment", *, size: int = 100) -> list[Parcel]:
    """So many different commands for one queue."""
    return [Parcel(world.new_id(), b"%06d" % number + bytes(size), queue=queue) for number in range(count)]


async def kept(url: str) -> int:
    """How many messages the server keeps."""
    connection = await nats.connect(url)
    try:
        return (await connection.jetstream().stream_info("outlast")).state.messages
    finally:
        await connection.close()


async def until_nothing_is_kept(url: str) -> None:
    """What everybody has acknowledged is removed by and by."""
    deadline = asyncio.get_running_loop().time() + WAIT_SECONDS
    while count := await kept(url):
        assert asyncio.get_running_loop().time() < deadline, f"{count} messages are still kept"
        await asyncio.sleep(0.1)


def tags(arrivals: Sequence[Arrival]) -> list[object]:
    return [arrival.tag for arrival in arrivals]
