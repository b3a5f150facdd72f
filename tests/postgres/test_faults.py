"""DB: what a server or the way to it may do, none of which loses a message or lets it take effect twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest
from servers.postgres import Postgres
from servers.proxy import Proxy

from outlast import Client, Command, Event, Service, Transaction, Worker
from outlast.adapters.postgres import PostgresEngine, connections
from outlast.adapters.system import SystemWorld
from outlast.engines import inspector_of, open_engine
from outlast.errors import Unavailable
from outlast.ports import Changes, Parcel
from outlast.signals import Interrupted
from tests.system import eventually, running, until


class Book(Command[None], to="shop"):
    number: int


class Booked(Event):
    number: int


def bookkeeper() -> Service:
    """Writes a row for every message, in the turn's transaction."""
    shop = Service("shop")

    @shop.handles
    async def book(command: Book, transaction: Transaction) -> Booked:
        await transaction.execute("INSERT INTO booked VALUES (?)", [command.number])
        return Booked(number=command.number)

    return shop


def listener(heard: list[int]) -> Service:
    service = Service("listener")

    @service.handles
    async def hear(event: Booked) -> None:
        heard.append(event.number)

    return service


@asynccontextmanager
async def table(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A table of the user's, and a connection that looks at it."""
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE IF NOT EXISTS public.booked (number integer)")
    try:
        yield connection
    finally:
        await connection.close()


async def booked(connection: asyncpg.Connection) -> list[int]:
    return sorted(number for (number,) in await connection.fetch("SELECT number FROM booked"))


async def test_a_turn_that_meets_another_transaction_is_done_again_uncounted(postgres_database: str) -> None:
    """DB-01, DB-02: serialization failures and deadlocks of a handler's own statements."""
    shop, attempts = Service("shop"), list[int]()

    @shop.handles
    async def book(command: Book, transaction: Transaction) -> None:
        attempts.append(command.number)
        code = {1: "40001", 2: "40P01"}.get(len(attempts))
        if code:
            await transaction.execute(f"DO $$ BEGIN RAISE 'met' USING ERRCODE = '{code}'; END $$", [])
        await transaction.execute("INSERT INTO booked VALUES (?)", [command.number])

    async with table(postgres_database) as seen, running(postgres_database, shop) as system:
        await system.client.send(Book(number=1))
        await system.quiet()

        assert await booked(seen) == [1]
        assert attempts == [1, 1, 1]
        assert [outcome for _, outcome in await system.outcomes()] == ["handled"]


@pytest.mark.parametrize("lost", ["before", "after"])
async def test_a_commit_whose_answer_is_lost_takes_effect_once(postgres_database: str, lost: str) -> None:
    """DB-03, DB-04: the connection is cut before COMMIT is heard, or after, so that nobody knows."""
    heard: list[int] = []
    async with Proxy(postgres_database) as proxy, table(postgres_database) as seen:
        async with running(proxy.url, bookkeeper()) as system, running(postgres_database, listener(heard)):
            await system.client.send(Book(number=1))
            await system.quiet()
            cut = proxy.cut_answer if lost == "after" else proxy.cut_before
            trigger = cut(b"COMMIT;")

            async with Client(postgres_database) as client:
                await client.send(Book(number=2))
            await system.quiet()
            await until(lambda: len(heard) == 2)

            assert trigger.fired
            assert trigger.fired if hasattr(trigger, "fired") else True
            assert await booked(seen) == [1, 2]
            assert heard == [1, 2]
            assert any(isinstance(signal, Interrupted) for signal in system.signals)


async def test_a_cancelled_task_returns_no_connection_within_a_transaction(postgres_database: str) -> None:
    """DB-06"""
    engine = PostgresEngine(f"{postgres_database}?pool=1", SystemWorld())

    async def slow() -> None:
        work = await engine.begin("")
        try:
            async with work.savepoint() as statements:
                await statements.execute("CREATE TABLE left_over ()", [])
                await statements.execute("SELECT pg_sleep(60)", [])
        finally:
            await work.rollback()

    for _ in range(3):
        task = asyncio.create_task(slow())
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        work = await engine.begin("")
        async with work.savepoint() as statements:
            assert await statements.execute("SELECT to_regclass('left_over') IS NULL", []) == [(True,)]
        await work.rollback()
    await engine.close()


async def test_the_relay_gets_a_connection_when_handlers_have_all_of_them(postgres_database: str) -> None:
    """DB-12"""
    engine, world = open_engine(f"{postgres_database}?pool=2")
    assert isinstance(engine, PostgresEngine)
    await engine.declare("shop", [])
    work = await engine.begin("")
    due = world.now() + timedelta(milliseconds=1)
    await work.commit(Changes(parcels=[Parcel("1", b"1", queue="shop", due=due)]))
    busy = [await engine.begin(""), await engine.begin("")]

    async with asyncio.timeout(2):
        await engine.relay(world.now() + timedelta(seconds=1), 10)
        (queue,) = await inspector_of(engine).queues()

    assert (queue.waiting, queue.dated) == (1, 0)
    for work in busy:
        await work.rollback()
    await engine.close()


async def test_who_waits_too_long_for_a_connection_is_told(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DB-12: and not for ever."""
    monkeypatch.setattr(connections, "PLACE_SECONDS", 0.1)
    engine, _ = open_engine(f"{postgres_database}?pool=1")
    work = await engine.begin("")

    with pytest.raises(Unavailable, match="all 1 are in use"):
        await engine.begin("")

    await work.rollback()
    await (await engine.begin("")).rollback()
    await engine.close()


async def test_a_server_that_is_read_only_is_waited_for(postgres_database: str) -> None:
    """DB-14: nothing is lost or counted, and it goes on by itself."""
    name = postgres_database.rpartition("/")[2]
    async with table(postgres_database) as seen, running(postgres_database, bookkeeper()) as system:
        await system.client.send(Book(number=1))
        await system.quiet()
        await seen.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        await cut_all(seen)
        told = 0
        async with Client(postgres_database) as client:
            for _ in range(20):
                try:
                    await client.send(Book(number=2), id="two")
                except Unavailable:
                    told += 1
                    await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        refused = [signal for signal in system.signals if isinstance(signal, Interrupted)]
        # Whoever gets that far first: the client that sends, or the worker that has its message.
        assert told or refused
        assert len(refused) < 60

        await seen.execute("SET default_transaction_read_only = off")
        await seen.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        await cut_all(seen)

        async def sent() -> bool:
            try:
                await system.client.send(Book(number=2), id="two")
            except Unavailable:
                return False
            return True

        await eventually(sent)
        await system.quiet()

        assert await booked(seen) == [1, 2]


async def cut_all(seen: asyncpg.Connection) -> None:
    """Ends every other connection to the same database."""
    await seen.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


async def test_a_message_is_found_when_nobody_is_told_of_it(postgres_database: str) -> None:
    """DB-20: without the connection that listens, polling finds it; and it comes back with its lock."""
    async with table(postgres_database) as seen, running(postgres_database, bookkeeper()) as system:
        await seen.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'outlast listens'"
        )
        async with Client(postgres_database) as client:
            await client.send(Book(number=1))

        await system.quiet()
        assert await booked(seen) == [1]

        async def is_known() -> bool:
            queues = await inspector_of(system.engine).queues()
            return all(queue.workers == 1 for queue in queues)

        await eventually(is_known)


async def test_silence_is_taken_for_absence(postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """BR-05: a network that swallows everything is noticed, and all goes on when it is back."""
    for module in ("connections", "sessions", "work", "bell"):
        monkeypatch.setattr(f"outlast.adapters.postgres.{module}.ANSWER_SECONDS", 0.5)
    async with Proxy(postgres_database) as proxy, table(postgres_database) as seen:
        async with running(proxy.url, bookkeeper()) as system:
            await system.client.send(Book(number=1))
            await system.quiet()
            proxy.black_hole(True)
            with pytest.raises(Unavailable):
                await system.client.send(Book(number=2), id="two")
            proxy.black_hole(False)
            proxy.cut()

            async def sent() -> bool:
                try:
                    await system.client.send(Book(number=2), id="two")
                except Unavailable:
                    return False
                return True

            await eventually(sent)
            await system.quiet()

        assert await booked(seen) == [1, 2]


async def test_a_server_that_is_killed_costs_nothing() -> None:
    """DB-08, DB-09, BR-01: one connection's process is killed, then the whole server, while messages go through."""
    heard: list[int] = []
    with Postgres() as server:
        async with table(server.url) as seen:
            await seen.close()
        async with running(server.url, bookkeeper(), listener(heard)) as system:
            sent = 0
            for kill in ("backend", "server", "none"):
                for _ in range(20):
                    sent += 1
                    await keep_sending(system.client, sent)
                if kill == "backend":
                    async with table(server.url) as seen:
                        [[pid]] = await seen.fetch(
                            "SELECT pid FROM pg_stat_activity WHERE application_name = 'outlast' LIMIT 1"
                        )
                    server.kill_backend(pid)
                elif kill == "server":
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)

            async def all_heard() -> bool:
                return set(heard) == set(range(1, sent + 1))

            await eventually(all_heard, within=30)
        async with table(server.url) as seen:
            assert await booked(seen) == list(range(1, sent + 1))


async def keep_sending(client: Client, number: int) -> None:
    """Sends until it is sent, as a careful caller does: with an id."""
    async with asyncio.timeout(20):
        while True:
            try:
                await client.send(Book(number=number), id=f"book {number}")
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                return


async def test_two_processes_share_out_one_queue(postgres_database: str) -> None:
    """TR-24: neither starves, and nothing is done twice."""
    by: dict[str, list[int]] = {"one": [], "two": []}

    def shop(name: str) -> Service:
        service = Service("shop")

        @service.handles
        async def book(command: Book, transaction: Transaction) -> None:
            by[name].append(command.number)
            await transaction.execute("INSERT INTO booked VALUES (?)", [command.number])

        return service

    async with table(postgres_database) as seen, Client(postgres_database) as client:
        await client.engine.declare("shop", [])
        await client.send_all(*[Book(number=number) for number in range(600)])
        async with Worker([shop("one")], url=postgres_database, batch=16):
            async with Worker([shop("two")], url=postgres_database, batch=16):

                async def is_done() -> bool:
                    (queue,) = await inspector_of(client.engine).queues()
                    return not queue.waiting

                await eventually(is_done, within=30)

        assert await booked(seen) == list(range(600))
        assert min(len(numbers) for numbers in by.values()) > 100
