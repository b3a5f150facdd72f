"""The demo: 830 orders, two services killed while they flow, and an audit of the books afterwards.

python -m examples.shop.demo --seed 7
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from examples.shop.display import display
from examples.shop.fleet import SERVICES
from examples.shop.orders import read_orders
from examples.shop.program import shop_file
from examples.shop.script import Kill, Outcome, Script
from examples.shop.stage import Stage, run_to_end, set_stage
from examples.shop.watch import Sight

PROBLEMS_FOUND = 8
"""The exit code with which outlast's own commands say so."""


class Play:
    """One performance of a script."""

    def __init__(self, script: Script, stage: Stage, show: Callable[[Sight], None]) -> None:
        self.script = script
        self.stage = stage
        self.kills: list[Kill] = []
        self._away: Kill | None = None
        self._show = show

    async def acts(self) -> None:
        """Orders flow; two services fall and come back."""
        orders = read_orders()[: self.script.orders]
        async with asyncio.TaskGroup() as acts:
            acts.create_task(self.stage.storefront.sell(self.stage.client, orders, per_second=self.script.per_second))
            acts.create_task(self._mishaps())

    def show(self, sight: Sight) -> None:
        """Notes how long the queue of the service that is away has become, and passes the sight on."""
        if self._away is not None:
            self._away.most_waiting = max(self._away.most_waiting, sight.waiting.get(self._away.service, 0))
        self._show(sight)

    async def _mishaps(self) -> None:
        script = self.script
        await self._until(lambda sight: sight.placed, script.payment_falls_at)
        await self._fell("payment", script.payment_away_seconds)
        await self._until(lambda sight: sight.ended, script.ordering_falls_at)
        await self._fell("ordering", script.ordering_away_seconds)

    async def _until(self, count: Callable[[Sight], int], share: float) -> None:
        """Waits until so many of the orders are counted."""
        # A file gives no notice of its changes, so looking again is all there is.
        while count(await self.stage.watch.look()) < share * self.script.orders:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def _fell(self, service: str, away_seconds: float) -> None:
        self.stage.fleet.kill(service)
        sight = await self.stage.watch.look()
        self._away = Kill(service, round(sight.seconds, 2), sight.under_way, sight.waiting.get(service, 0))
        self.kills.append(self._away)
        await asyncio.sleep(away_seconds)
        self.stage.fleet.start(service)
        self._away = None


async def perform(script: Script, directory: Path, *, seed: int, show: Callable[[Sight], None]) -> Outcome:
    """Runs the shop in this directory through the script, and audits it."""
    async with set_stage(directory, SERVICES) as stage:
        play = Play(script, stage, show)
        last = await stage.play(play.acts(), play.show, rest_seconds=script.rest_seconds)
        fallen = stage.fleet.fallen()
    return Outcome(
        seed=seed,
        report=stage.audit(last),
        kills=play.kills,
        seconds=last.seconds,
        messages=last.handled,
        dead_letters=last.dead_letters,
        fallen=fallen,
    )


def run_demo(*, seed: int, keep: str | None, as_json: bool) -> int:
    """Runs the demo and returns the exit code: 0 if the audit finds nothing, 8 if it does, 130 after Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="outlast-demo-") as temporary:
        directory = Path(keep or temporary).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        if shop_file(directory).exists():
            print(f"{directory} has a shop already. Give --keep an empty directory.", file=sys.stderr)
            return 2
        with display(as_json=as_json) as screen:
            try:
                outcome = run_to_end(perform(Script.of(seed), directory, seed=seed, show=screen.show))
            except KeyboardInterrupt:
                return 130
        screen.finish(outcome, kept=directory if keep else None)
    return 0 if outcome.is_clean else PROBLEMS_FOUND


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Runs the shop, kills two of its services, and audits its books.")
    parser.add_argument("--seed", type=int, default=1, help="moves the kills (default: 1)")
    parser.add_argument("--keep", metavar="DIRECTORY", help="leave the files here, to look at them afterwards")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    raise SystemExit(run_demo(seed=arguments.seed, keep=arguments.keep, as_json=arguments.json))
