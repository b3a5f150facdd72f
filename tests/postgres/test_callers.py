"""Rows of the caller's and messages that commit together, whichever library the caller's connection is of."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy
from psycopg.rows import dict_row
from servers.postgres import Postgres
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from outlast import Client, Command, Service
from outlast.errors import Misuse
from outlast.sync import SyncClient
from tests.system import running

Insert = Callable[[int], Any]


class Greet(Command[None], to="greeter"):
    number: int


@asynccontextmanager
async def by_asyncpg(url: str) -> AsyncIterator[tuple[Any, Insert]]:
    connection = await asyncpg.connect(url)
    yield connection, lambda number: connection.execute("INSERT INTO rows VALUES ($1)", number)
    await connection.close()


@asynccontextmanager
async def by_asyncpg_pool(url: str) -> AsyncIterator[tuple[Any, Insert]]:
    async with asyncpg.create_pool(url) as pool, pool.acquire() as connection:
        yield connection, lambda number: connection.execute("INSERT INTO rows VALUES ($1)", number)


@asynccontextmanager
async def by_psycopg(url: str) -> AsyncIterator[tuple[Any, Insert]]:
    async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row) as connection:
        yield connection, lambda number: connection.execute("INSERT INTO rows VALUES (%s)", [number])


@asynccontextmanager
async def by_psycopg_autocommit(url: str) -> AsyncIterator[tuple[Any, Insert]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection, lambda number: connection.execute("INSERT INTO rows VALUES (%s)", [number])


INSERT = sqlalchemy.text("INSERT INTO rows VALUES (:number)")


def by_sqlalchemy(driver: str, *, session: bool) -> Any:
    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[tuple[Any, Insert]]:
        engine = create_async_engine(url.replace("postgresql", f"postgresql+{driver}"))
        async with AsyncSession(engine) if session else engine.connect() as connection:
            yield connection, lambda number: connection.execute(INSERT, {"number": number})
        await engine.dispose()

    return opened


WAYS = {
    "asyncpg": by_asyncpg,
    "asyncpg pool": by_asyncpg_pool,
    "psycopg": by_psycopg,
    "psycopg autocommit": by_psycopg_autocommit,
    "sqlalchemy asyncpg": by_sqlalchemy("asyncpg", session=False),
    "sqlalchemy psycopg": by_sqlalchemy("psycopg", session=False),
    "sqlalchemy session asyncpg": by_sqlalchemy("asyncpg", session=True),
    "sqlalchemy session psycopg": by_sqlalchemy("psycopg", session=True),
}


@contextmanager
def rows_of(url: str) -> Iterator[Callable[[], list[int]]]:
    """The caller's table, as another connection sees it."""
    with psycopg.connect(url, autocommit=True) as seen:
        seen.execute("CREATE TABLE rows (number integer)")
        yield lambda: [number for (number,) in seen.execute("SELECT number FROM rows ORDER BY 1")]


def greeter(greeted: list[int]) -> Service:
    service = Service("greeter")

    @service.handles
    async def greet(command: Greet) -> None:
        greeted.append(command.number)

    return service


@pytest.mark.parametrize("way", WAYS)
async def test_rows_and_messages_commit_together_or_not_at_all(postgres_database: str, way: str) -> None:
    """OB-22, CP-21: on a connection that is used before and after."""
    greeted: list[int] = []
    with rows_of(postgres_database) as rows:
        async with running(postgres_database, greeter(greeted)) as system:
            client = system.client
            async with WAYS[way](postgres_database) as (connection, insert):
                async with client.transaction(connection) as outgoing:
                    await insert(1)
                    outgoing.send(Greet(number=1))
                with pytest.raises(ValueError, match="undone"):
                    async with client.transaction(connection) as outgoing:
                        await insert(2)
                        outgoing.send(Greet(number=2))
                        raise ValueError("undone")
                async with client.transaction(connection) as outgoing:
                    await insert(3)
                    outgoing.send(Greet(number=3))
                await system.quiet()

                assert rows() == greeted == [1, 3]


@pytest.mark.parametrize("way", WAYS)
async def test_a_transaction_that_is_ended_in_the_block_sends_nothing(postgres_database: str, way: str) -> None:
    """OB-22: what the caller has committed by itself is committed, and it is told that the messages are not."""
    greeted: list[int] = []
    with rows_of(postgres_database) as rows:
        async with running(postgres_database, greeter(greeted)) as system:
            async with WAYS[way](postgres_database) as (connection, insert):
                with pytest.raises(Misuse, match="ended before"):
                    async with system.client.transaction(connection) as outgoing:
                        await insert(1)
                        outgoing.send(Greet(number=1))
                        ended = connection.commit() if hasattr(connection, "commit") else connection.execute("COMMIT")
                        assert inspect.isawaitable(ended)
                        await ended
            await system.quiet()

            assert rows() == [1]
            assert greeted == []


async def test_another_database_is_refused(postgres_database: str) -> None:
    with Postgres() as other:
        async with Client(postgres_database) as client:
            connection = await asyncpg.connect(other.url)
            with pytest.raises(Misuse, match="another database"):
                async with client.transaction(connection):
                    pass
            assert not connection.is_in_transaction()
            await connection.close()


async def test_a_connection_in_a_transaction_is_refused(postgres_database: str) -> None:
    async with Client(postgres_database) as client:
        connection = await asyncpg.connect(postgres_database)
        async with connection.transaction():
            with pytest.raises(Misuse, match="already"):
                async with client.transaction(connection):
                    pass
            await connection.execute("SELECT 1")
        await connection.close()


async def test_what_is_no_connection_is_refused(postgres_database: str) -> None:
    async with Client(postgres_database) as client:
        with pytest.raises(Misuse, match=r"builtins\.str"):
            async with client.transaction("a connection"):
                pass


@contextmanager
def sync_psycopg(url: str) -> Iterator[tuple[Any, Insert]]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        yield connection, lambda number: connection.execute("INSERT INTO rows VALUES (%s)", [number])


def sync_sqlalchemy(*, session: bool) -> Any:
    @contextmanager
    def opened(url: str) -> Iterator[tuple[Any, Insert]]:
        engine = sqlalchemy.create_engine(url.replace("postgresql", "postgresql+psycopg"))
        with Session(engine) if session else engine.connect() as connection:
            yield connection, lambda number: connection.execute(INSERT, {"number": number})
        engine.dispose()

    return opened


SYNC = {
    "psycopg": sync_psycopg,
    "sqlalchemy": sync_sqlalchemy(session=False),
    "sqlalchemy session": sync_sqlalchemy(session=True),
}


@pytest.mark.parametrize("way", SYNC)
def test_code_without_an_event_loop_sends_too(postgres_database: str, way: str) -> None:
    """OB-22"""
    with rows_of(postgres_database) as rows, SyncClient(postgres_database) as client:
        client.send(Greet(number=0))
        with SYNC[way](postgres_database) as (connection, insert):
            with client.transaction(connection) as outgoing:
                insert(1)
                outgoing.send(Greet(number=1))
            with pytest.raises(ValueError, match="undone"):
                with client.transaction(connection) as outgoing:
                    insert(2)
                    outgoing.send(Greet(number=2))
                    raise ValueError("undone")

        assert rows() == [1]
        with psycopg.connect(postgres_database) as seen:
            assert seen.execute("SELECT count(*) FROM outlast.messages").fetchone() == (2,)


def test_a_sync_client_that_is_not_open_says_so() -> None:
    with pytest.raises(Misuse, match="with SyncClient"):
        SyncClient("memory://").send(Greet(number=1))
