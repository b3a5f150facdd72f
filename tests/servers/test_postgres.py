"""The private PostgreSQL, its every way of ending, and a faulty network before it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from servers.postgres import Postgres
from servers.proxy import Direction, Proxy
from servers.server import ServerError

from tests.real_servers import started

GONE = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)


@pytest.fixture(scope="module")
def own() -> Iterator[Postgres]:
    """A server that these tests may kill; each leaves it running."""
    yield from started(Postgres(settings=("max_connections = 30",)))


async def rows(url: str) -> list[int]:
    connection = await asyncpg.connect(url)
    try:
        return [row["number"] for row in await connection.fetch("SELECT number FROM kept ORDER BY number")]
    finally:
        await connection.close()


async def fresh_table(url: str) -> asyncpg.Connection:
    connection = await asyncpg.connect(url)
    await connection.execute("DROP TABLE IF EXISTS kept; CREATE TABLE kept (number INT)")
    await connection.execute("INSERT INTO kept VALUES (1)")
    return connection


async def test_it_comes_back_from_being_killed_with_what_was_committed(own: Postgres) -> None:
    connection = await fresh_table(own.url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("INSERT INTO kept VALUES (2)")
    children = psutil.Process(own.pid).children()

    own.kill()

    with pytest.raises(GONE):
        await connection.fetchval("SELECT 1")
    assert not own.is_up()
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    own.start()
    assert await rows(own.url) == [1]


async def test_it_comes_back_from_an_orderly_stop(own: Postgres) -> None:
    connection = await fresh_table(own.url)
    before = len((own.directory / "log").read_text())
    own.stop()
    with pytest.raises(GONE):
        await connection.fetchval("SELECT 1")
    assert not own.is_up()

    own.start()

    assert await rows(own.url) == [1]
    assert "was not properly shut down" not in (own.directory / "log").read_text()[before:]


async def test_a_killed_backend_breaks_all_connections_off_and_the_server_recovers(own: Postgres) -> None:
    victim, bystander = await fresh_table(own.url), await asyncpg.connect(own.url)

    own.kill_backend(victim.get_server_pid())

    for connection in (victim, bystander):
        with pytest.raises(GONE):
            while True:
                await connection.fetchval("SELECT pg_sleep(0.01)")
    async with asyncio.timeout(10):
        while not own.is_up():
            await asyncio.sleep(0.01)
    assert await rows(own.url) == [1]


async def test_a_paused_server_is_silent_and_then_goes_on(own: Postgres) -> None:
    connection = await fresh_table(own.url)
    own.pause()
    try:
        asked = asyncio.create_task(connection.fetchval("SELECT 41 + 1"))
        done, _ = await asyncio.wait([asked], timeout=0.2)
        assert not done
        assert not own.is_up()
    finally:
        own.go_on()
    assert await asked == 42
    await connection.close()


async def test_further_settings_win(own: Postgres) -> None:
    connection = await asyncpg.connect(own.url)
    assert await connection.fetchval("SHOW max_connections") == "30"
    await connection.close()


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(ServerError, match='unrecognized configuration parameter "no_such_thing"'):
        Postgres(settings=("no_such_thing = 1",)).__enter__()


def test_a_given_directory_keeps_the_data() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        for expected in ([], [1]):
            with Postgres(Path(directory)) as server:
                if not expected:
                    asyncio.run(_keep(server.url))
                else:
                    assert asyncio.run(rows(server.url)) == expected


async def _keep(url: str) -> None:
    await (await fresh_table(url)).close()


async def test_a_commit_whose_answer_is_lost_has_happened(postgres_database: str) -> None:
    await (await fresh_table(postgres_database)).close()
    async with Proxy(postgres_database) as proxy:
        connection = await asyncpg.connect(proxy.url)
        trigger = proxy.cut_answer(b"COMMIT")

        with pytest.raises(GONE):
            async with connection.transaction():
                await connection.execute("INSERT INTO kept VALUES (2)")

        assert trigger.fired
        assert await rows(postgres_database) == [1, 2]


async def test_a_commit_that_is_lost_has_not_happened(postgres_database: str) -> None:
    await (await fresh_table(postgres_database)).close()
    async with Proxy(postgres_database) as proxy:
        connection = await asyncpg.connect(proxy.url)
        proxy.cut_before(b"COMMIT")

        with pytest.raises(GONE):
            async with connection.transaction():
                await connection.execute("INSERT INTO kept VALUES (2)")

        await until_alone(postgres_database)
        assert await rows(postgres_database) == [1]


async def test_an_answer_can_be_cut_at_any_byte(postgres_database: str) -> None:
    await (await fresh_table(postgres_database)).close()
    for count in (1, 100, 700):
        async with Proxy(postgres_database) as proxy:
            trigger = proxy.cut_after(count, Direction.TO_CLIENT)
            with pytest.raises(GONE):
                connection = await asyncpg.connect(proxy.url)
                while True:
                    await connection.fetchval("SELECT number FROM kept")
            assert trigger.fired


async def test_a_driver_survives_a_bad_network(postgres_database: str) -> None:
    await (await fresh_table(postgres_database)).close()
    async with Proxy(postgres_database) as proxy:
        proxy.slice()
        connection = await asyncpg.connect(proxy.url)
        assert await connection.fetchval("SELECT repeat('x', 3000)") == "x" * 3000
        proxy.slice(False)

        proxy.limit(100_000)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        assert len(await connection.fetchval("SELECT repeat('x', 20000)")) == 20_000
        assert loop.time() - begun > 0.19
        proxy.limit(None)

        proxy.delay(0.03)
        begun = loop.time()
        assert await connection.fetchval("SELECT 1") == 1
        assert loop.time() - begun >= 0.06
        proxy.delay(0)

        proxy.black_hole(True)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asked := asyncio.ensure_future(connection.fetchval("SELECT 2"))), 0.1)
        proxy.black_hole(False)
        assert await asked == 2

        proxy.close()
        with pytest.raises(GONE):
            await connection.fetchval("SELECT 3")
        proxy.refuse(True)
        with pytest.raises(GONE):
            await asyncpg.connect(proxy.url)
        proxy.refuse(False)
        connection = await asyncpg.connect(proxy.url)
        proxy.cut()
        with pytest.raises(GONE):
            await connection.fetchval("SELECT 4")


async def until_alone(url: str) -> None:
    """Waits until the server has noticed that the others have gone."""
    connection = await asyncpg.connect(url)
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()"
    async with asyncio.timeout(5):
        while await connection.fetchval(others):
            await asyncio.sleep(0.01)
    await connection.close()
