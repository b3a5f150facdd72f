"""A world in which time stands still until it is moved, and every id can be foreseen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

START = datetime(2030, 1, 1, tzinfo=UTC)


class StillWorld:
    """Time passes only in `advance`; ids count from 1; the dice always show `pips`."""

    def __init__(self, now: datetime = START, *, prefix: str = "id", pips: float = 0.0) -> None:
        self.prefix = prefix
        self.pips = pips
        self._now = now
        self._ids = 0

    def now(self) -> datetime:
        return self._now

    def advance(self, delay: timedelta) -> None:
        """Moves time on."""
        self._now += delay

    def new_id(self) -> str:
        self._ids += 1
        return f"{self.prefix}-{self._ids:06}"

    def dice(self) -> float:
        return self.pips
