"""A transaction on a connection, whoever's it is: the few calls by which a turn uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from outlast.adapters.postgres.connections import ANSWER_SECONDS, OwnConnection


class Session(Protocol):
    """A connection in a transaction. What it raises is the driver's."""

    async def fetch(self, sql: str, *values: Any) -> Sequence[Any]:
        """The rows of a statement, whose places are `$1`, `$2` …"""
        ...

    async def check(self) -> None:
        """Raises `Misuse` if it is not the transaction that was begun any more."""
        ...

    async def commit(self) -> None: ...

    async def rollback(self) -> None:
        """Undoes everything. Never raises: a connection that cannot is closed."""
        ...


class OwnSession:
    """A connection of the engine's own. It begins a transaction when `begin` is called and not before."""

    def __init__(self, connection: OwnConnection, give_back: Callable[[OwnConnection], None]) -> None:
        self.connection = connection
        self._give_back = give_back
        self._transaction: Any = None
        self._is_over = False

    @property
    def has_begun(self) -> bool:
        return self._transaction is not None

    async def begin(self) -> None:
        """Begins the transaction, unless it has begun."""
        if self._transaction is None:
            # The driver's own, so that a handler's `connection.transaction()` is a part of it.
            self._transaction = self.connection.transaction()
            await self._answered(self._transaction.start())

    async def fetch(self, sql: str, *values: Any) -> Sequence[Any]:
        rows: Sequence[Any] = await self._answered(self.connection.fetch(sql, *values))
        return rows

    async def _answered(self, call: Awaitable[Any]) -> Any:
        """What the server answered in time. After a call that was broken off the connection is not used again."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await call
        except TimeoutError:
            self.connection.is_silent = True
            self.connection.terminate()
            raise
        except asyncio.CancelledError:
            self.connection.terminate()
            raise

    async def check(self) -> None:
        pass  # a handler's statements are refused if they would end it

    async def commit(self) -> None:
        if self._transaction is not None:
            await self._answered(self._transaction.commit())
        self._end()

    async def rollback(self) -> None:
        if self._is_over:
            return
        connection = self.connection
        connection.is_lent = False
        try:
            if self._transaction is not None and not connection.is_closed() and connection.is_in_transaction():
                await self._answered(self._transaction.rollback())
        except Exception:  # then the server undoes it when the connection is gone
            connection.terminate()
        finally:
            self._end()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._give_back(self.connection)
