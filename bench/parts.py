"""The measurements, each beside what it is compared with. A rate alone says more of the machine than of the library."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bench import growth, inprocess, limit_nats, limit_postgres, limit_rabbitmq, limit_sqlite, processes
from bench.peer import PEERS
from bench.stand import BUNDLED, Stand

Figures = dict[str, Any]
Measure = Callable[[], float]


def alternate(ours: Mapping[str, Measure], others: Mapping[str, Measure], rounds: int) -> list[Figures]:
    """Ours and the others, in turn, every second time in the opposite order; the ratio is taken per round.

    Each way of ours has a row for each of the others, whose name it is added to.
    """
    measures = [*ours.values(), *others.values()]
    rates: list[list[float]] = [[] for _ in measures]
    for number in range(rounds):
        for index in range(len(measures)) if number % 2 else reversed(range(len(measures))):
            rates[index].append(measures[index]())
    return [
        row(f"{name}{way}", own, theirs)
        for way, own in zip(ours, rates, strict=False)
        for name, theirs in zip(others, rates[len(ours) :], strict=True)
    ]


def row(against: str, own: list[float], theirs: list[float]) -> Figures:
    """Our rates beside theirs, round by round."""
    ratios = [mine / their for mine, their in zip(own, theirs, strict=True)]
    return {
        "against": against,
        "their_orders_per_second": round(statistics.median(theirs)),
        "our_orders_per_second": round(statistics.median(own)),
        "ratio": rounded(statistics.median(ratios)),
        "ratio_range": [rounded(min(ratios)), rounded(max(ratios))],
    }


def ways(stand: Stand) -> Mapping[str, Stand]:
    """The engine as it is, and where there is a broker also with 64 messages in one of the broker's."""
    bundled = {BUNDLED: replace(stand, bundle=64)} if stand.engine in ("rabbitmq", "nats") else {}
    return {"": stand, **bundled}


def rounded(ratio: float) -> float:
    return round(ratio, 2 if ratio < 5 else 1)


def limit(stand: Stand, *, quick: bool) -> Figures:
    """One process that runs everything, against a program written by hand for this one workflow."""
    orders = 300 if quick else {"sqlite": 20_000, "postgres": 20_000}.get(stand.engine, 10_000)
    spent: dict[str, list[tuple[float, float]]] = {}

    def watched(name: str, measure: Measure) -> Measure:
        def run() -> float:
            own, servers = time.process_time(), stand.cpu()
            rate = measure()
            costs = (time.process_time() - own, stand.cpu() - servers)
            spent.setdefault(name, []).append((costs[0] / orders / 5 * 1e6, costs[1] / orders / 5 * 1e6))
            return rate

        return run

    def ours(way: Stand) -> float:
        with way.fresh() as system:
            return inprocess.run(system.url, orders)

    own = {name: watched(f"outlast{name}", partial(ours, way)) for name, way in ways(stand).items()}
    others = {name: watched(name, measure) for name, measure in limits(stand, orders).items()}
    rows = alternate(own, others, 1 if quick else 5)
    return {"rows": rows, "cpu_us_per_message": {name: cpu(costs) for name, costs in spent.items()}}


def cpu(costs: list[tuple[float, float]]) -> Figures:
    """Microseconds of CPU, which do not depend on what else the machine does as much as rates do."""
    program, servers = zip(*costs, strict=True)
    return {"program": round(statistics.median(program), 1), "servers": round(statistics.median(servers), 1)}


def limits(stand: Stand, orders: int) -> dict[str, Measure]:
    """The hand-written programs of this engine."""
    if stand.engine == "sqlite":
        return {"by hand": lambda: limit_of_sqlite(orders)}
    assert stand.postgres is not None
    rows = stand.postgres.url
    if stand.engine == "postgres":
        return {"by hand": lambda: limit_postgres.run(rows, orders)}
    if stand.engine == "nats":
        assert stand.nats is not None
        url = stand.nats.url
        return {"by hand": lambda: limit_nats.run(url, rows, orders)}
    assert stand.rabbitmq is not None
    url = stand.rabbitmq.url
    return {
        "by hand, its own AMQP": lambda: limit_rabbitmq.run(url, rows, orders),
        "by hand, pika": lambda: limit_rabbitmq.run(url, rows, orders, client="pika"),
    }


