"""The hand-written limit on PostgreSQL: the order workflow as one would write it for this one purpose.

One process, one connection per queue, large batches, two round trips a batch: read the messages with their states,
then one statement that consumes, changes the states and sends. No retries, envelopes, history or dead letters. A
queue has one consumer, so nothing needs a lock or a transaction of several statements; every statement commits to
the disk. `python -m bench.limit_postgres postgresql://… --orders 20000 --batch 512`
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time

import asyncpg

from bench.by_hand import (
    ORDERING,
    PAYMENT,
    WAREHOUSE,
    Pay,
    carry_out,
    decide,
    placed,
    read,
    read_state,
    write,
)

BATCH = 512
SCHEMA = "outlast_limit"

# The tables grow from empty to large and back within seconds, so whatever the statistics say is wrong: one plan by
# index, made once, is right at every size.
SETTINGS = {
    "search_path": SCHEMA,
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}

QUEUE = """
    CREATE TABLE q{queue} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text, body bytea) WITH (
        autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0
    );
    ALTER TABLE q{queue} ALTER body SET STORAGE PLAIN
"""
STATE = """
    CREATE TABLE state (id text COLLATE "C" PRIMARY KEY, version int, done bool, data bytea) WITH (fillfactor = 70);
    ALTER TABLE state ALTER data SET STORAGE PLAIN
"""
SEND = "INSERT INTO q{queue} (key, body) SELECT * FROM unnest($1::text[], $2::bytea[])"

# Rows that are deleted and not yet vacuumed lie at the low end; `id >` steps over them.
TAKE = "SELECT id, body FROM q{queue} WHERE id > $2 ORDER BY id LIMIT $1"
TAKE_WITH_STATES = """
    SELECT q.id, q.body, s.data
    FROM (SELECT * FROM q0 WHERE id > $2 ORDER BY id LIMIT $1) q LEFT JOIN state s ON s.id = q.key
    ORDER BY q.id
"""
ANSWER = """
    WITH gone AS (DELETE FROM q{queue} WHERE id = ANY($3::bigint[]) RETURNING 1),
    sent AS (INSERT INTO q0 (key, body) SELECT * FROM unnest($1::text[], $2::bytea[]))
    SELECT count(*) FROM gone
"""
CHANGE = """
    WITH gone AS (DELETE FROM q0 WHERE id = ANY($1::bigint[]) RETURNING 1),
    begun AS (INSERT INTO state SELECT id, 1, false, data FROM unnest($2::text[], $3::bytea[]) AS t (id, data)),
    changed AS (
        UPDATE state SET version = t.version, done = t.done, data = t.data
        FROM unnest($4::text[], $5::int[], $6::bool[], $7::bytea[]) AS t (id, version, done, data)
        WHERE state.id = t.id AND state.version = t.version - 1
        RETURNING 1
    ),
    paying AS (INSERT INTO q1 (key, body) SELECT * FROM unnest($8::text[], $9::bytea[])),
    shipping AS (INSERT INTO q2 (key, body) SELECT * FROM unnest($10::text[], $11::bytea[]))
    SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM changed)
