"""Where orders are: read once, or followed, by any number of customers with one query for all of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from examples.shop.online_ordering import FINAL
from examples.shop.rows import Reader
from outlast.errors import Unavailable
from outlast.operations import Operations

LOOK_SECONDS = 0.2
AWAY_SECONDS = 1.0
"""So long it may be unknown that a service has gone, or has come back."""
WAITS_FOR = {"placed": "ordering", "paying": "payment", "shipping": "warehouse", "refunding": "payment"}
"""Whose turn it is."""


@dataclass(frozen=True, slots=True)
class Step:
    """What became of an order."""

    number: int
    status: str
    at: str
    """ISO 8601, UTC."""
    note: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """What an order waits for."""

    service: str
    is_away: bool
    """No process of that service is up. The order goes on as soon as one is."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an order is."""

    order_id: str
    steps: tuple[Step, ...]
    waiting_for: Waiting | None

    @property
    def status(self) -> str:
        return self.steps[-1].status

    @property
    def is_final(self) -> bool:
        """Nothing will change any more."""
        return self.status in FINAL


class Following:
    """Knows where orders are. `run` must run in the background for `follow` to go on."""

    def __init__(self, reader: Reader, operations: Operations) -> None:
        self._reader = reader
        self._operations = operations
        self._followed: Counter[str] = Counter()
        self._standings: dict[str, Standing] = {}
        self._looked = asyncio.Event()
        self._away: frozenset[str] = frozenset()
        self._away_at = float("-inf")

    async def look(self, order_id: str) -> Standing | None:
        """Where the order is; `None` if there is none. Raises `Unavailable` while the database cannot be asked."""
        return (await self._read([order_id])).get(order_id)

    async def follow(self, order_id: str) -> AsyncGenerator[Standing]:
        """Where the order is, again and again, whether anything has changed or not, until it is final."""
        with self._following(order_id):
            while True:
                standing = self._standings.get(order_id)
                if standing is not None:
                    yield standing
                    if standing.is_final:
                        return
                await self._looked.wait()

    async def run(self) -> None:
        """Looks at all orders that are followed, for ever."""
        while True:
            if self._followed:
                # Otherwise whoever follows hears nothing new for a while, and then goes on.
                with suppress(Unavailable):
                    self._standings = await self._read(list(self._followed))
                # Wakes those who wait now; who comes later waits for the next look.
                self._looked.set()
                self._looked = asyncio.Event()
            await asyncio.sleep(LOOK_SECONDS)

    @contextmanager
    def _following(self, order_id: str) -> Generator[None]:
        self._followed[order_id] += 1
        try:
            yield
        finally:
            self._followed[order_id] -= 1
            self._followed += Counter()  # drops those that nobody follows any more

    async def _read(self, order_ids: Collection[str]) -> dict[str, Standing]:
        rows = await self._reader.read(
            "SELECT order_id, number, status, at, note FROM progress "
            f"WHERE order_id IN ({', '.join('?' * len(order_ids))}) ORDER BY order_id, number",
            list(order_ids),
        )
        away = await self._services_away()
        steps: dict[str, list[Step]] = {}
        for order_id, *step in rows:
            steps.setdefault(order_id, []).append(Step(*step))
        return {order_id: _standing(order_id, found, away) for order_id, found in steps.items()}

    async def _services_away(self) -> frozenset[str]:
        now = asyncio.get_running_loop().time()
        if now - self._away_at > AWAY_SECONDS:
            self._away_at = now
            status = await self._operations.status()
            self._away = frozenset(service.service for service in status.services if not service.workers)
        return self._away


def _standing(order_id: str, steps: list[Step], away: frozenset[str]) -> Standing:
    service = WAITS_FOR.get(steps[-1].status)
    return Standing(order_id, tuple(steps), Waiting(service, service in away) if service else None)
