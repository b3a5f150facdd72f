"""What may be forgotten does not wait for the disk; everything else does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import psycopg

from outlast.adapters.postgres import PostgresEngine
from outlast.adapters.system import SystemWorld
from outlast.ports import OUTBOX, Changes, Delivery, Parcel

ATTEMPTS = 20
"""The server writes to the disk by itself, too, several times a second."""


def written_to_disk(connection: psycopg.Connection) -> str:
    """How far."""
    return connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchall()[0][0]


async def waits(url: str, service: str, *, claim: bool, count: int = 0) -> list[bool]:
    """Whether the server wrote to the disk while it committed a claim, or a consumption; for several of them."""
    world, engine, found = SystemWorld(), PostgresEngine(url, SystemWorld()), list[bool]()
    until = world.now() + timedelta(seconds=30)
    try:
        await engine.declare(service, [])
        with psycopg.connect(url, autocommit=True) as look:
            for _ in range(ATTEMPTS):
                sending = await engine.begin("")
                await sending.commit(Changes(parcels=[Parcel(world.new_id(), b"packet", queue=service)]))
                deliveries = await received(engine, service, claims=count)
                work = await engine.begin(service)
                await work.first_sight(deliveries)
                changes = Changes(claimed=deliveries, claimed_until=until) if claim else Changes(handled=deliveries)
                before = await asyncio.to_thread(written_to_disk, look)
                await work.commit(changes)
                found.append(await asyncio.to_thread(written_to_disk, look) != before)
                if claim:
                    await settle(engine, service, Changes(handled=again(deliveries)))
    finally:
        await engine.close()
    return found


async def received(engine: PostgresEngine, service: str, *, claims: int) -> list[Delivery]:
    """What waits, after so many processes have claimed it and were silent."""
    deliveries = list(await engine.receive(service, 1))
    for _ in range(claims):
        past = engine.world.now() - timedelta(seconds=1)
        await settle(engine, service, Changes(claimed=deliveries, claimed_until=past))
        deliveries = list(await engine.receive(service, 1))
    return deliveries


async def settle(engine: PostgresEngine, service: str, changes: Changes) -> None:
    work = await engine.begin(service)
    await work.commit(changes)


def again(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """As they are once they are claimed."""
    return [Delivery(d.receipt, d.packet, d.count + 1) for d in deliveries]


async def test_a_first_claim_does_not_wait_for_the_disk(postgres_database: str) -> None:
    """Forgotten, it makes the message come again, as any message may."""
    assert not all(await waits(postgres_database, "payment", claim=True))


async def test_the_claim_of_a_suspect_waits_for_the_disk(postgres_database: str) -> None:
    """PO-12: the count that ends a message which kills is not forgotten."""
    assert all(await waits(postgres_database, "payment", claim=True, count=1))


async def test_what_was_handled_waits_for_the_disk(postgres_database: str) -> None:
    assert all(await waits(postgres_database, "payment", claim=False))


async def test_a_row_leaves_the_outbox_without_waiting_for_the_disk(postgres_database: str) -> None:
    """Forgotten, it is published again, and the inbox knows its messages."""
    assert not all(await waits(postgres_database, OUTBOX, claim=False))
