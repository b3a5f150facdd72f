"""What a process leaves behind that dies: claims that are freed at once, and suspects that are counted."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from servers.postgres import Postgres

from outlast import Command, Service
from outlast.engines import inspector_of, open_engine
from outlast.ports import Changes, Parcel
from tests.processes import ends, lines, program, wait_for
from tests.system import eventually, running


class Poison(Command[None], to="shop"):
    number: int


KILLED = """
import os, sys
from tests.postgres.test_deaths import Poison
from outlast import Service, Transaction, Worker, run
import asyncio

url, log = sys.argv[1:]
shop = Service("shop")

@shop.handles
async def die(command: Poison, transaction: Transaction) -> None:
    with open(log, "a") as file:
        file.write(f"{command.number}\\n")
    if command.number == 7:
        os._exit(9)
    await transaction.execute("SELECT 1", [])

asyncio.run(run(Worker([shop], url=url)))
"""


async def test_a_message_that_kills_its_process_within_a_turn_is_set_aside(
    postgres_database: str, tmp_path: Path
) -> None:
    """RC-22, PO-12: the turn leaves nothing in the tables, and yet it is known which messages it was about."""
    log = tmp_path / "log"
    other = Service("other")
    async with running(postgres_database, other) as system:
        await system.client.send_all(*[Poison(number=number) for number in range(20)])
        for _ in range(8):
            with program(KILLED, postgres_database, log) as process:
                ended = asyncio.create_task(asyncio.to_thread(ends, process, within=20))

                async def is_over(ended: asyncio.Task[tuple[int, str]] = ended) -> bool:
                    return ended.done() or bool(await system.dead())

                await eventually(is_over, within=20)
                if not ended.done():
                    process.send_signal(signal.SIGTERM)
                code, complaints = await ended
                assert code in (0, 9), complaints
            if await system.dead():
                break

        (letter,) = await system.dead()
        assert b'"number":7' in letter.packet
        with program(KILLED, postgres_database, log):
            await system.quiet()
        assert 3 <= lines(log).count("7") <= 6
        assert set(lines(log)) == {str(number) for number in range(20)}


CLAIMING = """
import asyncio, sys
from datetime import timedelta

from outlast.engines import open_engine
from outlast.ports import Changes

url, log = sys.argv[1:]

async def main():
    engine, world = open_engine(url)
    await engine.declare("shop", [])
    found = await engine.receive("shop", 9)
    work = await engine.begin("shop")
    await work.commit(Changes(claimed=list(found), claimed_until=world.now() + timedelta(days=1)))
    with open(log, "w") as file:
        file.write("claimed\\n")
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_living_worker_frees_what_one_that_died_had_claimed(postgres_database: str, tmp_path: Path) -> None:
    """CP-02: within a second or two, and not before it died."""
    engine, world = open_engine(postgres_database)
    await engine.declare("shop", [])
    work = await engine.begin("")
    await work.commit(Changes(parcels=[Parcel("1", b"1", queue="shop")]))
    with program(CLAIMING, postgres_database, tmp_path / "log") as process:
        await asyncio.to_thread(wait_for, lambda: lines(tmp_path / "log"))
        for _ in range(3):
            await engine.relay(world.now(), 9)
            assert await engine.receive("shop", 9) == []
            await asyncio.sleep(0.6)
        (queue,) = await inspector_of(engine).queues()
        assert (queue.claimed, queue.workers) == (1, 2)

        process.kill()

        async def is_back() -> bool:
            await engine.relay(world.now(), 9)
            return [d.count for d in await engine.receive("shop", 9)] == [1]

        await eventually(is_back)
        (queue,) = await inspector_of(engine).queues()
        assert (queue.claimed, queue.workers) == (0, 1)
    await engine.close()


async def test_claims_are_freed_of_a_process_that_died_with_the_server(tmp_path: Path) -> None:
    """CP-02: a server that fell knows no processes any more, so that nobody sees this one missing."""
    with Postgres() as server:
        sending, _ = open_engine(server.url)
        work = await sending.begin("")
        await work.commit(Changes(parcels=[Parcel("1", b"1", queue="shop")]))
        await sending.close()
        with program(CLAIMING, server.url, tmp_path / "log") as process:
            await asyncio.to_thread(wait_for, lambda: lines(tmp_path / "log"))
            await asyncio.sleep(1)  # a first claim does not wait for the disk
            server.kill()
            process.kill()
        server.start()

        engine, world = open_engine(server.url)
        await engine.declare("shop", [])

        async def is_back() -> bool:
            await engine.relay(world.now(), 9)
            return [d.count for d in await engine.receive("shop", 9)] == [1]

        assert not await is_back()
        await eventually(is_back, within=20)
        await engine.close()
