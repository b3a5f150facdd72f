"""The order workflow written by hand over a broker, with its states, inbox and outbox in PostgreSQL.

What `limit_rabbitmq` and `limit_nats` share: all but the wire. One process, one connection to either server per
service. A batch is whatever has arrived; one statement records its ids in the inbox, changes the states, and puts
all that is to be sent into one outbox row; then the batch is acknowledged and its messages are published without
waiting for the confirms. Once they are in, the outbox row goes with the next batch's statement. A batch that holds
an id seen before fails as a whole and is done again without it: that happens only after a crash.
"""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import asyncpg
import msgspec

from bench.by_hand import ORDERING, PAYMENT, WAREHOUSE, Pay, Placed, carry_out, decide, placed, read, read_state, write

SCHEMA = "outlast_limit"
QUEUES = ("outlast-limit-ordering", "outlast-limit-payment", "outlast-limit-warehouse")
SETTINGS = {
    "search_path": SCHEMA,
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
TABLES = f"""
    DROP SCHEMA IF EXISTS {SCHEMA} CASCADE;
    CREATE SCHEMA {SCHEMA};
    CREATE TABLE state (id text COLLATE "C" PRIMARY KEY, version int, done bool, data bytea) WITH (fillfactor = 70);
    ALTER TABLE state ALTER data SET STORAGE PLAIN;
    CREATE TABLE inbox (service int, id text COLLATE "C", PRIMARY KEY (service, id));
    CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body bytea)
"""
STATES = "SELECT id, data FROM state WHERE id = ANY($1::text[])"
SEEN = "SELECT id FROM inbox WHERE service = $1 AND id = ANY($2::text[])"
ANSWER = """
    WITH seen AS (INSERT INTO inbox SELECT $1::int, unnest($2::text[])),
    settled AS (DELETE FROM outbox WHERE id = ANY($3::bigint[]))
    INSERT INTO outbox (body) VALUES ($4) RETURNING id
"""
CHANGE = """
    WITH seen AS (INSERT INTO inbox SELECT $1::int, unnest($2::text[])),
    settled AS (DELETE FROM outbox WHERE id = ANY($3::bigint[])),
    posted AS (INSERT INTO outbox (body) VALUES ($4) RETURNING id),
    begun AS (INSERT INTO state SELECT id, 1, false, data FROM unnest($5::text[], $6::bytea[]) AS t (id, data)),
    changed AS (
        UPDATE state SET version = t.version, done = t.done, data = t.data
        FROM unnest($7::text[], $8::int[], $9::bool[], $10::bytea[]) AS t (id, version, done, data)
        WHERE state.id = t.id AND state.version = t.version - 1
        RETURNING 1
    )
    SELECT (SELECT id FROM posted), (SELECT count(*) FROM changed)
"""

Outgoing = tuple[int, bytes]  # the number of the queue, and the body
pack = msgspec.msgpack.Encoder().encode


class Wire(Protocol):
    """One service's connection to the broker."""

    async def receive(self, most: int) -> list[tuple[object, bytes]]:
        """What has arrived, at least one: the delivery's tag and the body."""

    def acknowledge(self, tag: object) -> None:
        """This delivery and all before it."""

    def publish(self, messages: list[Outgoing]) -> asyncio.Future:
        """Done when the broker has all of them on its disk."""

    async def close(self) -> None: ...


Connect = Callable[[int | None], Awaitable[Wire]]  # which queue it consumes; None for the client, who consumes none


class Service:
    """One of the three, with its two connections."""

    def __init__(self, queue: int, wire: Wire, connection: asyncpg.Connection, batch: int) -> None:
        self.queue, self.wire, self.connection, self.batch = queue, wire, connection, batch
        self.settled: list[int] = []
        self.done = 0

    async def prepare(self) -> None:
        self.states = await self.connection.prepare(STATES)
        self.answer = await self.connection.prepare(ANSWER)
        self.change = await self.connection.prepare(CHANGE)

    async def run(self, group: asyncio.TaskGroup, *, until_done: int) -> None:
        handle = self.order if self.queue == ORDERING else self.serve
        while self.done < until_done:
            deliveries = await self.wire.receive(self.batch)
            messages = [read(body) for _, body in deliveries]
            settled, self.settled = self.settled, []
            try:
                row, outgoing = await handle(messages, settled)
            except asyncpg.UniqueViolationError:
                row, outgoing = await handle(await self.unseen(messages), settled)
            self.wire.acknowledge(deliveries[-1][0])
            if outgoing:
                group.create_task(self.settle(row, self.wire.publish(outgoing)))
            else:
                self.settled.append(row)

    async def unseen(self, messages: list) -> list:
        by_id = {message.id: message for message in messages}
        for (id,) in await self.connection.fetch(SEEN, self.queue, list(by_id)):
            del by_id[id]
        return list(by_id.values())

    async def settle(self, row: int, confirms: Awaitable[object]) -> None:
        await confirms
        self.settled.append(row)

    async def serve(self, messages: list, settled: list[int]) -> tuple[int, list[Outgoing]]:
        """Payment, or the warehouse: one round trip."""
        outgoing = [(ORDERING, write(carry_out(message))) for message in messages]
        ids = [message.id for message in messages]
        return await self.answer.fetchval(self.queue, ids, settled, pack(outgoing)), outgoing

    async def order(self, messages: list, settled: list[int]) -> tuple[int, list[Outgoing]]:
        """The workflow: two round trips."""
        keys = [message.order for message in messages if not isinstance(message, Placed)]
        states = {id: read_state(data) for id, data in (await self.states.fetch(keys) if keys else ())}
        new_ids, new_data = [], []
        ids, versions, dones, data = [], [], [], []
        outgoing = []
        for message in messages:
            state, command = decide(message, states.get(message.order))
            if state.version == 1:
                new_ids.append(state.order)
                new_data.append(write(state))
            else:
                ids.append(state.order)
                versions.append(state.version)
                dones.append(state.done)
                data.append(write(state))
            if command is not None:
                outgoing.append((PAYMENT if isinstance(command, Pay) else WAREHOUSE, write(command)))
        row, changed = await self.change.fetchrow(
            self.queue, [message.id for message in messages], settled, pack(outgoing),
            new_ids, new_data, ids, versions, dones, data,
        )  # fmt: skip
        assert changed == len(ids)
        self.done += sum(dones)
        return row, outgoing


async def place(wire: Wire, orders: int, batch: int) -> None:
    """The client, with four batches on their way at most."""
    under_way: collections.deque[asyncio.Future[None]] = collections.deque()
    for first in range(0, orders, batch):
        numbers = range(first, min(first + batch, orders))
        under_way.append(wire.publish([(ORDERING, write(placed(number))) for number in numbers]))
        if len(under_way) == 4:
            await under_way.popleft()
    for confirms in under_way:
        await confirms


async def measure(connect: Connect, postgres: str, *, orders: int, batch: int) -> float:
    """Orders per second, placing included. The queues exist and are empty; the tables are made and dropped here."""
    admin = await asyncpg.connect(postgres, server_settings=SETTINGS)
    try:
        await admin.execute(TABLES)
        wires = [await connect(queue) for queue in (ORDERING, PAYMENT, WAREHOUSE, None)]
        connections = [await asyncpg.connect(postgres, server_settings=SETTINGS) for _ in range(3)]
        services = [Service(queue, wires[queue], connections[queue], batch) for queue in range(3)]
        for service in services:
            await service.prepare()
        begin = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(service.run(group, until_done=orders)) for service in services]
            tasks.append(group.create_task(place(wires[3], orders, batch)))
            await tasks[0]
            seconds = time.perf_counter() - begin
            for task in tasks:
                task.cancel()
        assert await admin.fetchval("SELECT count(*) FROM state WHERE done") == orders
        for closing in (*wires, *connections):
            await closing.close()
    finally:
        await admin.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        await admin.close()
    return orders / seconds


async def server_version(postgres: str) -> str:
    connection = await asyncpg.connect(postgres)
    try:
        return await connection.fetchval("SHOW server_version")
    finally:
        await connection.close()
