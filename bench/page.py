"""docs/performance.md and its picture, from the figures of the latest full runs (docs/performance.json)."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import platform
import sqlite3
from pathlib import Path
from typing import Any

import nats
import psycopg

from bench.stand import BUNDLED, ENGINES, Stand

Figures = dict[str, Any]

DOCS = Path(__file__).parents[1] / "docs"
STORED = DOCS / "performance.json"
NAMES = {"sqlite": "SQLite", "postgres": "PostgreSQL", "rabbitmq": "RabbitMQ", "nats": "NATS JetStream"}
SHOWN = ("fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers", "max_wal_size")
QUIET = 0.2
"""So much of a core may be other programs' before a figure is said to be disturbed."""
GOALS = {"limit": (1 / 3, 1 / 2), "peer": (5, 10)}
"""What each ratio must be, and what it should be."""


def settings(stand: Stand) -> Figures:
    """What was measured, and how durable it was: asked of the servers themselves."""
    found: Figures = {
        "Python": platform.python_version(),
        "msgspec": importlib.metadata.version("msgspec"),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
    }
    if stand.engine == "sqlite":
        return found | {"SQLite": f"{sqlite3.sqlite_version}, journal_mode WAL, synchronous FULL"}
    assert stand.postgres is not None
    with psycopg.connect(stand.postgres.url) as connection:
        shown = [f"{name} {connection.execute(f'SHOW {name}').fetchall()[0][0]}" for name in ("server_version", *SHOWN)]
    found["PostgreSQL"] = ", ".join(shown).removeprefix("server_version ")
    found["asyncpg"] = importlib.metadata.version("asyncpg")
    if stand.rabbitmq is not None:
        version = stand.rabbitmq.evaluate("rabbit_misc:version()").strip('"')
        found["RabbitMQ"] = f"{version}, quorum queues of one member, publisher confirms, persistent messages"
        found["pika"] = importlib.metadata.version("pika")
    if stand.nats is not None:
        found["NATS"] = (
            f"{asyncio.run(nats_version(stand.nats.url))}, JetStream file storage, one replica, {synced(stand)}"
        )
        found["nats-py"] = importlib.metadata.version("nats-py")
    return found


async def nats_version(url: str) -> str:
    connection = await nats.connect(url)
    try:
        version = connection.connected_server_version
        return f"{version.major}.{version.minor}.{version.patch}"
    finally:
        await connection.close()


def synced(stand: Stand) -> str:
    assert stand.nats is not None
    text = (stand.nats.directory / "nats.conf").read_text()
    return "sync_interval always" if "sync_interval: always" in text else "sync_interval default: not durable"


def add(engine: str, figures: Figures) -> None:
    """Takes these figures over, and writes the page anew."""
    stored: dict[str, Figures] = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}
    stored[engine] = stored.get(engine, {}) | figures
    STORED.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    write(stored)


def write(stored: dict[str, Figures]) -> None:
    from bench import plot

    measured = [engine for engine in ENGINES if engine in stored]
    parts = [HEAD, summary(stored, measured), PICTURE]
    parts += [section(engine, stored[engine]) for engine in measured]
    (DOCS / "performance.md").write_text("\n".join([*parts, TAIL]), encoding="utf-8")
    plot.draw(stored, measured, DOCS / "performance")


