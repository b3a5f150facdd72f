"""The demo: 830 orders, what the shop consists of killed while they flow, and an audit of the books afterwards.

python -m examples.shop.demo --seed 7
python -m examples.shop.demo --engine rabbitmq
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
from examples.shop.premises import ENGINES, Missing, Premises, premises
from examples.shop.program import has_a_shop
from examples.shop.script import Kill, Mishap, Outcome, Script
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
        """Orders flow, while one after the other falls and comes back."""
        orders = read_orders()[: self.script.orders]
        async with asyncio.TaskGroup() as acts:
            acts.create_task(self.stage.storefront.sell(self.stage.client, orders, per_second=self.script.per_second))
            acts.create_task(self._mishaps())

    def show(self, sight: Sight) -> None:
        """Notes what the others do without the one that is away, and passes the sight on."""
        away = self._away
        if away is not None:
            away.most_waiting = max(away.most_waiting, sight.waiting.get(away.who, 0))
            away.most_in_outbox = max(away.most_in_outbox, sight.outbox)
        self._show(sight)

    async def _mishaps(self) -> None:
        for mishap in self.script.mishaps:
            await self._until(mishap)
            await self._fell(mishap)

    async def _until(self, mishap: Mishap) -> None:
        """Waits until so many of the orders are counted."""
        wanted = mishap.share * self.script.orders
        while True:
            sight = await self.stage.watch.look()
            if (sight.placed if mishap.when == "placed" else sight.ended) >= wanted:
                return
            # A database gives no notice of its changes, so looking again is all there is.
            await asyncio.sleep(0.02)

    async def _fell(self, mishap: Mishap) -> None:
        stage, storefront = self.stage, self.stage.storefront
        accepted, refused = len(storefront.accepted), storefront.refused
        await stage.kill(mishap.who)
        sight = await stage.watch.look()
        away = self._away = Kill(mishap.who, round(sight.seconds, 2), sight.under_way, sight.waiting.get(mishap.who, 0))
        self.kills.append(away)
        await asyncio.sleep(mishap.away_seconds)
        await stage.start(mishap.who)
        away.accepted, away.refused = len(storefront.accepted) - accepted, storefront.refused - refused
        self._away = None


async def perform(
    script: Script, premises: Premises, directory: Path, *, seed: int, show: Callable[[Sight], None]
) -> Outcome:
    """Runs the shop on these premises through the script, and audits it."""
    async with set_stage(premises, directory, SERVICES) as stage:
        play = Play(script, stage, show)
        last = await stage.play(play.acts(), play.show, rest_seconds=script.rest_seconds)
        fallen = stage.fleet.fallen()
    return Outcome(
        seed=seed,
        report=await stage.audit(last),
        kills=play.kills,
        seconds=last.seconds,
        messages=last.handled,
        dead_letters=last.dead_letters,
        fallen=fallen,
        unrest=last.unrest,
    )


def run_demo(*, seed: int, keep: str | None, as_json: bool, engine: str = "sqlite") -> int:
    """Runs the demo and returns the exit code: 0 if the audit finds nothing, 8 if it does, 130 after Ctrl-C.

    Raises `Missing` if the engine's servers are not on this machine.
    """
    with tempfile.TemporaryDirectory(prefix="outlast-demo-") as temporary:
        directory = Path(keep or temporary).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        if has_a_shop(directory):
            print(f"{directory} has a shop already. Give --keep an empty directory.", file=sys.stderr)
            return 2
        with premises(engine, directory) as place, display(place.servers, as_json=as_json) as screen:
            script = Script.of(seed, place.servers)
            try:
                outcome = run_to_end(perform(script, place, directory, seed=seed, show=screen.show))
            except KeyboardInterrupt:
                return 130
            outcome.engine = engine
            screen.finish(outcome, kept=directory if keep else None)
    return 0 if outcome.is_clean else PROBLEMS_FOUND


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Runs the shop, kills what it consists of, and audits its books.")
    parser.add_argument("--engine", choices=ENGINES, default="sqlite", help="what it runs on (default: sqlite)")
    parser.add_argument("--seed", type=int, default=1, help="moves the kills (default: 1)")
    parser.add_argument("--keep", metavar="DIRECTORY", help="leave the files here, to look at them afterwards")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    given = parser.parse_args()
    try:
        return run_demo(seed=given.seed, keep=given.keep, as_json=given.json, engine=given.engine)
    except Missing as missing:
        print(missing, file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
