"""How long the shop takes to be back at work after a fault. Values only: what was seen goes in, seconds come out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from examples.shop.watch import Sight

ENOUGH = 0.8
"""The share of the messages that the offered orders make which counts as being back at work."""
LONGEST_SECONDS = 15.0
"""What is allowed."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What followed a fault of a server."""

    fault: str
    at_seconds: float
    """When it was over."""
    seconds: float | None
    """From then until a second began in which enough messages were handled; `None`: there was none."""


class Pace:
    """How many messages were handled by when."""

    def __init__(self, offered: float) -> None:
        self.offered = offered
        """Orders a second."""
        self._seconds: list[float] = []
        self._handled: list[int] = []
        self._placed = 0

    def saw(self, sight: Sight) -> None:
        """Takes note of a sight; of a stale one there is nothing to note."""
        if sight.is_current and (not self._seconds or sight.seconds > self._seconds[-1]):
            self._seconds.append(sight.seconds)
            self._handled.append(sight.handled)
            self._placed = sight.placed

    def back_after(self, healed: float) -> float | None:
        """The seconds from `healed` until the pace was back; `None` if it has not been seen yet."""
        if not self._seconds:
            return None
        wanted = ENOUGH * self.offered * self._handled[-1] / max(self._placed, 1)
        for seconds in (healed, *self._seconds[bisect_left(self._seconds, healed) :]):
            if seconds + 1.0 > self._seconds[-1]:
                return None
            if self._at(seconds + 1.0) - self._at(seconds) >= wanted:
                return seconds - healed
        return None

    def _at(self, seconds: float) -> float:
        """How many were handled by this moment, as if they came evenly between two sights."""
        place = bisect_left(self._seconds, seconds)
        if place == 0:
            return self._handled[0]
        if place == len(self._seconds):
            return self._handled[-1]
        since, until = self._seconds[place - 1], self._seconds[place]
        few, many = self._handled[place - 1], self._handled[place]
        return few + (many - few) * (seconds - since) / (until - since)


def figures(recoveries: Sequence[Recovery]) -> dict[str, float | int]:
    """The longest and the 95th percentile in seconds, and how many there were and never came."""
    seconds = sorted(found.seconds for found in recoveries if found.seconds is not None)
    return {
        "recoveries": len(recoveries),
        "recoveries_missed": len(recoveries) - len(seconds),
        "recovery_seconds_p95": round(seconds[int(0.95 * (len(seconds) - 1) + 0.5)], 2) if seconds else 0.0,
        "recovery_seconds_max": round(seconds[-1], 2) if seconds else 0.0,
    }


def slowest(recoveries: Sequence[Recovery]) -> dict[str, float | None]:
    """The longest in seconds for each kind of fault; `None` if one never came."""
    found: dict[str, float | None] = {}
    for recovery in recoveries:
        so_far = found.get(recovery.fault, 0.0)
        seconds = recovery.seconds
        found[recovery.fault] = None if so_far is None or seconds is None else round(max(so_far, seconds), 2)
    return found
