"""Looking on while the shop works: orders by state, what waits for whom, and who is down."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from examples.shop.fleet import SERVICES, Fleet
from examples.shop.program import shop_file
from outlast import Client
from outlast.engines import inspector_of

ENDED = ("shipped", "refunded", "cancelled")
HISTORY_PAGE = 5_000


@dataclass(frozen=True, slots=True)
class Sight:
    """The shop at one moment."""

    seconds: float
    """Since the watch began."""
    orders: Mapping[str, int]
    """Orders by status."""
    waiting: Mapping[str, int]
    """Messages in each service's queue, those being handled included."""
    dated: int
    """Timers and retries that are not due yet."""
    down: tuple[str, ...]
    handled: int
    """Messages handled since the watch began."""
    handled_per_second: float
    dead_letters: int

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
        return not any(self.waiting.values()) and not self.dated


class Watch:
    """Takes `Sight`s. It reads ordering's table and what outlast shows to operators, and changes nothing."""

    def __init__(self, client: Client, fleet: Fleet, directory: Path) -> None:
        self._inspector = inspector_of(client.engine)
        self._fleet = fleet
        self._connection = sqlite3.connect(shop_file(directory), timeout=10, isolation_level=None)
        self._began = asyncio.get_running_loop().time()
        self._last_line = 0
        self._handled = 0
        self._rates: list[tuple[float, int]] = [(0.0, 0)]

    async def look(self) -> Sight:
        """The shop as it is now."""
        rows = self._connection.execute("SELECT status, count(*) FROM orders GROUP BY status").fetchall()
        queues = await self._inspector.queues()
        await self._count_handled()
        seconds = asyncio.get_running_loop().time() - self._began
        return Sight(
            seconds=seconds,
            orders=dict(rows),
            waiting={queue.service: queue.waiting + queue.claimed for queue in queues},
            dated=sum(queue.dated for queue in queues),
            down=tuple(service for service in SERVICES if not self._fleet.is_up(service)),
            handled=self._handled,
            handled_per_second=self._rate(seconds),
            dead_letters=sum(queue.dead for queue in queues),
        )

    async def until_ready(self) -> None:
        """Waits until every service takes messages."""
        while True:
            ready = {queue.service for queue in await self._inspector.queues() if queue.workers}
            if ready.issuperset(SERVICES):
                return
            await asyncio.sleep(0.02)

    def close(self) -> None:
        self._connection.close()

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