def summary(stored: dict[str, Figures], measured: list[str]) -> str:
    """One line per engine: the ratios that are promised."""
    lines = [
        "| engine | of the limit | times the best peer | two processes against one | idle latency, median |",
        "|---|---|---|---|---|",
    ]
    for engine in measured:
        figures = stored[engine]
        limit, peer = lowest(figures, "limit"), lowest(figures, "peer")
        scaling, latency = figures.get("scaling"), figures.get("latency")
        cells = [
            f"{limit['ratio']:.2f}" if limit else "not measured",
            f"{peer['ratio']:g} ({peer['against']})" if peer else "not measured",
            f"{scaling['ratio']:g}, and room for {room(engine, scaling):g}" if scaling else "not measured",
            f"{latency['p50_ms']:g} ms" if latency else "not measured",
        ]
        lines.append(f"| {NAMES[engine]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def lowest(figures: Figures, part: str) -> Figures | None:
    """The row with the strongest of those it is compared with, of outlast as it is by default."""
    if part not in figures:
        return None
    rows: list[Figures] = figures[part].get("rows", [figures[part]])
    return min((row for row in rows if not row.get("against", "").endswith(BUNDLED)), key=lambda row: row["ratio"])


def room(engine: str, scaling: Figures) -> float:
    """How many times as much there could be, at most, if a message cost no more where two processes share a queue."""
    one = scaling["one_process"]
    # One process writes to a file at a time; servers and processes can use all cores.
    cores = 1 if engine == "sqlite" else scaling["cores"]
    return round(cores / (one["our_cores"] + one["server_cores"]), 2)


def section(engine: str, figures: Figures) -> str:
    lines = [f"## {NAMES[engine]}", ""]
    lines += [f"* {name}: {value}" for name, value in figures.get("settings", {}).items()]
    lines += ["", "| what | compared with | theirs | outlast | ratio | range |", "|---|---|---|---|---|---|"]
    for part in ("limit", "peer"):
        for row in figures.get(part, {}).get("rows", []):
            theirs, ours = row["their_orders_per_second"], row["our_orders_per_second"]
            low, high = row["ratio_range"]
            lines.append(f"| {part} | {row['against']} | {theirs} | {ours} | {row['ratio']:g} | {low:g} to {high:g} |")
    if "scaling" in figures:
        scaling = figures["scaling"]
        one, two = scaling["one_process"]["orders_per_second"], scaling["two_processes"]["orders_per_second"]
        low, high = scaling["ratio_range"]
        lines.append(f"| scaling | one process | {one} | {two} | {scaling['ratio']:g} | {low:g} to {high:g} |")
    lines += ["", *notes(engine, figures), ""]
    return "\n".join(lines)


def notes(engine: str, figures: Figures) -> list[str]:
    """What does not fit into the table of rates, which are orders per second."""
    lines: list[str] = []
    disturbed = {name: part["others_cores"] for name, part in figures.items() if part.get("others_cores", 0) > QUIET}
    if disturbed:
        told = ", ".join(f"{cores:g} during {name}" for name, cores in disturbed.items())
        lines.append(f"* **the machine was not quiet**: other programs kept so many cores busy: {told}")
    if "scaling" in figures:
        scaling = figures["scaling"]
        one, two = scaling["one_process"], scaling["two_processes"]
        what = "one writer leaves" if engine == "sqlite" else f"{scaling['cores']} cores leave"
        lines.append(
            f"* cores busy with one process: {one['our_cores']:g} by itself, {one['server_cores']:g} by the servers; "
            f"with two: {two['our_cores']:g} and {two['server_cores']:g}; {what} room "
            f"for {room(engine, scaling):g} times as much as one process does, at most"
        )
    for name, cost in figures.get("limit", {}).get("cpu_us_per_message", {}).items():
        lines.append(f"* CPU per message, {name}: {cost['program']:g} µs, and {cost['servers']:g} µs of the servers")
    if "latency" in figures:
        latency = figures["latency"]
        lines.append(
            f"* idle latency: {latency['p50_ms']:g} ms at the median, {latency['p95_ms']:g} ms at the 95th percentile, "
            f"{latency['max_ms']:g} ms at most"
        )
    if "growth" in figures:
        growth = figures["growth"]
        costs = ", ".join(f"{name} {cost:g} µs" for name, cost in growth["cpu_us_per_message"].items())
        queue, ordered, random = (growth[f"ratio_{what}"] for what in ("queue", "instances", "instances_random_keys"))
        lines.append(f"* growth, CPU per message: {costs}")
        lines.append(
            f"* growth, ratios: {queue:g} with the queue, {ordered:g} with the instances, {random:g} with random keys"
        )
    if "start" in figures:
        start = figures["start"]
        lines.append(
            f"* start: `outlast --help` {start['outlast_help_ms']} ms, Python itself {start['python_ms']} ms "
            f"({start['ratio']:g} times)"
        )
    return lines


HEAD = """# Performance

The order workflow (five messages, three state changes, trivial handlers), history on, every commit on the disk before
it is reported. Every figure stands beside what it is compared with, measured in turn with it in the same run, because
a rate alone says more about the machine than about the library. `make bench ENGINE=sqlite`, `postgres`, `rabbitmq`,
`nats` or `all` measures again and writes this page; all but the first start private servers.
"""
PICTURE = """![Ratios of each engine: of the hand-written limit, of the best peer, of two processes](performance.svg)
"""
TAIL = """## What is measured

* **limit**: one process that runs client, ordering, payment and warehouse, against a program written by hand for
  this one workflow on the same servers (`bench/limit_*.py`): no envelopes, retries, history or dead letters. On
  RabbitMQ it exists twice: with a client written for the purpose, and with pika, which is what outlast uses.
* **peer**: client and three services in four processes, against the best durable peers in the same topology
  (`bench/peers`). Dramatiq and PgQueuer keep no workflow state.
* **scaling**: two processes, each with all three services and both at the same queues, against one; all orders wait
  before either begins. *Room* is how much more there could be, at most: all cores, divided by those that one process
  and its servers keep busy. With two processes on two cores nearly all of that is used: the servers' own load is the
  limit then, and a message costs a little more, since what is shared is locked. A SQLite file has one writer, and
  several processes make handlers faster, not the file.
* **latency**: from publishing one order to its instance being done, one order at a time, three services in three
  processes, by looking at the rows from outside.
* **growth**: CPU per message, ours and the server's, when a million messages wait in the queue, and when a million
  instances are stored, against a system with neither. Random keys are the worst case: every new instance lands on
  another index page.
* **start**: `outlast --help` against `python -c pass`, the fastest of twenty.

On the brokers, *bundled* is outlast with `?bundle=64` in its URL, beside the same programs; the first two columns of
ratios above and the picture are of the default.

Rates are orders per second; an order is five messages.
"""
