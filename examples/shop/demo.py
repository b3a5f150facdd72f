"""The demo: 830 orders, two services killed while they flow, and an audit of the books afterwards.

python -m examples.shop.demo --seed 7
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from examples.shop import ordering, payment, warehouse
from examples.shop.audit import audit, read_books
from examples.shop.display import display
from examples.shop.fleet import SERVICES, Fleet
from examples.shop.orders import read_orders
from examples.shop.program import create_tables, shop_file, url_of
from examples.shop.script import Kill, Outcome, Script
from examples.shop.storefront import Storefront
from examples.shop.watch import Sight, Watch
from outlast import Client

LOOK_SECONDS = 0.1
QUIET_LOOKS = 3
"""So many looks in a row must find nothing waiting: a message may move while one of them is taken."""


class Play:
    """One performance of a script."""

    def __init__(self, script: Script, fleet: Fleet, watch: Watch, storefront: Storefront) -> None:
        self.script = script
        self.fleet = fleet
        self.watch = watch
        self.storefront = storefront
        self.kills: list[Kill] = []
        self._away: Kill | None = None

    async def run(self, client: Client, show: Callable[[Sight], None]) -> Sight:
        """Performs it, shows what can be seen, and returns the last sight."""
        orders = read_orders()[: self.script.orders]
        tasks = [
            asyncio.create_task(self.storefront.sell(client, orders, per_second=self.script.per_second)),
            asyncio.create_task(self._mishaps()),
        ]
        try:
            return await self._look_on(tasks, show)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_on(self, tasks: list[asyncio.Task[None]], show: Callable[[Sight], None]) -> Sight:
        quiet = 0
        while True:
            sight = await self.watch.look()
            show(sight)
            if self._away is not None:
                self._away.most_waiting = max(self._away.most_waiting, sight.waiting.get(self._away.service, 0))
            if all(task.done() for task in tasks):
                for task in tasks:
                    task.result()
                quiet = quiet + 1 if sight.is_quiet else 0
            if quiet == QUIET_LOOKS or sight.seconds > self.script.longest_seconds or self.fleet.fallen():
                return sight
            await asyncio.sleep(LOOK_SECONDS)

    async def _mishaps(self) -> None:
        script = self.script
        await self._until(lambda sight: sight.placed, script.payment_falls_at)
        await self._fell("payment", script.payment_away_seconds)
        await self._until(lambda sight: sight.ended, script.ordering_falls_at)
        await self._fell("ordering", script.ordering_away_seconds)

    async def _until(self, count: Callable[[Sight], int], share: float) -> None:
        """Waits until so many of the orders are counted."""
        # A file gives no notice of its changes, so looking again is all there is.
        while count(await self.watch.look()) < share * self.script.orders:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def _fell(self, service: str, away_seconds: float) -> None:
        self.fleet.kill(service)
        sight = await self.watch.look()
        self._away = Kill(service, round(sight.seconds, 2), sight.under_way, sight.waiting.get(service, 0))
        self.kills.append(self._away)
        await asyncio.sleep(away_seconds)
        self.fleet.start(service)
        self._away = None


async def perform(script: Script, directory: Path, *, seed: int, show: Callable[[Sight], None]) -> Outcome:
    """Runs the shop in this directory through the script, and audits it."""
    for tables in (ordering.TABLES, payment.TABLES, warehouse.TABLES):
        create_tables(directory, tables)
    storefront = Storefront(directory, ship_within=timedelta(days=1))
    with Fleet(directory) as fleet:
        async with Client(url_of(directory), name="storefront") as client:
            for service in SERVICES:
                fleet.start(service)
            with closing(Watch(client, fleet, directory)) as watch:
                await watch.until_ready()
                play = Play(script, fleet, watch, storefront)
                last = await play.run(client, show)
        fallen = fleet.fallen()
    return Outcome(
        seed=seed,
        report=audit(read_books(directory, storefront.accepted), is_quiet=last.is_quiet),
        kills=play.kills,
        seconds=last.seconds,
        messages=last.handled,
        dead_letters=last.dead_letters,
        fallen=fallen,
    )


def run_demo(*, seed: int, keep: str | None, as_json: bool) -> int:
    """Runs the demo and returns the exit code: 0 if the audit finds nothing, 1 if it does, 130 after Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="outlast-demo-") as temporary:
        directory = Path(keep or temporary).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        if shop_file(directory).exists():
            print(f"{directory} has a shop already. Give --keep an empty directory.", file=sys.stderr)
            return 2
        with display(as_json=as_json) as screen:
            try:
                outcome = asyncio.run(_interruptible(Script.of(seed), directory, seed, screen.show))
            except (KeyboardInterrupt, asyncio.CancelledError):
                return 130
        screen.finish(outcome, kept=directory if keep else None)
    return 0 if outcome.is_clean else 1


async def _interruptible(script: Script, directory: Path, seed: int, show: Callable[[Sight], None]) -> Outcome:
    task = asyncio.current_task()
    assert task is not None
    # A polite end, so that the services are ended too.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await perform(script, directory, seed=seed, show=show)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Runs the shop, kills two of its services, and audits its books.")
    parser.add_argument("--seed", type=int, default=1, help="moves the kills (default: 1)")
    parser.add_argument("--keep", metavar="DIRECTORY", help="leave the files here, to look at them afterwards")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    raise SystemExit(run_demo(seed=arguments.seed, keep=arguments.keep, as_json=arguments.json))
