"""A broker and a store as one engine. The runtime cannot tell it from a database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

import msgspec

from outlast.adapters.broker.bundles import known_to_broker, opened, settled
from outlast.adapters.broker.postman import LOOK, Postman
from outlast.adapters.broker.tray import DOUBTED_AFTER, Tray
from outlast.errors import Conflict, Misuse, Unavailable
from outlast.ports import (
    RELAY,
    REPLIES,
    Address,
    Arrival,
    Changes,
    Delivery,
    Finding,
    Receipt,
    SharesConnection,
    Statements,
    Store,
    Stored,
    Transport,
    Work,
    World,
    by_keeper,
)

CLOSING_SECONDS = 5.0
"""How long a process that stops waits for the broker to take what it has sent. It is in the outbox in any case."""


ASKING_SECONDS = 3.0
"""How long a broker is asked how much waits, before its part is left out."""
ASKED_AT_ONCE = 10_000
"""Requests whose answers are waited for, at most."""


class BrokerEngine:
    """One process's view of a broker with a store.

    `bundle`: how many parcels for one destination it sends in one message, at most; it reads such messages in any
    case. `look`: how often it looks for what others left in the outbox.
    """

    turns_at_once = 1

    def __init__(
        self, transport: Transport, store: Store, world: World, *, bundle: int = 1, look: timedelta = LOOK
    ) -> None:
        self.transport = transport
        self.store = store
        self.world = world
        self.connection_type = store.connection_type
        self.connection_waits = store.connection_waits
        self.postman = Postman(transport, store, world, bundle=bundle, look=look)
        store.posted = self.postman.post
        self._trays: dict[str, Tray] = {}
        self._answers: dict[str, bytes] = {}
        self._asked: dict[str, None] = {}
        self._answer_listeners: list[Callable[[], None]] = []
        self._is_open = False

    @property
    def trouble(self) -> str:
        """What does not work at the moment; empty when all is well."""
        return self.transport.trouble or self.postman.trouble

    def open(self) -> None:
        """Begins to connect and to deliver, if it has not."""
        if not self._is_open:
            self._is_open = True
            self.transport.open(self)
            self.postman.start()

    async def declare(self, service: str, topics: Sequence[str]) -> None:
        self.open()
        tray = self._trays.setdefault(service, Tray())
        dropped = set(await self.store.topics(service)).difference(topics)
        # The broker first: as long as the store has the old topics, whoever tries again knows what to drop.
        await self.transport.declare(service, topics, sorted(dropped))
        await self.store.declare(service, topics)
        tray.put([])

    async def receive(self, service: str, limit: int) -> Sequence[Delivery]:
        tray = self._trays.get(service)
        if tray is None:
            return []
        arrivals = tray.waiting(limit)
        suspects = [arrival.id for arrival in arrivals if arrival.count >= DOUBTED_AFTER]
        tries = await self.store.tries(service, suspects) if suspects else dict[str, int]()
        return [Delivery(a.id, a.packet, tries.get(a.id, 0)) for a in arrivals]

    async def count(self, service: str, deliveries: Sequence[Delivery]) -> None:
        """Writes down, before it can happen, that this process may be killed by one of these."""
        tray = self._trays.get(service)
        untold = tray.untold(deliveries) if tray is not None else []
        if tray is None or not untold:
            return
        work = await self.store.begin(service)
        try:
            await work.commit(Changes(claimed=[msgspec.structs.replace(d, count=1) for d in untold]))
        except Conflict:  # one of them is handled already, which the turn will find out
            await work.rollback()
        except BaseException:
            await work.rollback()
            raise
        tray.counted(untold)

    async def begin(self, service: str) -> BrokerWork:
        self.open()
        return BrokerWork(lambda: self.store.begin(service), self, service)

    async def begin_on(self, connection: Any) -> BrokerWork:
        """A transaction of the store on the caller's connection."""
        store = self.store
        if not isinstance(store, SharesConnection):
            raise Misuse(f"{type(store).__name__} shares no connection. Use a store with a database.")
        self.open()
        work = BrokerWork(lambda: store.begin_on(connection), self, "")
        await work.begin()
        return work

    def for_store(self, service: str, changes: Changes) -> Changes:
        """What of the changes is the store's matter: a claim is not, for a broker keeps from others what it hands over.

        Of what was handled it must know which was counted, to forget that.
        """
        tray = self._trays.get(service)
        if tray is None or not (changes.claimed or changes.handled):
            return changes
        return msgspec.structs.replace(changes, claimed=[], handled=tray.with_counts(changes.handled))

    async def committed(self, service: str, changes: Changes) -> None:
        """Tells the tray and the broker what a turn has claimed, is still at, and has given back."""
        tray = self._trays.get(service)
        if tray is None:
            return
        tray.claim(by_keeper(changes.claimed)[1])
        renewed, released = by_keeper(changes.renewed)[1], by_keeper(changes.released)[1]
        # It is committed whatever happens here: a broker that hears nothing hands these over again.
        with suppress(Unavailable):
            if renewed and (tags := tray.every_tag()):
                # What waits behind that which is handled must not be counted as handed over in vain.
                await self.transport.renew(known_to_broker(tags))
            if tags := tray.release(released):
                await self.transport.release(tags)

    async def acknowledge(self, service: str, deliveries: Sequence[Delivery]) -> None:
        tray = self._trays.get(service)
        if tray is not None and (tags := settled(tray.settle(by_keeper(deliveries)[1]))):
            await self.transport.acknowledge(tags)

    async def relay(self, now: datetime, limit: int) -> datetime | None:
        self.open()
        return await self.store.relay(now, limit)

    def listen(self, name: str, notify: Callable[[], None]) -> None:
        if name == RELAY:
            self.store.listen(name, notify)
        elif name == REPLIES:
            self._answer_listeners.append(notify)
        else:
            self._trays.setdefault(name, Tray()).notify.append(notify)

    def reply_to(self, request: str) -> str:
        self.open()
        self._asked[request] = None
        if len(self._asked) > ASKED_AT_ONCE:  # the oldest has been given up long ago
            given_up = next(iter(self._asked))
            del self._asked[given_up]
            self._answers.pop(given_up, None)
        return f"{request}@{self.transport.reply_address}"

    async def reply(self, request: str) -> bytes | None:
        packet = self._answers.pop(request, None)
        if packet is not None:
            self._asked.pop(request, None)
        return packet

    async def depths(self, services: Sequence[str]) -> Mapping[str, int]:
        """How many messages wait at the broker; those of a broker that cannot be asked are not counted."""
        self.open()
        if self.transport.trouble:
            return {}
        try:
            async with asyncio.timeout(ASKING_SECONDS):
                return await self.transport.depths(services)
        except (Unavailable, TimeoutError):  # what the store knows can be looked at all the same
            return {}

    async def examine(self) -> Sequence[Finding]:
        """What an examination of the broker finds."""
        self.open()
        return await self.transport.examine()

    async def close(self) -> None:
        try:
            if self._is_open:
                await self.postman.close(longest_seconds=CLOSING_SECONDS)
                await self.transport.close()
        finally:
            await self.store.close()

    # What the transport tells.

    def arrived(self, service: str, arrivals: Sequence[Arrival]) -> None:
        self._trays.setdefault(service, Tray()).put(opened(arrivals))

    def lost(self, service: str) -> None:
        if service in self._trays:
            self._trays[service].forget()

    def answered(self, request: str, packet: bytes) -> None:
        if request in self._asked:
            self._answers[request] = packet
            for notify in self._answer_listeners:
                notify()


class BrokerWork:
    """A transaction of the store, which begins when it is needed, and of which the broker is told what it must know."""

    def __init__(self, begin: Callable[[], Awaitable[Work]], engine: BrokerEngine, service: str) -> None:
        self.engine = engine
        self.service = service
        self._begin = begin
        self._inner: Work | None = None

    async def begin(self) -> Work:
        """The store's transaction."""
        if self._inner is None:
            self._inner = await self._begin()
        return self._inner

    async def first_sight(self, deliveries: Sequence[Delivery]) -> set[Receipt]:
        if self._inner is None:
            await self.engine.count(self.service, by_keeper(deliveries)[1])
        return await (await self.begin()).first_sight(deliveries)

    async def load(self, addresses: Sequence[Address]) -> Mapping[Address, Stored]:
        return await (await self.begin()).load(addresses)

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[Statements | None]:
        async with (await self.begin()).savepoint() as statements:
            yield statements

    async def commit(self, changes: Changes) -> None:
        await (await self.begin()).commit(self.engine.for_store(self.service, changes))
        await self.engine.committed(self.service, changes)

    async def rollback(self) -> None:
        if self._inner is not None:
            await self._inner.rollback()
