"""What one turn is about no other has: in the same process, in another one, and when a process errs about others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from outlast.adapters.postgres import PostgresEngine
from outlast.adapters.postgres.engine import DEATHS_SECONDS
from outlast.adapters.postgres.intake import HELD_SECONDS
from outlast.adapters.system import SystemWorld
from outlast.errors import Conflict
from outlast.ports import Changes, Parcel
from tests.system import eventually


@asynccontextmanager
async def engines(url: str, *, processes: int, packets: int) -> AsyncGenerator[Sequence[PostgresEngine]]:
    """So many processes of one service, for which so many packets wait."""
    async with AsyncExitStack() as stack:
        found: list[PostgresEngine] = []
        for _ in range(processes):
            engine = PostgresEngine(url, SystemWorld())
            stack.push_async_callback(engine.close)
            found.append(engine)
            await engine.declare("payment", [])
        await put(found[0], *[str(number).encode() for number in range(packets)])
        yield found


async def put(engine: PostgresEngine, *packets: bytes) -> None:
    work = await engine.begin("")
    parcels = [Parcel(engine.world.new_id(), packet, queue="payment") for packet in packets]
    await work.commit(Changes(parcels=parcels))


async def packets(engine: PostgresEngine, limit: int) -> list[bytes]:
    return [delivery.packet for delivery in await engine.receive("payment", limit)]


def is_alone(engine: PostgresEngine) -> bool:
    return "payment" in engine._intake.alone


@pytest.mark.parametrize("processes", [1, 2])
async def test_the_next_turn_is_about_something_else(postgres_database: str, processes: int) -> None:
    async with engines(postgres_database, processes=processes, packets=5) as (ours, *_):
        if processes > 1:
            ours._intake.alone.clear()
        first = await ours.receive("payment", 2)
        turn = await ours.begin("payment")
        second = await ours.receive("payment", 2)
        next_turn = await ours.begin("payment")
        assert await packets(ours, 2) == [b"4"]
        assert await next_turn.first_sight(second) == {delivery.receipt for delivery in second}
        await next_turn.commit(Changes(handled=list(second)))
        await turn.first_sight(first)
        await turn.commit(Changes(handled=list(first)))
        assert await packets(ours, 2) == [b"4"]


@pytest.mark.parametrize("ends_with", ["rollback", "a part"])
async def test_what_a_turn_leaves_comes_before_what_is_younger(postgres_database: str, ends_with: str) -> None:
    async with engines(postgres_database, processes=1, packets=6) as (ours,):
        first = await ours.receive("payment", 2)
        turn = await ours.begin("payment")
        await ours.receive("payment", 2)
        next_turn = await ours.begin("payment")
        await turn.first_sight(first)
        if ends_with == "rollback":
            await turn.rollback()
            assert await packets(ours, 2) == [b"0", b"1"]
        else:
            await turn.commit(Changes(handled=[first[0]]))
            await next_turn.rollback()
            assert await packets(ours, 2) == [b"1", b"2"]


async def test_what_no_turn_begins_with_is_let_go(postgres_database: str) -> None:
    async with engines(postgres_database, processes=3, packets=4) as (ours, theirs, third):
        ours._intake.alone.clear()
        assert await packets(ours, 2) == [b"0", b"1"]
        assert await packets(theirs, 2) == [b"2", b"3"]
        await asyncio.sleep(HELD_SECONDS + 0.2)
        assert await packets(third, 4) == [b"0", b"1", b"2", b"3"]


async def test_processes_share_a_queue_out(postgres_database: str) -> None:
    async with engines(postgres_database, processes=2, packets=4) as (ours, theirs):
        await eventually(lambda: _relayed(ours), within=5)
        assert (is_alone(ours), is_alone(theirs)) == (False, False)
        assert await packets(ours, 2) == [b"0", b"1"]
        assert await packets(theirs, 2) == [b"2", b"3"]


async def _relayed(engine: PostgresEngine) -> bool:
    """Whether another process was noticed, which the relay looks for."""
    await engine.relay(engine.world.now(), 10)
    return not is_alone(engine)


async def test_who_errs_about_being_alone_is_overruled_once_and_shares(postgres_database: str) -> None:
    async with engines(postgres_database, processes=2, packets=4) as (ours, theirs):
        assert is_alone(ours)  # it has not noticed yet that another one began
        assert not is_alone(theirs)
        mine, others = await ours.receive("payment", 2), await theirs.receive("payment", 2)
        assert [d.packet for d in mine] == [d.packet for d in others] == [b"0", b"1"]
        turn, their_turn = await ours.begin("payment"), await theirs.begin("payment")
        assert len(await turn.first_sight(mine)) == len(await their_turn.first_sight(others)) == 2
        await their_turn.commit(Changes(handled=list(others), parcels=[Parcel("1", b"paid", queue="ordering")]))
        with pytest.raises(Conflict):
            await turn.commit(Changes(handled=list(mine), parcels=[Parcel("2", b"paid", queue="ordering")]))
        assert not is_alone(ours)
        assert await packets(ours, 2) == [b"2", b"3"]
        assert [d.packet for d in await ours.receive("ordering", 9)] == [b"paid"]


async def test_who_is_left_alone_notices_it(postgres_database: str) -> None:
    async with engines(postgres_database, processes=2, packets=0) as (ours, theirs):
        ours._intake.alone.clear()
        await theirs.close()
        await asyncio.sleep(DEATHS_SECONDS)
        await ours.relay(ours.world.now(), 10)
        assert is_alone(ours)


async def test_turns_under_way_are_noted_together(postgres_database: str) -> None:
    """RC-22: a process that dies may have been killed by a message of any of them."""
    async with engines(postgres_database, processes=1, packets=6) as (ours,):
        first = await ours.receive("payment", 2)
        await ours.begin("payment")
        last = await ours.receive("payment", 2)
        await ours.begin("payment")

        async def both_are_noted() -> bool:
            rows = await ours.fetch("looking", "SELECT first, last FROM outlast.workers")
            return [tuple(row) for row in rows] == [(first[0].receipt, last[-1].receipt)]

        await eventually(both_are_noted, within=5)