"""


class Limit:
    """Three queues and the states, in a schema of their own that is dropped in the end."""

    def __init__(self, url: str, orders: int, batch: int) -> None:
        self.url, self.orders, self.batch = url, orders, batch
        self.filled = [asyncio.Event() for _ in range(3)]
        self.done = 0
        self.finished = asyncio.Event()

    async def connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(self.url, server_settings=SETTINGS)

    async def run(self) -> float:
        """Orders per second, placing included."""
        admin = await self.connect()
        try:
            await admin.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE; CREATE SCHEMA {SCHEMA}")
            for queue in range(3):
                await admin.execute(QUEUE.format(queue=queue))
            await admin.execute(STATE)
            seconds = await self.measure()
            assert await admin.fetchval("SELECT count(*) FROM state WHERE done") == self.orders
        finally:
            await admin.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
            await admin.close()
        return self.orders / seconds

    async def measure(self) -> float:
        connections = [await self.connect() for _ in range(4)]
        ordering, payment, warehouse, client = connections
        begin = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.place(client)),
                group.create_task(self.order(ordering)),
                group.create_task(self.serve(payment, PAYMENT)),
                group.create_task(self.serve(warehouse, WAREHOUSE)),
            ]
            await self.finished.wait()
            seconds = time.perf_counter() - begin
            for task in tasks:
                task.cancel()
        for connection in connections:
            await connection.close()
        return seconds

    async def place(self, connection: asyncpg.Connection) -> None:
        send = await connection.prepare(SEND.format(queue=ORDERING))
        for first in range(0, self.orders, self.batch):
            messages = [placed(number) for number in range(first, min(first + self.batch, self.orders))]
            await send.fetch([message.order for message in messages], [write(message) for message in messages])
            self.filled[ORDERING].set()

    async def batches(self, take: asyncpg.PreparedStatement, queue: int):
        """Whatever waits, up to a batch; looks again from the start when there is nothing further up.

        A slower transaction may commit a lower id later, so every so often it looks back even when there is more.
        """
        after, count = 0, 0
        while True:
            self.filled[queue].clear()
            rows = await take.fetch(self.batch, after)
            if rows:
                yield rows
                count += 1
                after = rows[-1][0] if count % 64 else 0
            elif after:
                after = 0
            else:
                await self.filled[queue].wait()

    async def serve(self, connection: asyncpg.Connection, queue: int) -> None:
        """Payment, or the warehouse."""
        take = await connection.prepare(TAKE.format(queue=queue))
        answer = await connection.prepare(ANSWER.format(queue=queue))
        async for rows in self.batches(take, queue):
            answers = [carry_out(read(body)) for _, body in rows]
            taken = await answer.fetchval([a.order for a in answers], [write(a) for a in answers], [r[0] for r in rows])
            assert taken == len(rows)
            self.filled[ORDERING].set()

    async def order(self, connection: asyncpg.Connection) -> None:
        take = await connection.prepare(TAKE_WITH_STATES)
        change = await connection.prepare(CHANGE)
        async for rows in self.batches(take, ORDERING):
            new_ids, new_data = [], []
            ids, versions, dones, data = [], [], [], []
            pay_keys, pays, ship_keys, ships = [], [], [], []
            for _, body, found in rows:
                state, command = decide(read(body), found and read_state(found))
                if state.version == 1:
                    new_ids.append(state.order)
                    new_data.append(write(state))
                else:
                    ids.append(state.order)
                    versions.append(state.version)
                    dones.append(state.done)
                    data.append(write(state))
                if isinstance(command, Pay):
                    pay_keys.append(command.order)
                    pays.append(write(command))
                elif command is not None:
                    ship_keys.append(command.order)
                    ships.append(write(command))
            touched = await change.fetchval(
                [row[0] for row in rows],
                new_ids, new_data, ids, versions, dones, data, pay_keys, pays, ship_keys, ships,
            )  # fmt: skip
            assert touched == len(rows) + len(ids)
            self.filled[PAYMENT].set()
            self.filled[WAREHOUSE].set()
            self.count(dones)

    def count(self, dones: list[bool]) -> None:
        self.done += sum(dones)
        if self.done == self.orders:
            self.finished.set()


def run(url: str, orders: int, batch: int = BATCH) -> float:
    """Orders per second."""
    return asyncio.run(Limit(url, orders, batch).run())


async def version(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval("SHOW server_version")
    finally:
        await connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="The hand-written limit on PostgreSQL.")
    parser.add_argument("url")
    parser.add_argument("--orders", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=BATCH)
    arguments = parser.parse_args()
    rate = run(arguments.url, arguments.orders, arguments.batch)
    figures = {
        "limit": "postgres",
        "orders_per_second": round(rate),
        "orders": arguments.orders,
        "batch": arguments.batch,
        "postgres": asyncio.run(version(arguments.url)),
        "asyncpg": asyncpg.__version__,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
