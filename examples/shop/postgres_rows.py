"""Reading the services' own tables in a PostgreSQL, by another driver than outlast's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from outlast.errors import Unavailable

PATIENCE_SECONDS = 5


class PostgresReader:
    """Reads by a connection of its own, and makes another one when that is lost."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None

    async def read(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        try:
            if self._connection is None:
                self._connection = await psycopg.AsyncConnection.connect(
                    self._url, autocommit=True, connect_timeout=PATIENCE_SECONDS
                )
            found = await self._connection.execute(sql.replace("?", "%s").encode(), parameters or None)
            return await found.fetchall()
        except psycopg.OperationalError as error:
            await self.close()
            raise Unavailable(f"the shop's tables cannot be read now: {error}") from error

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
