"""Looking on while the shop works: orders by state, what waits for whom, and who is down."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from examples.shop.fleet import SERVICES, Fleet
from examples.shop.premises import BROKER
from examples.shop.rows import Reader
from outlast import Client
from outlast.adapters.broker import BrokerEngine, BrokerInspector
from outlast.engines import inspector_of
from outlast.errors import Unavailable
from outlast.ports import OUTBOX, Inspector

ENDED = ("shipped", "refunded", "cancelled")
HISTORY_PAGE = 5_000
PATIENCE_SECONDS = 0.5
"""So long a look takes at most; after that the last figures are shown again."""


class Fallen(Exception):
    """A service ended although nobody ended it."""


@dataclass(frozen=True, slots=True)
class Sight:
    """The shop at one moment."""

    seconds: float
    """Since the watch began."""
    orders: Mapping[str, int]
    """Orders by status."""
    waiting: Mapping[str, int]
    """Messages in each service's queue, those being handled included."""
    outbox: int
    """Transactions whose messages are committed and have not reached the broker yet."""
    dated: int
    """Timers and retries that are not due yet."""
    down: tuple[str, ...]
    """Services, and the database and the broker if they are servers."""
    handled: int
    """Messages handled since the watch began."""
    handled_per_second: float
    dead_letters: int
    trouble: str = ""
    """What is wrong with the broker: then nobody can tell what waits there."""
    is_current: bool = True
    """False: nobody could be asked, and these are the last figures."""

    @property
    def placed(self) -> int:
        """Orders that were taken."""
        return sum(self.orders.values())

    @property
    def ended(self) -> int:
        """Orders that have come to their end."""
        return sum(self.orders.get(status, 0) for status in ENDED)

    @property
    def under_way(self) -> int:
        """Orders that have not."""
        return self.placed - self.ended

    @property
    def is_quiet(self) -> bool:
        """Nothing waits for anybody, now or later."""
        return not self.unrest

    @property
    def unrest(self) -> str:
        """What waits, or why nobody knows, in a few words; empty if nothing does."""
        waiting = [f"{number} for {service}" for service, number in self.waiting.items() if number]
        found = [
            *(["nothing could be seen"] if not self.is_current else []),
            *([self.trouble] if self.trouble else []),
            *([f"waiting: {', '.join(waiting)}"] if waiting else []),
            *([f"{self.outbox} in the outbox"] if self.outbox else []),
            *([f"{self.dated} dated"] if self.dated else []),
        ]
        return "; ".join(found)


class Watch:
    """Takes `Sight`s. It reads ordering's table and what outlast shows to operators, and changes nothing.

    `servers_down` is kept up to date by whoever stops and starts them.
    """

    def __init__(self, client: Client, fleet: Fleet, reader: Reader, servers_down: Collection[str]) -> None:
        self._engine = client.engine
        self._inspector = inspector_of(client.engine)
        self._fleet = fleet
        self._reader = reader
        self._servers_down = servers_down
        self._began = asyncio.get_running_loop().time()
        self._last_line = 0
        self._handled = 0
        self._rates: list[tuple[float, int]] = [(0.0, 0)]
        self._looking: asyncio.Task[Sight] | None = None
        self._last = Sight(
            seconds=0.0,
            orders={},
            waiting={},
            outbox=0,
            dated=0,
            down=(),
            handled=0,
            handled_per_second=0.0,
            dead_letters=0,
            is_current=False,
        )

    async def look(self) -> Sight:
        """The shop as it is now. What cannot be seen within `PATIENCE_SECONDS` is as it was seen last."""
        # An unfinished look is left to itself and not cancelled: a connection that was broken off in the middle of a
        # question would have to be made anew.
        looking = self._looking = self._looking or asyncio.create_task(self._look())
        await asyncio.wait([looking], timeout=PATIENCE_SECONDS)
        if not looking.done():
            return self._unseen()
        if self._looking is looking:
            self._looking = None
        try:
            self._last = looking.result()
        except Unavailable:
            return self._unseen()
        return self._last

    async def until_ready(self) -> None:
        """Waits until every service takes messages. Raises `Fallen` if one ends instead."""
        while True:
            self._fleet.revive()
            if fallen := self._fleet.fallen():
                raise Fallen(f"{', '.join(fallen)} ended at the start: {self._fleet.last_words(fallen[0])}")
            ready = {queue.service for queue in await self._inspector.queues() if queue.workers}
            if ready.issuperset(SERVICES):
                return
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Ends a look that is still under way."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> Sight:
        rows = await self._reader.read("SELECT status, count(*) FROM orders GROUP BY status")
        has_broker = BROKER not in self._servers_down
        queues = await (self._inspector if has_broker else self._inspector_of_store()).queues()
        waiting = {queue.service: queue.waiting + queue.claimed for queue in queues if queue.service != OUTBOX}
        await self._count_handled()
        seconds = self.seconds()
        return Sight(
            seconds=seconds,
            orders=dict(rows),
            waiting=waiting if has_broker else self._last.waiting,
            outbox=sum(queue.waiting + queue.claimed for queue in queues if queue.service == OUTBOX),
            dated=sum(queue.dated for queue in queues),
            down=self._down(),
            handled=self._handled,
            handled_per_second=self._rate(seconds),
            dead_letters=sum(queue.dead for queue in queues),
            trouble=self._trouble_of_broker() if has_broker else "the broker is down",
        )

    def _trouble_of_broker(self) -> str:
        return self._engine.transport.trouble if isinstance(self._engine, BrokerEngine) else ""

    def _inspector_of_store(self) -> Inspector:
        """What can be asked without waiting for a broker that is not there."""
        return self._inspector.store if isinstance(self._inspector, BrokerInspector) else self._inspector

    def _unseen(self) -> Sight:
        return replace(self._last, seconds=self.seconds(), down=self._down(), handled_per_second=0.0, is_current=False)

    def seconds(self) -> float:
        """Since the watch began."""
        return asyncio.get_running_loop().time() - self._began

    def _down(self) -> tuple[str, ...]:
        return (*(service for service in SERVICES if not self._fleet.is_up(service)), *sorted(self._servers_down))

    async def _count_handled(self) -> None:
        while lines := await self._inspector.history(conversation="", after=self._last_line, limit=HISTORY_PAGE):
            self._last_line = lines[-1][0]
            self._handled += len(lines)

    def _rate(self, seconds: float) -> float:
        """Messages per second over the last second."""
        self._rates.append((seconds, self._handled))
        while len(self._rates) > 2 and seconds - self._rates[1][0] >= 1.0:
            del self._rates[0]
        since, before = self._rates[0]
        return (self._handled - before) / max(seconds - since, 0.001)
