"""What waits for the turn after this one is locked while this one goes on, and for no longer than that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from outlast.adapters.postgres import PostgresEngine
from outlast.adapters.postgres.intake import AHEAD_SECONDS
from outlast.adapters.system import SystemWorld
from outlast.ports import Changes, Parcel


@asynccontextmanager
async def two_engines(url: str, *, packets: int) -> AsyncGenerator[tuple[PostgresEngine, PostgresEngine]]:
    """Two processes of one service, for which so many packets wait."""
    world = SystemWorld()
    ours, theirs = PostgresEngine(url, world), PostgresEngine(url, world)
    try:
        for engine in (ours, theirs):
            await engine.declare("payment", [])
        work = await ours.begin("")
        await work.commit(
            Changes(parcels=[Parcel(world.new_id(), str(n).encode(), queue="payment") for n in range(packets)])
        )
        yield ours, theirs
    finally:
        await ours.close()
        await theirs.close()


async def packets(engine: PostgresEngine, limit: int) -> list[bytes]:
    return [delivery.packet for delivery in await engine.receive("payment", limit)]


async def test_the_next_batch_is_taken_during_a_turn(postgres_database: str) -> None:
    async with two_engines(postgres_database, packets=6) as (ours, theirs):
        first = await ours.receive("payment", 2)
        turn = await ours.begin("payment")
        await turn.first_sight(first)
        await asyncio.sleep(0.1)
        assert await packets(theirs, 6) == [b"4", b"5"]
        await turn.commit(Changes(handled=list(first)))
        assert await packets(ours, 2) == [b"2", b"3"]


async def test_what_nobody_comes_for_is_let_go(postgres_database: str) -> None:
    async with two_engines(postgres_database, packets=4) as (ours, theirs):
        first = await ours.receive("payment", 2)
        turn = await ours.begin("payment")
        await turn.first_sight(first)
        await turn.commit(Changes(handled=list(first)))
        await asyncio.sleep(AHEAD_SECONDS + 0.2)
        assert await packets(theirs, 4) == [b"2", b"3"]


async def test_that_nothing_was_there_is_not_believed_later(postgres_database: str) -> None:
    async with two_engines(postgres_database, packets=2) as (ours, theirs):
        first = await ours.receive("payment", 2)
        turn = await ours.begin("payment")
        await turn.first_sight(first)
        await asyncio.sleep(0.1)  # it looks ahead, and finds nothing
        work = await theirs.begin("")
        await work.commit(Changes(parcels=[Parcel("new", b"new", queue="payment")]))
        await turn.commit(Changes(handled=list(first)))
        assert await packets(ours, 2) == [b"new"]


async def test_an_engine_that_closes_lets_go_of_what_it_took_ahead(postgres_database: str) -> None:
    async with two_engines(postgres_database, packets=4) as (ours, theirs):
        first = await ours.receive("payment", 2)
        turn = await ours.begin("payment")
        await turn.first_sight(first)
        await turn.commit(Changes(handled=list(first)))
        await ours.close()
        assert await packets(theirs, 4) == [b"2", b"3"]


async def test_a_turn_that_fails_leaves_its_own_to_be_taken_again(postgres_database: str) -> None:
    async with two_engines(postgres_database, packets=4) as (ours, theirs):
        first = await ours.receive("payment", 2)
        turn = await ours.begin("payment")
        await turn.first_sight(first)
        await asyncio.sleep(0.1)
        await turn.rollback()
        assert await packets(ours, 2) == [b"2", b"3"]
        assert await packets(theirs, 2) == [b"0", b"1"]


async def test_what_a_turn_leaves_comes_before_what_is_younger(postgres_database: str) -> None:
    async with two_engines(postgres_database, packets=6) as (ours, _):
        first = await ours.receive("payment", 2)
        turn = await ours.begin("payment")
        await turn.first_sight(first[:1])
        await asyncio.sleep(0.1)
        await turn.commit(Changes(handled=list(first[:1])))
        assert await packets(ours, 2) == [b"1", b"2"]
