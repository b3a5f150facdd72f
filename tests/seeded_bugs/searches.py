"""The searches that are to find the planted bugs. Run as a program: prints which of them find something."""

from __future__ import annotations

import json
from collections.abc import Callable

from outlast.testing import exploring
from outlast.testing.exploring import explore, interleave, search
from outlast.testing.faults import Faults
from tests.simulation import workloads as w

WORKLOADS = [
    (w.orders, w.ORDERS),
    (w.fan_in, w.FAN_IN),
    (w.timer_race, w.TIMER_RACE),
    (w.poison, w.ORDERS),
    (w.repeated, w.ORDERS),
    (w.too_early, w.ORDERS),
    (w.away, w.ORDERS),
]


def usual() -> None:
    """Every workload once, with nothing unusual."""
    for scenario, services in WORKLOADS:
        explore(scenario, services, faults=())


def single_faults() -> None:
    """A crash or an error before or after every effect."""
    for scenario, services in WORKLOADS[:3]:
        explore(scenario, services)


def races() -> None:
    """Two workers of each service in many orders, and nothing that fails."""
    interleave(w.fan_in, w.FAN_IN, racing="assembly", limit=150)
    for batch in (2, 256):
        for scenario, services in WORKLOADS[:3]:
            search(
                scenario,
                services,
                seeds=range(40),
                faults=lambda _: Faults(shuffle=0.5, partial=0.5),
                workers=lambda _: 2,
                batch=batch,
            )


def random_faults() -> None:
    """Some faults at some rates."""
    for scenario, services in WORKLOADS:
        search(scenario, services, seeds=range(60))


def pauses() -> None:
    """Processes that stand still for longer than their claims are valid, and duplicates."""
    for scenario, services in WORKLOADS[:3]:
        search(
            scenario,
            services,
            seeds=range(40),
            faults=lambda seed: Faults(pause=0.2, duplicate=0.1, shuffle=0.7),
        )


SEARCHES: list[Callable[[], None]] = [usual, single_faults, races, random_faults, pauses]


def finds(searching: Callable[[], None]) -> str:
    """The rule that the search found broken; empty if it found nothing."""
    try:
        searching()
    except AssertionError as error:
        first = str(error).strip().splitlines()[0].strip()
        return first.split(":")[0] if first.startswith("I") else "own"
    except Exception as error:
        return type(error).__name__
    return ""


if __name__ == "__main__":
    exploring.SHRINKING_RUNS = 0
    exploring.REPEATED = 1_000_000
    print(json.dumps({searching.__name__: finds(searching) for searching in SEARCHES}))
