"""Does a message cost more when a million others wait, or a million instances are stored?"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from pathlib import Path

from bench import inprocess
from bench.orders import Fulfilment, MakePayment, payment
from outlast import Worker
from outlast.adapters.sqlite.schema import micros
from outlast.adapters.system import SystemWorld
from outlast.core.naming import encode
from outlast.core.plan import plan_of
from outlast.runtime.post import first_parcel
from outlast.signals import Signal, Turned

ROWS_AT_ONCE = 10_000


async def prepare(path: Path) -> None:
    """Makes the file with all its queues and workflows, by running some orders through it."""
    await inprocess.measure(f"sqlite:///{path}", 100)


def fill_queue(path: Path, messages: int) -> None:
    """Adds so many messages to the payment queue."""
    world = SystemWorld()
    connection = sqlite3.connect(path, isolation_level=None)
    [[queue]] = connection.execute("SELECT id FROM outlast_queues WHERE name = 'payment'")
    for _ in range(0, messages, ROWS_AT_ONCE):
        packets = [
            first_parcel(
                MakePayment(order_id=world.new_id(), customer="customer-1", amount=1999),
                id=world.new_id(),
                sender="bench",
                now=world.now(),
            ).packet
            for _ in range(min(ROWS_AT_ONCE, messages))
        ]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(f"INSERT INTO outlast_log_{queue} (packet) VALUES (?)", [(p,) for p in packets])
        connection.execute("COMMIT")
    connection.close()


def fill_instances(path: Path, instances: int, *, random_keys: bool) -> None:
    """Adds so many running instances; their keys are time-ordered ids, or random ones."""
    world = SystemWorld()
    state = encode(
        plan_of(Fulfilment).record(Fulfilment(customer="customer-1", sku="sku-1"), ["order-placed"], "x", {})
    )
    connection = sqlite3.connect(path, isolation_level=None)
    [[workflow]] = connection.execute("SELECT id FROM outlast_workflows")
    stamp = micros(world.now())
    for _ in range(0, instances, ROWS_AT_ONCE):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO outlast_instances (workflow, key, version, done, conversation, started_at, changed_at, "
            "state) VALUES (?, ?, 1, 0, 'x', ?, ?, ?)",
            [
                (workflow, os.urandom(18).hex() if random_keys else world.new_id(), stamp, stamp, state)
                for _ in range(ROWS_AT_ONCE)
            ],
        )
        connection.execute("COMMIT")
    connection.close()


async def drain(path: Path, messages: int) -> float:
    """CPU microseconds per message for handling so many from the payment queue, and no more."""
    handled = 0
    enough = asyncio.Event()

    def observe(signal: Signal) -> None:
        nonlocal handled
        if isinstance(signal, Turned):
            handled += signal.handled
            if handled >= messages:
                enough.set()

    async with Worker([payment], url=f"sqlite:///{path}", observe=observe):
        begin = time.process_time()
        before = handled
        await enough.wait()
        return (time.process_time() - begin) / (handled - before) * 1e6


async def flow(path: Path, orders: int) -> float:
    """CPU microseconds per message for so many orders from beginning to end."""
    _, cpu = await inprocess.measure(f"sqlite:///{path}", orders, random_keys=path.stem == "random")
    return cpu / orders / 5 * 1e6


def measure(directory: Path, *, million: int, sample: int) -> dict[str, float]:
    """CPU microseconds per message: in an empty file, and with a million of everything."""
    names = ("shallow", "deep", "empty", "ordered", "random")
    shallow, deep, empty, ordered, random = (directory / f"{name}.db" for name in names)
    for name in names:
        asyncio.run(prepare(directory / f"{name}.db"))
    fill_queue(shallow, sample * 2)
    fill_queue(deep, million)
    fill_instances(ordered, million, random_keys=False)
    fill_instances(random, million, random_keys=True)
    return {
        "short queue": asyncio.run(drain(shallow, sample)),
        "queue of 1,000,000": asyncio.run(drain(deep, sample)),
        "no instances": asyncio.run(flow(empty, sample // 2)),
        "1,000,000 instances": asyncio.run(flow(ordered, sample // 2)),
        "1,000,000 instances, random keys": asyncio.run(flow(random, sample // 2)),
    }
