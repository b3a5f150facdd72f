"""Does a message cost more when a million others wait, or a million instances are stored?"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import Any

import psycopg

from bench import inprocess
from bench.orders import Fulfilment, MakePayment, payment
from bench.stand import Stand, System
from outlast import Worker
from outlast.adapters.system import SystemWorld
from outlast.core.naming import encode
from outlast.core.plan import plan_of
from outlast.runtime.post import first_parcel
from outlast.signals import Signal, Turned

DISTINCT = 20_000
"""So many packets are made; what goes beyond are copies, which nobody gets to."""


def packets(count: int) -> list[bytes]:
    world = SystemWorld()
    return [
        first_parcel(
            MakePayment(order_id=world.new_id(), customer="customer-1", amount=1999),
            id=world.new_id(),
            sender="bench",
            now=world.now(),
        ).packet
        for _ in range(count)
    ]


def state() -> bytes:
    begun = Fulfilment(customer="customer-1", sku="sku-1")
    return encode(plan_of(Fulfilment).record(begun, ["order-placed"], "x", {}))


class SqliteRows:
    """Fills the tables of a SQLite file. Keys are those of our ids, in order, or random ones."""

    def __init__(self, system: System) -> None:
        self.connection = sqlite3.connect(system.rows.removeprefix("sqlite:///"), isolation_level=None)

    def fill_queue(self, messages: int) -> None:
        [[queue]] = self.connection.execute("SELECT id FROM outlast_queues WHERE name = 'payment'")
        some = packets(min(messages, DISTINCT))
        for first in range(0, messages, DISTINCT):
            now = some[: messages - first]
            self.connection.execute("BEGIN IMMEDIATE")
            self.connection.executemany(f"INSERT INTO outlast_log_{queue} (packet) VALUES (?)", [(p,) for p in now])
            self.connection.execute("COMMIT")

    def fill_instances(self, count: int, *, random_keys: bool) -> None:
        key = "lower(hex(randomblob(18)))" if random_keys else "printf('00000000-%04x-7%07x', value / 65536, value)"
        self.connection.execute(
            "WITH RECURSIVE numbers (value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM numbers WHERE value < ?) "
            "INSERT INTO outlast_instances (workflow, key, version, done, conversation, started_at, changed_at, state) "
            f"SELECT (SELECT id FROM outlast_workflows), {key}, 1, 0, 'x', 1, 1, ? FROM numbers",
            (count, state()),
        )

    def close(self) -> None:
        self.connection.close()


class PostgresRows:
    """The same in PostgreSQL; then everything is on the disk and vacuumed, so that no such work falls into a run."""

    def __init__(self, system: System) -> None:
        self.connection = psycopg.connect(system.rows, autocommit=True)

    def fill_queue(self, messages: int) -> None:
        some = packets(min(messages, DISTINCT))
        self.connection.execute("CREATE TEMPORARY TABLE distinct_packets (n serial, packet bytea)")
        with self.connection.cursor() as cursor, cursor.copy("COPY distinct_packets (packet) FROM STDIN") as copy:
            for packet in some:
                copy.write_row([packet])
        self.connection.execute(
            "INSERT INTO outlast.messages (queue, packet) SELECT q.id, d.packet FROM outlast.queues q, "
            "generate_series(1, %s) AS copies, distinct_packets d WHERE q.name = 'payment' ORDER BY copies, d.n",
            (messages // len(some),),
        )
        self._settle("messages")

    def fill_instances(self, count: int, *, random_keys: bool) -> None:
        key = (
            "md5(random()::text) || 'f'"
            if random_keys
            else "'00000000-' || lpad(to_hex(n / 65536), 4, '0') || '-7' || lpad(to_hex(n), 7, '0')"
        )
        self.connection.execute(
            "INSERT INTO outlast.instances (workflow, key, version, done, conversation, started_at, changed_at, state) "
            f"SELECT w.id, {key}, 1, false, 'x', 1, 1, %s FROM outlast.workflows w, generate_series(1, %s) AS n",
            (state(), count),
        )
        self._settle("instances")

    def _settle(self, table: str) -> None:
        self.connection.execute(f"VACUUM (ANALYZE) outlast.{table}")
        self.connection.execute("CHECKPOINT")

    def close(self) -> None:
        self.connection.close()


def rows_of(stand: Stand, system: System) -> Any:
    return SqliteRows(system) if stand.engine == "sqlite" else PostgresRows(system)


async def drain(url: str, messages: int, stand: Stand) -> float:
    """CPU microseconds per message, ours and the server's, for handling so many from the payment queue."""
    handled = 0
    enough = asyncio.Event()

    def observe(signal: Signal) -> None:
        nonlocal handled
        if isinstance(signal, Turned):
            handled += signal.handled
            if handled >= messages:
                enough.set()

    async with Worker([payment], url=url, observe=observe):
        begin, server, before = time.process_time(), stand.cpu(), handled
        await enough.wait()
        return (time.process_time() - begin + stand.cpu() - server) / (handled - before) * 1e6


async def flow(url: str, orders: int, stand: Stand, *, random_keys: bool) -> float:
    """CPU microseconds per message, ours and the server's, for so many orders from beginning to end."""
    server = stand.cpu()
    _, cpu = await inprocess.measure(url, orders, random_keys=random_keys)
    return (cpu + stand.cpu() - server) / orders / 5 * 1e6


def with_queue(stand: Stand, messages: int, sample: int) -> float:
    with stand.fresh() as system:
        asyncio.run(inprocess.measure(system.url, 100))  # makes the tables, the queues and the workflow
        rows = rows_of(stand, system)
        rows.fill_queue(messages)
        rows.close()
        return asyncio.run(drain(system.url, sample, stand))


def with_instances(stand: Stand, instances: int, sample: int, *, random_keys: bool = False) -> float:
    with stand.fresh() as system:
        asyncio.run(inprocess.measure(system.url, 100))
        if instances:
            rows = rows_of(stand, system)
            rows.fill_instances(instances, random_keys=random_keys)
            rows.close()
        return asyncio.run(flow(system.url, sample // 2, stand, random_keys=random_keys))


def measure(stand: Stand, *, million: int, sample: int) -> dict[str, float]:
    """CPU microseconds per message: in an empty system, and with a million of everything."""
    return {
        "short queue": with_queue(stand, sample * 2, sample),
        "queue of 1,000,000": with_queue(stand, million, sample),
        "no instances": with_instances(stand, 0, sample),
        "1,000,000 instances": with_instances(stand, million, sample),
        "1,000,000 instances, random keys": with_instances(stand, million, sample, random_keys=True),
    }
