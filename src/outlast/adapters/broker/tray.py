"""What a broker has handed over for one service, and what this process is doing with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import msgspec

from outlast.adapters.broker.bundles import Bundle
from outlast.ports import Arrival, Delivery

DOUBTED_AFTER = 3
"""What was handed over so often may be what kills its process: from then on it is counted how often it is tried.

A broker counts all that was on its way when a connection was lost or a process died, tried or not, so its own count
says no more than that.
"""


class Tray:
    """One service's arrivals, by id. The same message may arrive several times; it is there once, with all its tags."""

    def __init__(self) -> None:
        self.notify: list[Callable[[], None]] = []
        self._waiting: dict[str, Arrival] = {}
        self._claimed: dict[str, Arrival] = {}
        self._tags: dict[str, list[Any]] = {}
        self._counted: set[str] = set()

    def put(self, arrivals: Sequence[Arrival]) -> None:
        """Adds arrivals, and tells those who listen."""
        for arrival in arrivals:
            self._tags.setdefault(arrival.id, []).append(arrival.tag)
            if arrival.id not in self._claimed:
                self._waiting[arrival.id] = arrival
        self._tell()

    def forget(self) -> None:
        """The connection is lost: what waits will come again. What was claimed is still being handled."""
        self._waiting.clear()
        self._tags.clear()

    def waiting(self, limit: int) -> list[Arrival]:
        """What is not claimed, in the order in which it came."""
        return list(islice(self._waiting.values(), limit))

    def untold(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Those that this process is about to try for the first time, and that may be what kills it."""
        waiting = self._waiting
        return [
            delivery
            for delivery in deliveries
            if (arrival := waiting.get(str(delivery.receipt))) is not None
            and arrival.count >= DOUBTED_AFTER
            and arrival.id not in self._counted
        ]

    def counted(self, deliveries: Sequence[Delivery]) -> None:
        """It is written down that this process tries these."""
        self._counted.update(str(delivery.receipt) for delivery in deliveries)

    def with_counts(self, deliveries: list[Delivery]) -> list[Delivery]:
        """The same, those with a count that were counted."""
        if not self._counted:
            return deliveries
        return [
            msgspec.structs.replace(d, count=max(d.count, 1)) if d.receipt in self._counted else d for d in deliveries
        ]

    def claim(self, deliveries: Sequence[Delivery]) -> None:
        """These are being handled outside of a turn, and wait no longer."""
        for delivery in deliveries:
            id = str(delivery.receipt)
            arrival = self._waiting.pop(id, None)
            self._claimed[id] = arrival or Arrival(id, delivery.packet, delivery.count, None)

    def settle(self, deliveries: Sequence[Delivery]) -> list[Any]:
        """These are done with. Returns their tags, to be acknowledged."""
        return [tag for delivery in deliveries for tag in self._drop(str(delivery.receipt))]

    def release(self, deliveries: Sequence[Delivery]) -> list[Any]:
        """These are given back. Returns their tags, to be released.

        The member of a bundle waits here again instead, for the broker cannot hand it over without the others.
        """
        tags: list[Any] = []
        for id in [str(delivery.receipt) for delivery in deliveries]:
            arrival = self._claimed.get(id)
            if arrival is None or not any(isinstance(tag, Bundle) for tag in self._tags.get(id, ())):
                tags += self._drop(id)
            else:
                del self._claimed[id]
                self._counted.discard(id)
                self._waiting[id] = arrival
        if len(tags) < len(deliveries):
            self._tell()
        return tags

    def every_tag(self) -> list[Any]:
        """What the transport knows all of them by, what waits and what is claimed."""
        return [tag for tags in self._tags.values() for tag in tags]

    def _tell(self) -> None:
        for notify in self.notify:
            notify()

    def _drop(self, id: str) -> list[Any]:
        self._waiting.pop(id, None)
        self._claimed.pop(id, None)
        self._counted.discard(id)
        return self._tags.pop(id, [])
