"""The transport on NATS JetStream: what it promises to the broker engine, and the supervision of its connection."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from outlast.adapters.nats import publishing, topology
from outlast.adapters.nats.consumer import Consumer, Tag
from outlast.adapters.nats.line import Frame
from outlast.adapters.nats.names import REQUEST_HEADER, Names, from_header_value
from outlast.adapters.nats.place import read_place
from outlast.adapters.nats.session import Absent, Refused, Session
from outlast.adapters.nats.sweeping import Sweeper
from outlast.errors import Misuse, OutlastError, Unavailable
from outlast.ports import Arrival, Finding, Parcel, Receiver, World

TICK_SECONDS = 1.0
PAUSE_SECONDS_MAX = 5.0
"""Between two attempts to connect."""
QUIET_SECONDS = 0.02
CLOSING_LOOKS = 25
SWEEP_SECONDS = 5.0
MOMENT_SECONDS = 2.0
"""What a publisher waits for a connection that is not there."""


class Service:
    """What a service gets here."""

    def __init__(self, topics: Sequence[str], consumers: Sequence[Consumer]) -> None:
        self.topics = topics
        self.consumers = consumers


class NatsTransport:
    """Queues and topics in a stream of a NATS server.

    A connection that breaks for a moment costs nothing: what was handed over stays ours for as long as the server
    has not lost patience. After a longer one, or if the server was restarted, it is handed over again.
    """

    def __init__(self, url: str, world: World) -> None:
        place = self._place = read_place(url)
        self._world = world
        self._names = Names(place.prefix)
        self._address = world.new_id()
        self._receiver: Receiver | None = None
        self._services: dict[str, Service] = {}
        self._session: Session | None = None
        self._latest: Session | None = None
        """The session that is there, or is being made, or was the last."""
        self._turned = asyncio.Event()
        """Set when an attempt to connect has ended, either way."""
        self._trouble: OutlastError | None = None
        self._trouble_since = world.now()
        self._task: asyncio.Task[None] | None = None
        self._last_server = ""
        self._sweeper = Sweeper(self._names)
        self._is_swept = False
        """Nothing was published or acknowledged since the last time."""
        self._heard_at = 0.0

    @property
    def name(self) -> str:
        return self._place.name

    @property
    def reply_address(self) -> str:
        return self._address

    @property
    def bundle(self) -> int:
        """How many parcels are to travel in one message."""
        return self._place.bundle

    @property
    def trouble(self) -> str:
        if self._trouble is None:
            return ""
        return f"since {self._trouble_since:%Y-%m-%d %H:%M:%S} UTC: {self._trouble}"

    @property
    def patience(self) -> timedelta:
        return timedelta(seconds=self._place.ack_wait_seconds)

    @property
    def can_publish(self) -> bool:
        return self._session is not None

    def open(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._say(Unavailable(f"not connected to {self.name} yet."))
        self._task = asyncio.get_running_loop().create_task(self._supervise())

    async def declare(self, service: str, topics: Sequence[str], dropped: Sequence[str]) -> None:
        try:
            session = await self._connected(within=self._place.publish_timeout_seconds)
        except Unavailable:
            if isinstance(self._trouble, Misuse):
                raise Misuse(str(self._trouble)) from None
            raise
        await self._make(session, service, topics, change=True)
        known = self._services.get(service)
        names = self._names
        wanted = [names.commands_of(service), names.events_of(service)] if topics else [names.commands_of(service)]
        consumers = {consumer.name: consumer for consumer in known.consumers} if known else {}
        for name in set(consumers) - set(wanted):
            consumers.pop(name).pause()
        for name in wanted:
            if name not in consumers:
                consumers[name] = Consumer(names.stream, name, self._deliver_to(service), held_max=self._place.held_max)
                consumers[name].resume(session)
        self._services[service] = Service(list(topics), list(consumers.values()))
        # The server has our pulls: what is published from now on comes here.
        await session.round_trip()

    async def publish(self, parcels: Sequence[Parcel]) -> None:
        session = await self._connected()
        posts, answers = publishing.posts_for(parcels, self._names, size_max=session.size_max)
        if answers:
            session.line.send(b"".join(answers))
            await session.line.drain()
        if posts:
            self._is_swept = False
            await self._publish(session, posts)
        elif answers:
            await session.round_trip()

    async def _publish(self, session: Session, posts: Sequence[publishing.Post]) -> None:
        try:
            await publishing.publish(session, posts, new_id=self._world.new_id)
        except publishing.StreamMissing:
            try:
                await topology.make_stream(session, self._place, self._names)
                await publishing.publish(session, posts, new_id=self._world.new_id)
            except publishing.StreamMissing as error:
                raise Unavailable(f"publishing to {self.name} failed: JetStream is not ready.") from error
            except Misuse as error:  # of the stream; the messages are not to blame
                raise Unavailable(str(error)) from error

    async def acknowledge(self, tags: Sequence[Any]) -> None:
        mine = self._let_go(tags)
        session = self._session
        if not mine or session is None:
            return
        self._is_swept = False
        # What the server does not confirm comes again, and the inbox knows it.
        with suppress(Unavailable):
            await session.exchange(
                lambda reply: b"".join([b"PUB %b %b 4\r\n+ACK\r\n" % (tag.subject, reply) for tag in mine]),
                len(mine),
                f"acknowledging {len(mine)} messages",
            )

    async def release(self, tags: Sequence[Any]) -> None:
        self._send_for(self._let_go(tags), b"-NAK")

    async def renew(self, tags: Sequence[Any]) -> None:
        self._renew([tag for tag in tags if tag in tag.consumer.held])

    async def depths(self, services: Sequence[str]) -> Mapping[str, int]:
        session = await self._connected()
        try:
            return await topology.depth(session, self._names, services)
        except (Refused, Absent) as error:
            raise Unavailable(str(error)) from error

    async def examine(self) -> Sequence[Finding]:
        return await topology.examine(await self._connected(), self._names)

    async def close(self) -> None:
        session, task = self._session, self._task
        if session is not None:
            with suppress(Unavailable):
                await self._stop_consumers()
                # Only now it is certain that nothing more comes.
                await session.round_trip()
                self._send_for(self._let_go([tag for one in self._consumers() for tag in one.held]), b"-NAK")
                await session.round_trip()
        self._services.clear()
        if task is not None:
            while not task.done():  # a library in between may have taken the first for its own
                task.cancel()
                await asyncio.wait([task], timeout=1)
        if self._latest is not None:
            await self._latest.end()  # once more: the task may have been in the middle of it

    async def _stop_consumers(self) -> None:
        """A message on its way to a subscription that has ended would be missed by everybody for a while."""
        consumers = self._consumers()
        for consumer in consumers:
            consumer.stop()
        held = -1
        for _ in range(CLOSING_LOOKS):
            before, held = held, sum(len(consumer.held) for consumer in consumers)
            if held == before:
                break
            await asyncio.sleep(QUIET_SECONDS)
        for consumer in consumers:
            consumer.pause()

    def _deliver_to(self, service: str) -> Callable[[Sequence[Arrival]], None]:
        receiver = self._receiver
        assert receiver is not None, "open comes first"
        return lambda arrivals: receiver.arrived(service, arrivals)

    def _consumers(self) -> list[Consumer]:
        return [consumer for service in self._services.values() for consumer in service.consumers]

    def _let_go(self, tags: Sequence[Any]) -> list[Tag]:
        by_consumer: defaultdict[Consumer, list[Tag]] = defaultdict(list)
        for tag in tags:
            by_consumer[tag.consumer].append(tag)
        return [tag for consumer, some in by_consumer.items() for tag in consumer.let_go(some)]

    def _send_for(self, tags: Sequence[Tag], word: bytes) -> None:
        session = self._session
        if tags and session is not None and not session.is_lost:
            session.line.send(_words(tags, word))

    def _renew(self, tags: Sequence[Tag]) -> None:
        self._send_for(tags, b"+WPI")
        now = asyncio.get_running_loop().time()
        for tag in tags:
            tag.told_at = now

    async def _connected(self, *, within: float = MOMENT_SECONDS) -> Session:
        """The session, for which it waits a moment. Raises `Unavailable`, whatever is in the way."""
        with suppress(TimeoutError):
            async with asyncio.timeout(min(within, self._place.publish_timeout_seconds)):
                while self._session is None or self._session.is_lost:
                    if isinstance(self._trouble, Misuse):
                        break
                    self._turned.clear()
                    await self._turned.wait()
        if self._session is None or self._session.is_lost:
            raise Unavailable(f"{self.name} cannot be used {self.trouble}")
        return self._session

    def _say(self, error: OutlastError | None) -> None:
        if self._trouble is None or error is None:
            self._trouble_since = self._world.now()
        self._trouble = error
        self._turned.set()

    async def _supervise(self) -> None:
        """Connects, stays for as long as the connection does, and connects again; for ever."""
        attempt = 0
        while True:
            server = self._place.servers[attempt % len(self._place.servers)]
            attempt += 1
            lost = asyncio.Event()
            session = self._latest = Session(self._place, inbox=self._world.new_id(), lost=lost.set)
            try:
                await session.open(server)
                await self._restore(session)
                self._session = session
                self._say(None)
                attempt = attempt if len(self._place.servers) > 1 else 0
                try:
                    await self._watch(session, lost)
                finally:
                    self._heard_at = session.heard_at
                raise Unavailable(f"the connection to {self.name} was lost: {session.why_lost}.")
            except (Misuse, Unavailable, Refused, Absent) as error:
                self._session = None
                self._say(error)
            finally:
                self._session = None
                await session.end()
            if not self._is_patient():
                self._give_up_held()
            pause = min(PAUSE_SECONDS_MAX, 0.1 * 2 ** min(attempt, 8))
            await asyncio.sleep(pause * (0.5 + self._world.dice()))

    def _is_patient(self) -> bool:
        """Whether the server surely still keeps for us what it handed over before the connection was lost.

        Half of its patience may have been over then, for so seldom it is told.
        """
        return asyncio.get_running_loop().time() - self._heard_at < self._place.ack_wait_seconds / 2

    def _give_up_held(self) -> None:
        """Others may have been given it by now."""
        for name, service in self._services.items():
            if any(consumer.held for consumer in service.consumers):
                self._forget(name)

    def _forget(self, name: str) -> None:
        for consumer in self._services[name].consumers:
            consumer.held.clear()
        if self._receiver is not None:
            self._receiver.lost(name)

    async def _restore(self, session: Session) -> None:
        """Everything that was declared, on a new connection."""
        topology.check_server(session)
        session.subscribe(self._names.answers(self._address), self._answered)
        is_ours = session.server_id == self._last_server and self._is_patient()
        for name in list(self._services):
            await self._restore_service(session, name, is_ours=is_ours)
        if not self._services:
            await topology.make_stream(session, self._place, self._names)
        self._last_server = session.server_id

    async def _restore_service(self, session: Session, name: str, *, is_ours: bool) -> None:
        """Pulls for the service on this session. `is_ours`: what it holds is still kept for it."""
        service = self._services[name]
        is_new = await self._make(session, name, service.topics, change=False)
        if is_new or not is_ours:
            # A server that was restarted knows of what it handed over, and would wait for us.
            held = [tag for consumer in service.consumers for tag in consumer.held]
            session.line.send(_words(held, b"-NAK"))
            self._forget(name)
        for consumer in service.consumers:
            consumer.resume(session)

    async def _make(self, session: Session, service: str, topics: Sequence[str], *, change: bool) -> bool:
        """Whether something was missing of what the service needs; now it is there."""
        place, names = self._place, self._names
        made = [
            await topology.make_stream(session, place, names),
            await topology.make_queue(session, place, names, service),
            await topology.make_subscriptions(session, place, names, service, topics, change=change),
        ]
        return any(made)

    async def _watch(self, session: Session, lost: asyncio.Event) -> None:
        """Returns when the session is lost."""
        loop = asyncio.get_running_loop()
        sweep_at = loop.time() + SWEEP_SECONDS * self._world.dice()
        seconds = min(TICK_SECONDS, self._place.ack_wait_seconds / 8)
        while not session.is_lost:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await lost.wait()
            session.tick(seconds)
            if not session.is_lost:
                await self._look_after_consumers(session, seconds)
            if not session.is_lost and loop.time() >= sweep_at:
                sweep_at = loop.time() + SWEEP_SECONDS * (0.5 + self._world.dice())
                await self._sweep(session)

    async def _sweep(self, session: Session) -> None:
        if not self._is_swept:
            self._is_swept = True
            try:
                await self._sweeper.sweep(session, [consumer.name for consumer in self._consumers()])
            except Unavailable:
                self._is_swept = False

    async def _look_after_consumers(self, session: Session, seconds: float) -> None:
        patience = self._place.ack_wait_seconds / 2
        now = asyncio.get_running_loop().time()
        for name, service in list(self._services.items()):
            for consumer in service.consumers:
                consumer.tick(seconds)
                self._renew(consumer.quiet_since(now - patience))
            if any(consumer.is_broken for consumer in service.consumers):
                await self._restore_service(session, name, is_ours=True)

    def _answered(self, frames: Sequence[Frame]) -> None:
        assert self._receiver is not None
        for frame in frames:
            at = frame.header.find(REQUEST_HEADER + b":")
            if at >= 0:
                value = frame.header[at + len(REQUEST_HEADER) + 1 : frame.header.find(b"\r\n", at)].strip()
                self._receiver.answered(from_header_value(value), frame.payload)


def _words(tags: Sequence[Tag], word: bytes) -> bytes:
    """The same word about each of them."""
    return b"".join([b"PUB %b %d\r\n%b\r\n" % (tag.subject, len(word), word) for tag in tags])
