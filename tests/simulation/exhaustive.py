"""The searches that take longer than a test run, with their figures.

python -m tests.simulation.exhaustive            single faults, pairs of crashes, and races
python -m tests.simulation.exhaustive --pairs    every pair of crashes and errors (minutes)
python -m tests.simulation.exhaustive --seeds N  N random runs of every workload
python -m tests.simulation.exhaustive --engines rabbitmq nats  only these; pairs and races are in memory unless one is
                                                 named
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from outlast import Service
from outlast.testing import Simulation
from outlast.testing.exploring import EVERY_FAULT, Explored, Scenario, explore, interleave, search
from outlast.testing.stage import ENGINES, NEVER_FAILS
from outlast.testing.tape import CRASHES, Fault
from tests.simulation import workloads as w

WORKLOADS: list[tuple[Scenario, Sequence[Service]]] = [
    (w.orders, w.ORDERS),
    (w.fan_in, w.FAN_IN),
    (w.timer_race, w.TIMER_RACE),
    (w.poison, w.ORDERS),
    (w.repeated, w.ORDERS),
    (w.too_early, w.ORDERS),
    (w.away, w.ORDERS),
]
VISIBLE = frozenset({"load", "commit"})


FINER = VISIBLE | {"receive", "first sight"}


def two_parts(sim: Simulation) -> None:
    """The smallest fan-in: two parts reach one instance at the same time."""
    w.fan_in(sim, parts=2)


RACES: list[tuple[Scenario, Sequence[Service], str, frozenset[str]]] = [
    (two_parts, w.FAN_IN, "assembly", VISIBLE),
    (two_parts, w.FAN_IN, "assembly", FINER),
    (two_parts, w.FAN_IN, "factory", VISIBLE),
    (two_parts, w.FAN_IN, "factory", VISIBLE | {"receive"}),
    (w.asked_twice, w.TIMER_RACE, "questions", VISIBLE),
    (w.timer_against_answer, w.TIMER_RACE, "questions", VISIBLE),
    (w.timer_against_answer, w.TIMER_RACE, "questions", FINER),
    (w.timer_race, w.TIMER_RACE, "questions", VISIBLE),
]
"""Two messages at two workers of a service: what races, where, and before which effects either may go first."""


def show(what: str, searching: Callable[[], Explored], seen: Counter[str]) -> None:
    """Runs a search and prints what it went through."""
    started = time.perf_counter()
    found = searching()
    seconds = time.perf_counter() - started
    seen.update(found.seen)
    print(f"{what:<44} {found}, {seconds:.1f} s, {found.runs / seconds:,.0f} runs/s", flush=True)


def rate() -> None:
    """Prints how many undisturbed order conversations are simulated in a second."""
    ids = [str(number) for number in range(500)]
    started = time.perf_counter()
    with Simulation(w.ORDERS, faults=NEVER_FAILS) as sim:
        w.orders(sim, *ids)
    together = len(ids) / (time.perf_counter() - started)
    started = time.perf_counter()
    for _ in range(200):
        with Simulation(w.ORDERS) as sim:
            w.orders(sim)
    alone = 200 / (time.perf_counter() - started)
    print(f"order conversations per second: {together:,.0f} in one world, {alone:,.0f} each in a world of its own")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--limit", type=int, default=20_000)
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    arguments = parser.parse_args()
    seen: Counter[str] = Counter()
    engines: list[str] = arguments.engines
    of_pairs = engines if len(engines) < len(ENGINES) else ["memory"]
    if arguments.pairs:
        pairs("crashes or errors", EVERY_FAULT, of_pairs, seen)
    else:
        rate()
        singles(engines, arguments.seeds, seen)
        if "memory" in engines:
            races(arguments.limit, seen)
        pairs("crashes", CRASHES, of_pairs, seen)
    print("met: " + ", ".join(f"{name} {count:,}" for name, count in sorted(seen.items())))


def pairs(what: str, faults: Sequence[Fault], engines: Sequence[str], seen: Counter[str]) -> None:
    """Every two of these faults, the second one anywhere in the run that has the first."""
    for scenario, services in WORKLOADS[:3]:
        for engine in engines:
            name = scenario.__name__.replace("_", " ")
            searching = partial(explore, scenario, services, faults=faults, pairs=True, engine=engine)
            show(f"pairs of {what}, {name}, {engine}", searching, seen)


def singles(engines: Sequence[str], random_runs: int, seen: Counter[str]) -> None:
    """Every fault at every effect of every workload, and random mixtures."""
    for scenario, services in WORKLOADS:
        name = scenario.__name__.replace("_", " ")
        for engine in engines:
            show(f"single faults, {name}, {engine}", partial(explore, scenario, services, engine=engine), seen)
            if random_runs:
                seeds = range(random_runs)
                show(
                    f"random faults, {name}, {engine}",
                    partial(search, scenario, services, seeds=seeds, engine=engine),
                    seen,
                )


def races(limit: int, seen: Counter[str]) -> None:
    """Two messages at two workers, in every order."""
    for racers, services, racing, choice_points in RACES:
        race = partial(interleave, racers, services, racing=racing, choice_points=choice_points, limit=limit)
        finer = "" if choice_points == VISIBLE else ", finer"
        show(f"all orders, {racers.__name__.replace('_', ' ')} at {racing}{finer}", race, seen)


if __name__ == "__main__":
    main()
