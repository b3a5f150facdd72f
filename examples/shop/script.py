"""What a demo is to do, and what came of it."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, field
from typing import Any

from examples.shop.audit import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """What is to happen. Shares are of all orders."""

    orders: int = 830
    per_second: float = 150.0
    payment_falls_at: float = 0.25
    """Share of the orders placed when payment is killed."""
    payment_away_seconds: float = 5.0
    ordering_falls_at: float = 0.4
    """Share of the orders ended when ordering is killed."""
    ordering_away_seconds: float = 2.0
    rest_seconds: float = 30.0
    """How long the shop may take to come to rest after the last act."""

    @classmethod
    def of(cls, seed: int) -> Script:
        """The script with this number; another number moves the kills."""
        chance = random.Random(seed)
        return cls(
            payment_falls_at=chance.uniform(0.1, 0.4),
            payment_away_seconds=chance.uniform(5.0, 7.0),
            ordering_falls_at=chance.uniform(0.4, 0.7),
            ordering_away_seconds=chance.uniform(2.0, 4.0),
        )


@dataclass(slots=True)
class Kill:
    """A service that was killed, and what the others had to do meanwhile."""

    service: str
    at_seconds: float
    orders_under_way: int
    """Placed, and neither shipped nor refunded, when it was killed."""
    most_waiting: int = 0
    """The longest that its queue became while it was away."""


@dataclass(slots=True)
class Outcome:
    """What happened, and what the audit says."""

    seed: int
    report: Report
    kills: list[Kill]
    seconds: float
    messages: int
    dead_letters: int
    fallen: list[str] = field(default_factory=list[str])
    """Services that ended by themselves."""

    @property
    def is_clean(self) -> bool:
        """The books are in order, and every kill hit a shop at work."""
        return self.report.is_clean and not self.fallen and all(kill.orders_under_way for kill in self.kills)

    def as_json(self) -> str:
        """One object, for scripts."""
        found: dict[str, Any] = {
            **self.report.counts(),
            "kills": len(self.kills),
            "killed": [asdict(kill) for kill in self.kills],
            "most_waiting": max((kill.most_waiting for kill in self.kills), default=0),
            "messages": self.messages,
            "dead_letters": self.dead_letters,
            "fallen": self.fallen,
            "seconds": round(self.seconds, 2),
            "seed": self.seed,
            "clean": self.is_clean,
        }
        return json.dumps(found, indent=2)
