"""Runs all systems through the same schedules, audits them in the same way, and writes the report.

`python -m lab` takes about nine minutes and writes docs/why.md with its figures and its picture. `--seeds 1,2,3` and
`--only monolith,postgres` choose, `--quick` is a smoke run; where not everything is run, the report is written only if
`--output` says where. `--schedule` prints what will go wrong, and runs nothing. Exit code 1: an order of a workflow
was left inconsistent.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import FrameType

from servers.others import Others
from servers.server import NotInstalled

from lab import page, report
from lab.figures import Figures, figures_of
from lab.run import Outcome, measure
from lab.schedule import Schedule, calm, quick, schedule
from lab.stage import Servers
from lab.systems import SYSTEMS

CALM_SECONDS, CALM_SECONDS_QUICK = 6.0, 1.0
ENOUGH_SEEDS = 3
"""For a report that is published."""
DOCS = Path(__file__).parents[1] / "docs"


def compare(names: Sequence[str], plans: Sequence[Schedule], calm_seconds: float) -> Figures:
    """The figures of every system: without faults, under each schedule, and under all of them."""
    outcomes: dict[str, dict[int, Outcome]] = {name: {} for name in names}
    quiet: dict[str, Outcome] = {}
    with Servers() as servers:
        servers.start_for(names)
        for name in names:
            quiet[name] = told(name, calm(calm_seconds), servers)
        for plan in plans:
            for name in names:
                outcomes[name][plan.seed] = told(name, plan, servers)
    return {
        "seeds": [plan.seed for plan in plans],
        "schedules": {str(plan.seed): str(plan).splitlines() for plan in plans},
        "systems": {
            name: {
                "without_faults": figures_of([quiet[name]]),
                "with_faults": figures_of(list(outcomes[name].values())),
                "runs": {str(seed): figures_of([outcome]) for seed, outcome in outcomes[name].items()},
            }
            for name in names
        },
    }


def told(name: str, plan: Schedule, servers: Servers) -> Outcome:
    """One run, with a line about it for whoever waits."""
    began = monotonic()
    outcome = measure(name, plan, servers)
    found = figures_of([outcome])
    print(
        f"{SYSTEMS[name].title}, {f'seed {plan.seed}' if plan.faults else 'without faults'}: {found['orders']} orders, "
        f"{found['accepted']} accepted, {found['inconsistent']} inconsistent ({monotonic() - began:.0f} s)",
        file=sys.stderr,
        flush=True,
    )
    return outcome


@dataclass(frozen=True)
class Asked:
    """The command line, understood."""

    names: list[str]
    plans: list[Schedule]
    calm_seconds: float
    output: Path | None
    as_json: bool
    only_schedule: bool


def asked() -> Asked:
    parser = argparse.ArgumentParser(prog="python -m lab", description="One shop in four ways, under the same faults.")
    parser.add_argument("--seeds", default="", help="the schedules (default: 1,2,3; with --quick 1)")
    parser.add_argument("--only", default=",".join(SYSTEMS), help="some of the systems (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few seconds for each, with two faults")
    parser.add_argument("--json", action="store_true", help="print the figures")
    parser.add_argument("--schedule", action="store_true", help="print the schedules, and run nothing")
    parser.add_argument("--output", type=Path, help="the folder for the report (default for a full run: docs)")
    given = parser.parse_args()
    only: list[str] = given.only.split(",")
    if unknown := set(only) - set(SYSTEMS):
        parser.error(f"there is no system {', '.join(sorted(unknown))}; there are {', '.join(SYSTEMS)}")
    is_quick: bool = given.quick
    seeds = [int(seed) for seed in (given.seeds or ("1" if is_quick else "1,2,3")).split(",")]
    is_full = not is_quick and len(only) == len(SYSTEMS) and len(seeds) >= ENOUGH_SEEDS
    return Asked(
        names=[name for name in SYSTEMS if name in only],
        plans=[quick(seed) if is_quick else schedule(seed) for seed in seeds],
        calm_seconds=CALM_SECONDS_QUICK if is_quick else CALM_SECONDS,
        output=given.output or (DOCS if is_full else None),
        as_json=given.json,
        only_schedule=given.schedule,
    )


def end(number: int, frame: FrameType | None) -> None:
    """SIGTERM: leaves by way of every `with`, so that no server and no process is left."""
    raise SystemExit(128 + number)


def main() -> int:
    """The command line."""
    given = asked()
    if given.only_schedule:
        print("\n\n".join(map(str, given.plans)))
        return 0
    signal.signal(signal.SIGTERM, end)
    others = Others()
    try:
        figures = compare(given.names, given.plans, given.calm_seconds)
    except KeyboardInterrupt:
        return 130
    except NotInstalled as missing:
        print(f"{missing} (or leave the system out: --only)", file=sys.stderr)
        return 1
    figures |= {"machine": report.machine(), "others_cores": others.cores()}
    if given.output is not None:
        report.write(figures, given.output)
    if given.as_json:
        print(json.dumps(figures))
    clean = all(figures["systems"][name]["with_faults"]["inconsistent"] == 0 for name in page.workflows(figures))
    return 0 if clean else 1


if __name__ == "__main__":
    raise SystemExit(main())
