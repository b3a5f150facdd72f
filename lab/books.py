"""The database in which a service keeps its books: PostgreSQL, or a SQLite file where there is to be no server."""

from __future__ import annotations

import asyncio
import importlib
import sqlite3
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import Any, Protocol
from urllib.parse import urlsplit

from lab.business import TABLES, Rows

asyncpg: Any = importlib.import_module("asyncpg")  # it has no types

CONNECTIONS = 20
ANSWER_SECONDS = 5.0


class Books(Protocol):
    """A database with the tables of one or several services."""

    def transaction(self) -> AbstractAsyncContextManager[Rows]:
        """Commits at the end of the block, and rolls back if that raises."""
        ...


@asynccontextmanager
async def open_books(url: str, services: Iterable[str]) -> AsyncGenerator[Books]:
    """The books of these services, whose tables are made if need be."""
    opening = _open_file(url) if url.startswith("sqlite:") else _open_postgres(url)
    async with opening as books:
        for statement in (statement for service in services for statement in TABLES[service]):
            async with books.transaction() as rows:
                await rows.execute(statement)
        yield books


@asynccontextmanager
async def _open_postgres(url: str) -> AsyncGenerator[Books]:
    pool = await asyncpg.create_pool(
        url, min_size=1, max_size=CONNECTIONS, timeout=ANSWER_SECONDS, command_timeout=ANSWER_SECONDS
    )
    try:
        yield PostgresBooks(pool)
    finally:
        pool.terminate()


class PostgresBooks:
    """Books in a database of a PostgreSQL. Connections that were lost are made anew when they are needed."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Rows]:
        async with self._pool.acquire() as connection, connection.transaction():
            yield PostgresRows(connection)


class PostgresRows:
    """A transaction in PostgreSQL."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        places = count(1)
        head, *parts = sql.split("?")
        numbered = head + "".join(f"${next(places)}{part}" for part in parts)
        return list(await self._connection.fetch(numbered, *parameters))


@asynccontextmanager
async def _open_file(url: str) -> AsyncGenerator[Books]:
    connection = sqlite3.connect(urlsplit(url).path[1:], isolation_level=None, timeout=ANSWER_SECONDS)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        yield FileBooks(connection)
    finally:
        connection.close()


class FileBooks:
    """Books in a SQLite file, as durable as those in PostgreSQL; one transaction at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._alone = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Rows]:
        async with self._alone:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield FileRows(self._connection)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


class FileRows:
    """A transaction in SQLite."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        return self._connection.execute(sql, tuple(parameters)).fetchall()
