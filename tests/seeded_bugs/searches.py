"""The searches that are to find the planted bugs. Run as a program: prints which of them find something."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from outlast.testing import exploring
from outlast.testing.broker import KINDS
from outlast.testing.exploring import explore, interleave, search
from outlast.testing.faults import Faults
from tests.simulation import workloads as w
from tests.simulation.exhaustive import FINER, RACES

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
    """Two workers of each service in many orders, at random, and nothing that fails."""
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


def all_orders() -> None:
    """Two messages at two workers, in every order that can differ (but a bug may make it very many)."""
    for scenario, services, racing, choice_points in RACES:
        if not choice_points >= FINER:
            interleave(scenario, services, racing=racing, choice_points=choice_points, limit=1_500)


def sqlite_usual() -> None:
    """Every workload once on SQLite, with one worker and with two."""
    for scenario, services in WORKLOADS:
        for workers in (1, 2):
            explore(scenario, services, faults=(), engine="sqlite", workers=workers)


def sqlite_single_faults() -> None:
    """A crash or an error before or after every effect."""
    for scenario, services in WORKLOADS[:2]:
        explore(scenario, services, engine="sqlite")


def sqlite_races() -> None:
    """Two workers of each service in many orders, and nothing that fails."""
    for batch in (2, 256):
        for scenario, services in WORKLOADS[:3]:
            search(
                scenario,
                services,
                seeds=range(20),
                faults=lambda _: Faults(shuffle=0.5, partial=0.5),
                workers=lambda _: 2,
                batch=batch,
                engine="sqlite",
            )


def sqlite_random_faults() -> None:
    """Some faults at some rates."""
    for scenario, services in WORKLOADS:
        search(scenario, services, seeds=range(30), engine="sqlite")


def contract() -> None:
    """The contract of all engines, kept by SQLite."""
    keeps_contract("TestSqlite")


def broker_usual() -> None:
    """Every workload once on either kind of broker, with one worker and with two."""
    for kind in KINDS:
        for scenario, services in WORKLOADS:
            for workers in (1, 2):
                explore(scenario, services, faults=(), engine=kind, workers=workers)


def broker_single_faults() -> None:
    """Everything that can go wrong, at every effect."""
    explore(w.orders, w.ORDERS, engine="rabbitmq")
    explore(w.timer_race, w.TIMER_RACE, engine="rabbitmq")
    explore(w.timer_race, w.TIMER_RACE, engine="nats", workers=2)


def broker_random_faults() -> None:
    """Some faults at some rates."""
    for kind in KINDS:
        for scenario, services in WORKLOADS:
            search(scenario, services, seeds=range(30), engine=kind)


def broker_contract() -> None:
    """The contract of all engines, kept by a simulated broker with a store, and what is tried of these alone."""
    keeps_contract("not TestMemory and not TestSqlite", "contracts", "broker")


def keeps_contract(tests: str, *folders: str) -> None:
    """Runs these tests of the contract."""
    paths = [str(Path(__file__).parents[1] / folder) for folder in folders or ("contracts",)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-k", tests, *paths],
        stdout=subprocess.DEVNULL,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, "fails: a test of the contract"


SEARCHES: list[Callable[[], None]] = [usual, single_faults, all_orders, races, random_faults, pauses]
SQLITE_SEARCHES: list[Callable[[], None]] = [
    sqlite_usual,
    sqlite_single_faults,
    sqlite_races,
    sqlite_random_faults,
    contract,
]
BROKER_SEARCHES: list[Callable[[], None]] = [
    broker_usual,
    broker_single_faults,
    broker_random_faults,
    broker_contract,
]
ALL = {"memory": SEARCHES, "sqlite": SQLITE_SEARCHES, "broker": BROKER_SEARCHES}


def finds(searching: Callable[[], None]) -> str:
    """The rule that the search found broken; empty if it found nothing."""
    try:
        searching()
    except AssertionError as error:
        first = str(error).strip().splitlines()[0].strip()
        return first.split(":")[0] if first.startswith(("I", "fails")) else "own"
    except Exception as error:
        return type(error).__name__
    return ""


if __name__ == "__main__":
    exploring.SHRINKING_RUNS = 0
    exploring.REPEATED = 1_000_000
    print(json.dumps({searching.__name__: finds(searching) for searching in ALL[sys.argv[1]]}))
