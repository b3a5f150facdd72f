"""Reading the services' own tables, whatever database they are in. It never looks at outlast's tables."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit

STORE = "store="
"""Everything after it is the URL of a broker's store."""


def store_of(url: str) -> str:
    """The URL of the database behind an engine: of a broker's store, or the URL itself."""
    return url.partition(STORE)[2] or url


class Reader(Protocol):
    """Someone who may read."""

    async def read(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows; placeholders are `?`. Raises `Unavailable` while the database cannot be asked."""
        ...

    async def close(self) -> None: ...


@asynccontextmanager
async def open_reader(url: str) -> AsyncGenerator[Reader]:
    """A reader of the database behind this engine. It connects when it is asked for the first time."""
    reader = _reader(store_of(url))
    try:
        yield reader
    finally:
        await reader.close()


def _reader(store: str) -> Reader:
    if store.startswith("sqlite:"):
        return SqliteReader(store)
    from examples.shop.postgres_rows import PostgresReader  # not everybody has its driver

    return PostgresReader(store)


class SqliteReader:
    """Reads a file."""

    def __init__(self, url: str) -> None:
        self._connection = sqlite3.connect(urlsplit(url).path[1:], timeout=10, isolation_level=None)

    async def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, parameters).fetchall()

    async def close(self) -> None:
        self._connection.close()
