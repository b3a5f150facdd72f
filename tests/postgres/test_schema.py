"""The schema: made once by whoever comes first, or by somebody with more rights, and used with few."""

from __future__ import annotations

import asyncio
import multiprocessing
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from outlast import Client, Command, Service
from outlast.adapters.postgres import PostgresEngine
from outlast.adapters.postgres.schema import MIGRATIONS
from outlast.adapters.system import SystemWorld
from outlast.engines import inspector_of, open_engine
from outlast.errors import Unavailable
from tests.system import running


class Greet(Command[None], to="greeter"):
    name: str


def greeter(greeted: list[str]) -> Service:
    service = Service("greeter")

    @service.handles
    async def greet(command: Greet) -> None:
        greeted.append(command.name)

    return service


def declare(url: str) -> None:
    async def whole() -> None:
        engine, _ = open_engine(url)
        await engine.declare("greeter", ["topic"])
        await engine.close()

    asyncio.run(whole())


async def test_five_processes_make_the_schema_at_once(postgres_database: str) -> None:
    """UP-03"""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=declare, args=(postgres_database,)) for _ in range(5)]
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.join, 30)

    assert [process.exitcode for process in processes] == [0] * 5
    connection = await asyncpg.connect(postgres_database)
    assert await connection.fetchval("SELECT array_agg(number) FROM outlast.schema_version") == [len(MIGRATIONS)]
    await connection.close()


async def test_a_schema_of_a_newer_version_is_left_alone(postgres_database: str) -> None:
    """UP-06"""
    await asyncio.to_thread(declare, postgres_database)
    connection = await asyncpg.connect(postgres_database)
    await connection.execute("UPDATE outlast.schema_version SET number = 999")
    engine, _ = open_engine(postgres_database)

    with pytest.raises(Unavailable, match="999"):
        await engine.receive("greeter", 9)

    await engine.close()
    await connection.close()


async def test_two_schemas_in_one_database_do_not_touch(postgres_database: str) -> None:
    """SE-04"""
    greeted: dict[str, list[str]] = {"one": [], 'odd "name"': []}
    urls = {name: f"{postgres_database}?schema={name}" for name in greeted}
    async with running(urls["one"], greeter(greeted["one"])) as one:
        async with running(urls['odd "name"'], greeter(greeted['odd "name"'])) as odd:
            await one.client.send(Greet(name="one"))
            await odd.client.send(Greet(name="odd"))
            await one.quiet()
            await odd.quiet()

            assert list(greeted.values()) == [["one"], ["odd"]]
            (queue,) = await inspector_of(odd.engine).queues()
            assert queue.workers == 1


async def test_a_user_with_no_more_than_the_rights_it_needs_runs_everything(postgres_database: str) -> None:
    """The schema is made by an administrator, with what `outlast migrate --sql` prints."""
    administrator = await asyncpg.connect(postgres_database)
    role = f"app_{urlsplit(postgres_database).path.strip('/')}"
    await administrator.execute(f'CREATE ROLE "{role}" LOGIN')
    await administrator.execute(f'REVOKE CREATE ON DATABASE "{role.removeprefix("app_")}" FROM PUBLIC')
    parts = urlsplit(postgres_database)
    url = urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))
    try:
        engine, _ = open_engine(url)
        with pytest.raises(Unavailable, match="outlast migrate --sql"):
            await engine.declare("greeter", [])
        await engine.close()

        sql = PostgresEngine(postgres_database, SystemWorld()).schema_sql()
        await administrator.execute(sql)
        grants = [line.removeprefix("-- ") for line in sql.splitlines() if line.startswith("-- GRANT")]
        assert len(grants) == 2
        for grant in grants:
            await administrator.execute(grant.replace("TO app", f'TO "{role}"'))

        greeted: list[str] = []
        async with running(url, greeter(greeted)) as system:
            await system.client.send(Greet(name="one"))
            async with Client(url) as client:
                await client.send(Greet(name="two"))
            await system.quiet()
            assert sorted(greeted) == ["one", "two"]
            findings = await inspector_of(system.engine).examine()
            assert all(finding.is_good for finding in findings if finding.what == "rights")
    finally:
        await administrator.execute(f'DROP OWNED BY "{role}"')
        await administrator.execute(f'DROP ROLE "{role}"')
        await administrator.close()