def limit_of_sqlite(orders: int) -> float:
    with tempfile.TemporaryDirectory() as directory:
        return limit_sqlite.run(Path(directory) / "orders.db", orders)


def peer(stand: Stand, *, quick: bool) -> Figures:
    """Three services in three processes and a client, against the best durable peers in the same topology."""
    orders = 1000 if quick else 10_000 if stand.engine == "sqlite" else 5_000
    others: dict[str, Measure] = {
        name: lambda each=each: each.run(stand, quick=quick) for name, each in PEERS[stand.engine].items()
    }
    own = {name: partial(processes.measure, way, orders) for name, way in ways(stand).items()}
    return {"rows": alternate(own, others, 1 if quick else 3)}


def scaling(stand: Stand, *, quick: bool) -> Figures:
    """Two processes that compete for the same queues, against one; and who had the cores meanwhile."""
    orders = 300 if quick else 20_000
    one, two = [], []
    for _ in range(1 if quick else 3):
        one.append(processes.competing(stand, 1, orders))
        two.append(processes.competing(stand, 2, orders))
    ratios = [b.orders_per_second / a.orders_per_second for a, b in zip(one, two, strict=True)]
    return {
        "one_process": middle(one),
        "two_processes": middle(two),
        "ratio": rounded(statistics.median(ratios)),
        "ratio_range": [rounded(min(ratios)), rounded(max(ratios))],
        "cores": os.cpu_count(),
    }


def middle(shares: list[processes.Share]) -> Figures:
    return {
        "orders_per_second": round(statistics.median(each.orders_per_second for each in shares)),
        "our_cores": round(statistics.median(each.our_cores for each in shares), 2),
        "server_cores": round(statistics.median(each.server_cores for each in shares), 2),
    }


def latency(stand: Stand, *, quick: bool) -> Figures:
    """One order at a time on an idle system, across three processes, five durable hops."""
    times = processes.measure_latency(stand, 10 if quick else 100)
    return {
        "p50_ms": round(times[len(times) // 2], 1),
        "p95_ms": round(times[int(len(times) * 0.95)], 1),
        "max_ms": round(times[-1], 1),
    }


def grown(stand: Stand, *, quick: bool) -> Figures:
    """CPU per message with a million messages queued, and a million instances stored, against an empty system."""
    cost = growth.measure(stand, million=20_000 if quick else 1_000_000, sample=2_000 if quick else 20_000)
    short, deep, none, ordered, random = cost.values()
    return {
        "cpu_us_per_message": {name: round(value, 1) for name, value in cost.items()},
        "ratio_queue": round(deep / short, 2),
        "ratio_instances": round(ordered / none, 2),
        "ratio_instances_random_keys": round(random / none, 2),
    }


def start(_stand: Stand, *, quick: bool) -> Figures:
    """The command line's help against a Python that does nothing, alternating; the fastest of each."""
    command = Path(sys.executable).with_name("outlast")
    bare, ours = [], []
    for _ in range(3 if quick else 20):
        bare.append(wall_ms([sys.executable, "-c", "pass"]))
        ours.append(wall_ms([str(command), "--help"]))
    return {
        "python_ms": round(min(bare)),
        "outlast_help_ms": round(min(ours)),
        "ratio": round(min(ours) / min(bare), 1),
    }


def wall_ms(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - begin) * 1000


PARTS: Mapping[str, Callable[..., Figures]] = {
    "limit": limit,
    "peer": peer,
    "scaling": scaling,
    "latency": latency,
    "growth": grown,
    "start": start,
}


def parts_of(engine: str) -> list[str]:
    """A broker's queue does not grow in our tables, and the command line is the same on all engines."""
    absent = {"sqlite": (), "postgres": ("start",)}.get(engine, ("start", "growth"))
    return [name for name in PARTS if name not in absent]
