"""The chaos run: a stream of orders, and services that are killed again and again at random moments.

python -m examples.shop.chaos --kills 200 --seed 1
python -m examples.shop.chaos --kills 200 --faults kill,stop,term --processes 2
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count
from pathlib import Path

from examples.shop.audit import Report
from examples.shop.fleet import SERVICES, Fleet
from examples.shop.orders import Order, read_orders
from examples.shop.program import shop_file
from examples.shop.stage import run_to_end, set_stage
from examples.shop.watch import Sight

FAULTS = ("kill", "stop", "term")
LINE_SECONDS = 2.0
IMPATIENT = 5
"""Every so many orders, one waits seconds for its label and not a day, so that timers fire as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Storm:
    """What a chaos run does."""

    kills: int = 200
    seed: int = 1
    faults: tuple[str, ...] = ("kill",)
    processes: int = 1
    """Of each service."""
    per_second: float = 50.0
    """Orders."""
    shortest_gap_seconds: float = 0.1
    mean_gap_seconds: float = 0.35
    longest_away_seconds: float = 2.0
    rest_seconds: float = 180.0
    """How long the shop may take to come to rest afterwards."""

    @property
    def names(self) -> list[str]:
        """The processes: `payment`, and `payment.2` if there are two of each service."""
        further = range(2, self.processes + 1)
        return [*SERVICES, *(f"{service}.{number}" for service in SERVICES for number in further)]


@dataclass(slots=True)
class Aftermath:
    """What a chaos run did, and what it left."""

    storm: Storm
    report: Report
    done: Counter[str]
    """Faults by kind."""
    seconds: float
    healing_seconds: float
    """From the last fault until nothing waited any more."""
    messages: int
    dead_letters: int
    fallen: list[str] = field(default_factory=list[str])

    @property
    def is_clean(self) -> bool:
        return self.report.is_clean and not self.fallen and self.done["kill"] >= self.storm.kills

    def counts(self) -> dict[str, object]:
        """What there is to know, by name."""
        return {
            "kills": self.done["kill"],
            "stops": self.done["stop"],
            "terms": self.done["term"],
            **self.report.counts(),
            "messages": self.messages,
            "dead_letters": self.dead_letters,
            "fallen": self.fallen,
            "seconds": round(self.seconds, 2),
            "healing_seconds": round(self.healing_seconds, 2),
            "seed": self.storm.seed,
            "clean": self.is_clean,
        }

    def as_json(self) -> str:
        """One object, for scripts."""
        return json.dumps(self.counts(), indent=2)

    def as_text(self) -> str:
        """Some lines, for people."""
        lines = [f"{name.replace('_', ' '):>24}  {value}" for name, value in self.counts().items()]
        return "\n".join([*lines, *self.report.contradictions[:10]])


def endless(orders: list[Order]) -> Iterator[Order]:
    """The same orders again and again, each time with fresh ids."""
    for round in count(1):
        for place, order in enumerate(orders):
            patience = timedelta(seconds=2) if place % IMPATIENT == 0 else order.ship_within
            yield replace(order, order_id=f"{round}-{order.order_id}", ship_within=patience)


class Weather:
    """Brings the faults about. Each process has one fault at a time; several may have theirs at once."""

    def __init__(self, storm: Storm, fleet: Fleet) -> None:
        self.storm = storm
        self.fleet = fleet
        self.done: Counter[str] = Counter()
        self._chance = random.Random(storm.seed)
        self._struck: set[str] = set()

    async def rage(self) -> None:
        """Strikes until there were enough kills, and returns when every process is up again."""
        storm, chance = self.storm, self._chance
        async with asyncio.TaskGroup() as strikes:
            while self.done["kill"] < storm.kills:
                gap = chance.expovariate(1 / (storm.mean_gap_seconds - storm.shortest_gap_seconds))
                await asyncio.sleep(storm.shortest_gap_seconds + gap)
                name, fault = chance.choice(storm.names), chance.choice(storm.faults)
                if name not in self._struck:
                    self._struck.add(name)
                    self.done[fault] += 1
                    strikes.create_task(self._strike(name, fault))

    async def _strike(self, name: str, fault: str) -> None:
        chance, fleet = self._chance, self.fleet
        away = chance.choice((0.0, chance.uniform(0.0, self.storm.longest_away_seconds)))
        if fault == "stop":
            fleet.freeze(name)
            await asyncio.sleep(chance.uniform(0.2, 3.0))
            fleet.thaw(name)
        else:
            if fault == "kill":
                fleet.kill(name)
            else:
                await asyncio.to_thread(fleet.terminate, name)
            await asyncio.sleep(away)
            fleet.start(name)
        self._struck.discard(name)


