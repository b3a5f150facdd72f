"""Every measurement in one run, each beside what it is compared with; writes docs/performance.md.

`python -m bench.run` for all of it, `--only limit,peer,latency,growth,start` for parts, `--quick` for a smoke run that
writes nothing, `--json` for the figures alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench import growth, inprocess, limit_sqlite, processes

ROOT = Path(__file__).parents[1]
PARTS = ("limit", "peer", "latency", "growth", "start")
AMQP = "amqp://guest:guest@127.0.0.1:5672"
POSTGRES = "host=127.0.0.1 user=postgres dbname=postgres"


def in_new_file(measure: Callable[[Path, int], float], orders: int) -> float:
    with tempfile.TemporaryDirectory() as directory:
        return measure(Path(directory) / "orders.db", orders)


def against_limit(orders: int, rounds: int) -> dict[str, object]:
    """One process, alternating with the hand-written limit."""
    pairs = [(in_new_file(limit_sqlite.run, orders), in_new_file(inprocess.run, orders)) for _ in range(rounds)]
    ratios = [ours / limit for limit, ours in pairs]
    return {
        "limit_orders_per_second": median(limit for limit, _ in pairs),
        "outlast_orders_per_second": median(ours for _, ours in pairs),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def against_peer(orders: int, rounds: int) -> dict[str, object]:
    """Three services in three processes, alternating with the best durable peer in the same topology."""
    python = peer_environment("dramatiq")
    pairs: list[tuple[float, float]] = []
    for _ in range(rounds):
        peer = subprocess.run(
            [python, ROOT / "bench/peers/dramatiq_run.py", str(orders // 5)],
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "BENCH_AMQP_URL": url("AMQP", AMQP),
                "BENCH_POSTGRES_URL": url("POSTGRES", POSTGRES),
            },
            check=False,
            timeout=600,
        )
        if peer.returncode:
            reason = peer.stderr.strip().splitlines()[-1:] or ["it failed without a word"]
            return {"not_measured": f"the peer needs RabbitMQ and PostgreSQL: {reason[0]}"}
        pairs.append((float(peer.stdout), in_new_file(processes.measure, orders)))
    ratios = [ours / peer for peer, ours in pairs]
    return {
        "dramatiq_orders_per_second": median(peer for peer, _ in pairs),
        "outlast_orders_per_second": median(ours for _, ours in pairs),
        "ratio": round(statistics.median(ratios), 1),
        "ratio_range": [round(min(ratios), 1), round(max(ratios), 1)],
    }


def url(name: str, default: str) -> str:
    return os.environ.get(f"BENCH_{name}_URL", default)


def peer_environment(peer: str) -> Path:
    """The peer's own virtual environment, made if need be."""
    home = ROOT / ".bench" / peer
    python = home / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        requirements = ROOT / f"bench/peers/{peer}_requirements.txt"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
    return python


def idle_latency(orders: int) -> dict[str, object]:
    """One order at a time on an idle system, across three processes, five durable hops."""
    with tempfile.TemporaryDirectory() as directory:
        times = processes.measure_latency(Path(directory) / "idle.db", orders)
    return {
        "p50_ms": round(times[len(times) // 2], 1),
        "p95_ms": round(times[int(len(times) * 0.95)], 1),
        "max_ms": round(times[-1], 1),
    }


def start_time(rounds: int) -> dict[str, object]:
    """The command line's help against a Python that does nothing, alternating; the fastest of each."""
    command = Path(sys.executable).with_name("outlast")
    bare, ours = [], []
    for _ in range(rounds):
        bare.append(wall_ms([sys.executable, "-c", "pass"]))
        ours.append(wall_ms([command, "--help"]))
    return {
        "python_ms": round(min(bare)),
        "outlast_help_ms": round(min(ours)),
        "ratio": round(min(ours) / min(bare), 1),
    }


def wall_ms(command: list[object]) -> float:
    begin = time.perf_counter()
    subprocess.run([*map(str, command)], stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - begin) * 1000


def with_a_million(million: int, sample: int) -> dict[str, object]:
    """CPU per message with a million messages or instances, against an empty file."""
    with tempfile.TemporaryDirectory() as directory:
        cost = growth.measure(Path(directory), million=million, sample=sample)
    queue, deep, none, ordered, random = cost.values()
    return {
        "cpu_us_per_message": {name: round(value, 1) for name, value in cost.items()},
        "ratio_queue": round(deep / queue, 2),
        "ratio_instances": round(ordered / none, 2),
        "ratio_instances_random_keys": round(random / none, 2),
    }


def median(values: object) -> int:
    return round(statistics.median(values))  # type: ignore[arg-type]


def shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {figure}" for name, figure in value.items())
    return " to ".join(map(str, value)) if isinstance(value, list) else str(value)


def page(figures: dict[str, dict[str, object]]) -> str:
    """docs/performance.md, from the figures of this run."""
    rows = [
        f"| {name} | {key.replace('_', ' ')} | {shown(value)} |"
        for name, part in figures.items()
        for key, value in part.items()
    ]
    return TEMPLATE.format(
        rows="\n".join(rows),
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        msgspec=msgspec.__version__,
        cores=os.cpu_count(),
        system=platform.system(),
    )


TEMPLATE = """# Performance

The order workflow (five messages, three state changes, trivial handlers), history on, `synchronous=FULL`: every
commit is on the disk before it is reported. Every figure stands beside what it is compared with, measured in the
same run, because a rate alone says more about the machine than about the library. `make bench` measures it again
and writes this page.

| what | figure | value |
|---|---|---|
{rows}

Python {python}, SQLite {sqlite}, msgspec {msgspec}, {cores} cores, {system}.

* **limit**: one process that runs client, ordering, payment and warehouse, against a program written by hand for
  this one workflow on the same driver (`bench/limit_sqlite.py`): no envelopes, retries, history or dead letters.
* **peer**: client and three services in four processes, against a Dramatiq pipeline on RabbitMQ in the same
  topology (`bench/peers`), the fastest durable peer that could be found. It keeps no workflow state.
* **latency**: from publishing one order to its instance being done, one order at a time, three services in three
  processes, by looking at the rows from outside.
* **start**: `outlast --help` against `python -c pass`, the fastest of twenty.
* **growth**: CPU per message when a million messages wait in the queue, and when a million instances are stored,
  against a file with neither. Random keys are the worst case: every new instance lands on another index page.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures outlast on SQLite beside its limit and a peer.")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    quick = arguments.quick
    parts: dict[str, Callable[[], dict[str, object]]] = {
        "limit": lambda: against_limit(1000 if quick else 20_000, 1 if quick else 5),
        "peer": lambda: against_peer(1000 if quick else 10_000, 1 if quick else 3),
        "latency": lambda: idle_latency(20 if quick else 200),
        "start": lambda: start_time(3 if quick else 20),
        "growth": lambda: with_a_million(20_000 if quick else 1_000_000, 2000 if quick else 20_000),
    }
    figures: dict[str, dict[str, object]] = {}
    for name in arguments.only.split(","):
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        figures[name] = parts[name]()
        print(f"  {figures[name]}", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps(figures))
    if not quick and set(figures) == set(PARTS):
        (ROOT / "docs" / "performance.md").write_text(page(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
