"""The chaos run: a stream of orders, while services, servers, network, disk and clocks fail, again and again.

python -m examples.shop.chaos --kills 200 --seed 1
python -m examples.shop.chaos --engine rabbitmq --minutes 10
python -m examples.shop.chaos --kills 60 --faults kill,stop,term --processes 2
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from types import MappingProxyType

from examples.shop.audit import Report
from examples.shop.clocks import Clocks, find_library
from examples.shop.disk import Disk, Skipped, disk_at, small_disk
from examples.shop.orders import Order, read_orders
from examples.shop.premises import ENGINES, Missing, Premises, premises
from examples.shop.program import has_a_shop, shop_file
from examples.shop.recovery import LONGEST_SECONDS, Recovery, figures, slowest
from examples.shop.stage import run_to_end, set_stage
from examples.shop.watch import Sight
from examples.shop.weather import FAULTS, Storm, Weather

LINE_SECONDS = 2.0
FILE_GAP_SECONDS, SERVER_GAP_SECONDS = 0.35, 2.0
"""Between two faults on average. With servers there are pauses in which the shop can be seen to find its pace again."""
IMPATIENT = 5
"""Every so many orders, one waits seconds for its label and not a day, so that timers fire as well."""


@dataclass(frozen=True, slots=True)
class Grounds:
    """Where a chaos run takes place."""

    shop: Path
    """The directory of the services' files."""
    outside: Path
    """The directory of the outside systems' ledgers, and of what the processes print."""
    premises: Premises
    disk: Disk | None = None
    clocks: Clocks | None = None


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
    full_disks_felt: int
    orders_refused: int
    """How often a customer was asked to try again."""
    orders_taken_before: int
    """Orders that a try had taken of which the customer was told that it had not."""
    interruptions: int
    """How often a service told that the engine failed it."""
    refused_starts: int
    """How often a service could not begin at first."""
    stuck: int
    """How many processes had to be killed when they were asked to stop."""
    recoveries: list[Recovery]
    fallen: list[str] = field(default_factory=list[str])
    unrest: str = ""
    """What still waited at the end."""
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    """Faults that could not be brought about here, and why."""

    @property
    def is_clean(self) -> bool:
        is_enough = bool(self.storm.minutes) or self.done["kill"] >= self.storm.kills
        return self.report.is_clean and not self.fallen and is_enough and not self.slow

    @property
    def slow(self) -> list[Recovery]:
        """The faults of servers after which the shop was not back at work in time."""
        return [found for found in self.recoveries if found.seconds is None or found.seconds > LONGEST_SECONDS]

    def counts(self) -> dict[str, object]:
        """What there is to know, by name."""
        return {
            "engine": self.storm.engine,
            **{f"{fault}s": self.done[fault] for fault in FAULTS[self.storm.engine]},
            "skipped": self.skipped,
            "full_disks_felt": self.full_disks_felt,
            "orders_refused": self.orders_refused,
            "orders_taken_before": self.orders_taken_before,
            "interruptions": self.interruptions,
            "refused_starts": self.refused_starts,
            "stuck": self.stuck,
            **figures(self.recoveries),
            "slowest_recoveries": slowest(self.recoveries),
            **self.report.counts(),
            "messages": self.messages,
            "dead_letters": self.dead_letters,
            "fallen": self.fallen,
            "unrest": self.unrest,
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
        return "\n".join(
            [
                *lines,
                *self.report.contradictions[:10],
                *(f"SLOW {found}" for found in self.slow),
                *(f"SKIPPED {fault}: {reason}" for fault, reason in self.skipped.items()),
            ]
        )


def endless(orders: list[Order]) -> Iterator[Order]:
    """The same orders again and again, each time with fresh ids."""
    for round in count(1):
        for place, order in enumerate(orders):
            patience = timedelta(seconds=2) if place % IMPATIENT == 0 else order.ship_within
            yield replace(order, order_id=f"{round}-{order.order_id}", ship_within=patience)


async def endure(
    storm: Storm,
    grounds: Grounds,
    *,
    show: Callable[[Sight, Counter[str]], None],
    skipped: Mapping[str, str] = MappingProxyType({}),
) -> Aftermath:
    """Runs the shop through the storm, lets it come to rest, and audits it."""
    async with set_stage(
        grounds.premises,
        grounds.shop,
        storm.names,
        outside=grounds.outside,
        clocks=grounds.clocks,
        settings={"SHOP_SLOW_LABELS": str(storm.slow_labels)},
    ) as stage:
        weather = Weather(storm, stage, grounds.disk)
        ended_at = 0.0

        async def acts() -> None:
            nonlocal ended_at
            async with asyncio.TaskGroup() as acts:
                orders = endless(read_orders())
                acts.create_task(stage.storefront.sell(stage.client, orders, per_second=storm.per_second))
                await weather.rage()
                stage.storefront.close()
            ended_at = (await stage.watch.look()).seconds

        def seen(sight: Sight) -> None:
            weather.pace.saw(sight)
            show(sight, weather.done)

        last = await stage.play(acts(), seen, rest_seconds=storm.rest_seconds)
        fallen = stage.fleet.fallen()
    return Aftermath(
        storm=storm,
        report=await stage.audit(last),
        done=weather.done,
        seconds=last.seconds,
        healing_seconds=last.seconds - ended_at,
        messages=last.handled,
        dead_letters=last.dead_letters,
        full_disks_felt=weather.full_disks_felt,
        orders_refused=stage.storefront.refused,
        orders_taken_before=stage.storefront.taken_before,
        interruptions=stage.fleet.interruptions(),
        refused_starts=stage.fleet.refused_starts,
        stuck=stage.fleet.stuck,
        recoveries=weather.servers.recoveries,
        fallen=fallen,
        unrest=last.unrest,
        skipped=dict(skipped),
    )


@contextmanager
def grounds_in(
    directory: Path, storm: Storm, *, small: Path | None = None
) -> Generator[tuple[Storm, Grounds, dict[str, str]]]:
    """Grounds for this storm in an empty directory, as long as the block runs.

    With them the storm as far as it is possible here, and what is skipped, each with its reason. `small` is a
    directory on a small file system; without it, one is mounted.
    """
    skipped: dict[str, str] = {}
    disk: Disk | None = None
    clocks: Clocks | None = None
    with ExitStack() as stack:
        if "clock" in storm.faults:
            try:
                candidate = Clocks(directory, find_library())
                candidate.prove()
                clocks = candidate
            except Skipped as reason:
                skipped["clock"] = str(reason)
        if "disk" in storm.faults:
            megabytes = 64 + storm.kills // 4
            try:
                disk = stack.enter_context(
                    disk_at(small) if small is not None else small_disk(directory / "shop", megabytes=megabytes)
                )
            except Skipped as reason:
                skipped["disk"] = str(reason)
        possible = replace(storm, faults=tuple(fault for fault in storm.faults if fault not in skipped))
        shop = disk.directory if disk is not None else directory
        place = stack.enter_context(premises(storm.engine, shop, with_network=True))
        yield possible, Grounds(shop, directory, place, disk, clocks), skipped
        if shop != directory:
            for file in shop.glob(f"{shop_file(shop).name}*"):
                if file.is_file():
                    shutil.copy(file, directory)


def _line(sight: Sight, done: Counter[str]) -> str:
    faults = ", ".join(f"{number} {fault}s" for fault, number in done.items()) or "no faults yet"
    waiting = ", ".join(f"{service} {number}" for service, number in sight.waiting.items())
    return (
        f"{sight.seconds:6.1f} s  {faults}; {sight.placed} orders, {sight.ended} ended; waiting: {waiting}, "
        f"dated {sight.dated}; {sight.handled_per_second:.0f} messages/s"
    )


def run_chaos(storm: Storm, *, keep: str | None, small: str | None, as_json: bool) -> int:
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
        if has_a_shop(directory):
            print(f"{directory} has a shop already. Give --keep an empty directory.", file=sys.stderr)
            return 2
        try:
            with grounds_in(directory, storm, small=Path(small) if small else None) as (possible, grounds, skipped):
                for fault, reason in skipped.items():
                    print(f"SKIPPED {fault}: {reason}", file=sys.stderr, flush=True)
                aftermath = run_to_end(endure(possible, grounds, show=show, skipped=skipped))
        except KeyboardInterrupt:
            return 130
        except Missing as missing:
            print(missing, file=sys.stderr)
            return 1
    print(aftermath.as_json() if as_json else aftermath.as_text())
    return 0 if aftermath.is_clean else 1


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Lets fail whatever the shop consists of, and audits its books.")
    parser.add_argument("--engine", choices=ENGINES, default="sqlite", help="what it runs on (default: sqlite)")
    parser.add_argument("--kills", type=int, default=200, help="how many times a process is killed (default: 200)")
    parser.add_argument("--minutes", type=float, default=0.0, help="how long it lasts, however many kills there are")
    parser.add_argument("--seed", type=int, default=1, help="another number, other moments (default: 1)")
    parser.add_argument("--faults", help="which there are, kill among them, by commas (default: all of the engine's)")
    parser.add_argument("--processes", type=int, default=1, help="of each service (default: 1)")
    parser.add_argument("--per-second", type=float, default=50.0, help="orders placed a second (default: 50)")
    parser.add_argument("--keep", metavar="DIRECTORY", help="leave the files here, to look at them afterwards")
    parser.add_argument("--directory", help="where the disk fault finds a small file system (default: it mounts one)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    given = parser.parse_args()
    known = FAULTS[given.engine]
    faults = tuple(given.faults.split(",")) if given.faults else known
    if "kill" not in faults or not set(faults) <= set(known):
        parser.error(f"--faults {given.faults}: name kill, and perhaps others of {', '.join(known)}, by commas")
    if given.directory and not Path(given.directory).is_dir():
        parser.error(f"--directory {given.directory}: there is no such directory")
    storm = Storm(
        engine=given.engine,
        kills=given.kills,
        minutes=given.minutes,
        seed=given.seed,
        faults=faults,
        processes=given.processes,
        per_second=given.per_second,
        mean_gap_seconds=FILE_GAP_SECONDS if given.engine == "sqlite" else SERVER_GAP_SECONDS,
    )
    return run_chaos(storm, keep=given.keep, small=given.directory, as_json=given.json)


if __name__ == "__main__":
    raise SystemExit(main())