async def endure(storm: Storm, directory: Path, *, show: Callable[[Sight, Counter[str]], None]) -> Aftermath:
    """Runs the shop in this directory through the storm, lets it come to rest, and audits it."""
    async with set_stage(directory, storm.names) as stage:
        weather = Weather(storm, stage.fleet)
        ended_at = 0.0

        async def acts() -> None:
            nonlocal ended_at
            async with asyncio.TaskGroup() as acts:
                orders = endless(read_orders())
                acts.create_task(stage.storefront.sell(stage.client, orders, per_second=storm.per_second))
                await weather.rage()
                stage.storefront.close()
            ended_at = (await stage.watch.look()).seconds

        last = await stage.play(acts(), lambda sight: show(sight, weather.done), rest_seconds=storm.rest_seconds)
        fallen = stage.fleet.fallen()
    return Aftermath(
        storm=storm,
        report=stage.audit(last),
        done=weather.done,
        seconds=last.seconds,
        healing_seconds=last.seconds - ended_at,
        messages=last.handled,
        dead_letters=last.dead_letters,
        fallen=fallen,
    )


def _line(sight: Sight, done: Counter[str]) -> str:
    faults = ", ".join(f"{number} {fault}s" for fault, number in done.items()) or "no faults yet"
    waiting = ", ".join(f"{service} {number}" for service, number in sight.waiting.items())
    return (
        f"{sight.seconds:6.1f} s  {faults}; {sight.placed} orders, {sight.ended} ended; waiting: {waiting}, "
        f"dated {sight.dated}; {sight.handled_per_second:.0f} messages/s"
    )


def run_chaos(storm: Storm, *, keep: str | None, as_json: bool) -> int:
    """Runs it and returns the exit code: 0 if the books are in order, 1 if not, 130 after Ctrl-C."""
    last_shown = -LINE_SECONDS

    def show(sight: Sight, done: Counter[str]) -> None:
        nonlocal last_shown
        if not as_json and sight.seconds - last_shown >= LINE_SECONDS:
            last_shown = sight.seconds
            print(_line(sight, done), flush=True)

    with tempfile.TemporaryDirectory(prefix="outlast-chaos-") as temporary:
        directory = Path(keep or temporary).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        if shop_file(directory).exists():
            print(f"{directory} has a shop already. Give --keep an empty directory.", file=sys.stderr)
            return 2
        try:
            aftermath = run_to_end(endure(storm, directory, show=show))
        except KeyboardInterrupt:
            return 130
    print(aftermath.as_json() if as_json else aftermath.as_text())
    return 0 if aftermath.is_clean else 1


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Kills the shop's services again and again, and audits its books.")
    parser.add_argument("--kills", type=int, default=200, help="how many times a process is killed (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="another number, other moments (default: 1)")
    parser.add_argument("--faults", default="kill", help="what befalls processes: kill,stop,term (default: kill)")
    parser.add_argument("--processes", type=int, default=1, help="of each service (default: 1)")
    parser.add_argument("--per-second", type=float, default=50.0, help="orders placed a second (default: 50)")
    parser.add_argument("--keep", metavar="DIRECTORY", help="leave the files here, to look at them afterwards")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    given = parser.parse_args()
    faults = tuple(given.faults.split(","))
    if "kill" not in faults or not set(faults) <= set(FAULTS):
        parser.error(f"--faults {given.faults}: name kill, and perhaps stop and term, with commas between")
    storm = Storm(
        kills=given.kills,
        seed=given.seed,
        faults=faults,
        processes=given.processes,
        per_second=given.per_second,
    )
    return run_chaos(storm, keep=given.keep, as_json=given.json)


if __name__ == "__main__":
    raise SystemExit(main())
