"""What a demo is to do, and what came of it."""

from __future__ import annotations

import json
import random
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from examples.shop.audit import Report
from examples.shop.premises import BROKER, DATABASE


@dataclass(frozen=True, slots=True)
class Mishap:
    """Somebody is killed, and comes back."""

    who: str
    """A service, the database or the broker."""
    when: Literal["placed", "ended"]
    share: float
    """It comes when so many of all orders are placed, or have ended."""
    away_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """What is to happen: orders, and mishaps one after the other."""

    orders: int = 830
    per_second: float = 150.0
    mishaps: tuple[Mishap, ...] = ()
    rest_seconds: float = 30.0
    """How long the shop may take to come to rest after the last act."""

    @classmethod
    def of(cls, seed: int, servers: Collection[str] = ()) -> Script:
        """The script with this number; another number moves the kills. The servers that there are fall as well."""
        chance = random.Random(seed)
        payment = Mishap("payment", "placed", chance.uniform(0.1, 0.4), chance.uniform(5.0, 7.0))
        ordering = Mishap("ordering", "ended", chance.uniform(0.4, 0.7), chance.uniform(2.0, 4.0))
        if not servers:
            return cls(mishaps=(payment, ordering))
        broker = Mishap(BROKER, "placed", chance.uniform(0.35, 0.45), chance.uniform(3.0, 5.0))
        database = Mishap(DATABASE, "placed", chance.uniform(0.8, 0.9), chance.uniform(2.0, 4.0))
        return cls(
            # Slow enough for orders to be placed while each of them is away, the broker's long start included.
            per_second=40.0 if BROKER in servers else 80.0,
            mishaps=(
                replace(payment, share=payment.share / 2),
                *([broker] if BROKER in servers else []),
                *([database] if DATABASE in servers else []),
                replace(ordering, share=0.6 + ordering.share / 3),
            ),
            rest_seconds=60.0,
        )


@dataclass(slots=True)
class Kill:
    """Somebody who was killed, and what the others did meanwhile."""

    who: str
    at_seconds: float
    orders_under_way: int
    """Placed, and neither shipped nor refunded, when it was killed."""
    most_waiting: int = 0
    """The longest that a service's queue became while it was away."""
    most_in_outbox: int = 0
    """The most transactions whose messages waited for the broker to come back."""
    accepted: int = 0
    """Orders that were taken while it was away."""
    refused: int = 0
    """How often a customer was asked to try again while it was away."""

    @property
    def hit_a_shop_at_work(self) -> bool:
        """There was something to lose; and orders were taken all the same if it was the broker that was away."""
        return self.orders_under_way > 0 and (self.who != BROKER or self.accepted > 0)


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
    engine: str = "sqlite"
    unrest: str = ""
    """What still waited at the end."""

    @property
    def is_clean(self) -> bool:
        """The books are in order, and every kill hit a shop at work."""
        return self.report.is_clean and not self.fallen and all(kill.hit_a_shop_at_work for kill in self.kills)

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
            "unrest": self.unrest,
            "engine": self.engine,
            "seconds": round(self.seconds, 2),
            "seed": self.seed,
            "clean": self.is_clean,
        }
        return json.dumps(found, indent=2)
