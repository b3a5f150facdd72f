"""A long outage of the broker: customers go on buying, and all is made good when it is back.

python -m examples.shop.outage --engine rabbitmq --minutes 2
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from examples.shop.audit import Report
from examples.shop.chaos import endless
from examples.shop.fleet import SERVICES
from examples.shop.orders import read_orders
from examples.shop.premises import BROKER, Missing, Premises, premises
from examples.shop.stage import Stage, run_to_end, set_stage
from examples.shop.watch import Sight

LINE_SECONDS = 5.0
BEFORE_SECONDS = 3.0
REST_SECONDS = 300.0


@dataclass(slots=True)
class Found:
    """What an outage did."""

    report: Report
    minutes: float
    away_seconds: float
    """The broker's start included."""
    accepted: int
    """Orders that were taken while the broker was away."""
    refused: int
    """How often a customer was asked to try again meanwhile."""
    outbox_peak: int
    """The most transactions whose messages waited for the broker."""
    outbox_empty_seconds: float
    """From the broker's return until everything had been taken to it."""
    done_seconds: float
    """From the broker's return until every order had ended and nothing waited."""
    unrest: str
    fallen: list[str] = field(default_factory=list[str])

    @property
    def is_clean(self) -> bool:
        return self.report.is_clean and self.accepted > 0 and not self.refused and not self.fallen

    def as_json(self) -> str:
        """One object."""
        found = {
            "minutes": self.minutes,
            "away_seconds": round(self.away_seconds, 1),
            "accepted": self.accepted,
            "refused": self.refused,
            "outbox_peak": self.outbox_peak,
            "outbox_empty_seconds": round(self.outbox_empty_seconds, 1),
            "done_seconds": round(self.done_seconds, 1),
            **self.report.counts(),
            "fallen": self.fallen,
            "unrest": self.unrest,
            "clean": self.is_clean,
        }
        return json.dumps(found, indent=2)


class Outage:
    """One outage, and what is seen of it."""

    def __init__(self, stage: Stage, *, minutes: float, per_second: float) -> None:
        self.minutes = minutes
        self.per_second = per_second
        self.accepted = self.refused = self.outbox_peak = 0
        self.began = self.ended = self.outbox_empty = 0.0
        self._stage = stage

    async def acts(self) -> None:
        """Orders flow; the broker is killed, and comes back; the shop closes."""
        stage, storefront, watch = self._stage, self._stage.storefront, self._stage.watch
        async with asyncio.TaskGroup() as acts:
            orders = endless(read_orders())
            acts.create_task(storefront.sell(stage.client, orders, per_second=self.per_second))
            await asyncio.sleep(BEFORE_SECONDS)
            accepted, refused = len(storefront.accepted), storefront.refused
            await stage.kill(BROKER)
            self.began = watch.seconds()
            await asyncio.sleep(60 * self.minutes)
            await stage.start(BROKER)
            self.ended = watch.seconds()
            self.accepted, self.refused = len(storefront.accepted) - accepted, storefront.refused - refused
            storefront.close()

    def saw(self, sight: Sight) -> None:
        """Notes how full the outbox is."""
        self.outbox_peak = max(self.outbox_peak, sight.outbox)
        if self.ended and not self.outbox_empty and sight.is_current and not sight.outbox:
            self.outbox_empty = sight.seconds


async def sit_out(
    place: Premises, directory: Path, *, minutes: float, per_second: float, show: Callable[[Sight], None]
) -> Found:
    """Runs the shop through an outage of its broker, and audits it when all is done."""
    async with set_stage(place, directory, SERVICES) as stage:
        outage = Outage(stage, minutes=minutes, per_second=per_second)

        def seen(sight: Sight) -> None:
            outage.saw(sight)
            show(sight)

        last = await stage.play(outage.acts(), seen, rest_seconds=REST_SECONDS)
        fallen = stage.fleet.fallen()
    return Found(
        report=await stage.audit(last),
        minutes=minutes,
        away_seconds=outage.ended - outage.began,
        accepted=outage.accepted,
        refused=outage.refused,
        outbox_peak=outage.outbox_peak,
        outbox_empty_seconds=outage.outbox_empty - outage.ended,
        done_seconds=last.seconds - outage.ended,
        unrest=last.unrest,
        fallen=fallen,
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Takes the broker away while customers buy, and audits the books.")
    parser.add_argument("--engine", choices=("rabbitmq", "nats"), required=True)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long it is away (default: 2)")
    parser.add_argument("--per-second", type=float, default=40.0, help="orders placed a second (default: 40)")
    given = parser.parse_args()
    shown = -LINE_SECONDS

    def show(sight: Sight) -> None:
        nonlocal shown
        if sight.seconds - shown >= LINE_SECONDS:
            shown = sight.seconds
            line = f"{sight.seconds:6.1f} s  {sight.placed} orders, {sight.ended} ended; {sight.unrest}"
            print(line, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="outlast-outage-") as temporary:
        directory = Path(temporary)
        try:
            with premises(given.engine, directory) as place:
                sitting = sit_out(place, directory, minutes=given.minutes, per_second=given.per_second, show=show)
                found = run_to_end(sitting)
        except KeyboardInterrupt:
            return 130
        except Missing as missing:
            print(missing, file=sys.stderr)
            return 1
    print(found.as_json())
    return 0 if found.is_clean else 1


if __name__ == "__main__":
    raise SystemExit(main())
