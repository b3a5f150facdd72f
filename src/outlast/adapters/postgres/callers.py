"""A transaction on a connection of the caller's, whichever driver it is of: its rows and the messages commit together.

The statements are the same for all of them. What a driver's own calls are is known by the names of its classes, so
that none but asyncpg is imported here.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

from outlast.adapters.postgres.schema import MIGRATIONS, quoted, schema_version_of
from outlast.errors import Misuse

BLOCK = "outlast_block"
IDENTITY = (
    "SELECT (SELECT system_identifier FROM pg_control_system()), "
    "(SELECT oid FROM pg_database WHERE datname = current_database())::bigint"
)
"""What tells one database from another, however it is reached."""

_BUSY = (
    "the connection is in a transaction already. Commit it first: rows and messages commit together only in the "
    "transaction that client.transaction begins."
)
_ENDED = (
    "the transaction was ended before its messages were written, so they were not sent. Leave commit() and rollback() "
    "to client.transaction; raise an exception to undo everything."
)


class CallersSession:
    """A transaction on the caller's connection. A savepoint shows at the end that it is still the same one."""

    def __init__(self, driver: Any, owner: Any) -> None:
        self.driver = driver
        """The connection on which statements run."""
        self.owner = owner
        """What begins and ends transactions: the same, or what SQLAlchemy made of it."""
        self._transaction: Any = None
        self._is_psycopg = "psycopg" in _roots(driver)

    async def begin(self) -> None:
        """Begins a transaction, or joins the one that the caller's library has begun by itself."""
        if self.owner is not self.driver:
            # Whoever has begun it, the library is to know of it and the server too.
            if not self.owner.in_transaction():
                await _done(self.owner.begin())
            connection = await _done(self.owner.connection()) if _is_session(self.owner) else self.owner
            await _done(connection.exec_driver_sql("SELECT 1"))
        elif self._is_psycopg:
            await self._begin_psycopg()
        else:
            if self.driver.is_in_transaction():
                raise Misuse(_BUSY)
            self._transaction = self.driver.transaction()
            await self._transaction.start()
        await self._run(f"SAVEPOINT {BLOCK}")

    async def _begin_psycopg(self) -> None:
        status = self.driver.info.transaction_status.name
        if status == "INERROR":
            raise Misuse("the connection's transaction has failed. Roll it back first.")
        if self.driver.autocommit and status == "IDLE":
            await self._run("BEGIN")

    async def fetch(self, sql: str, *values: Any) -> Sequence[Any]:
        if not self._is_psycopg:
            rows: Sequence[Any] = await self.driver.fetch(sql, *values)
            return rows
        cursor = self._cursor()
        try:
            await _done(cursor.execute(sql, values))
            return list(await _done(cursor.fetchall()))
        finally:
            await _done(cursor.close())

    async def check(self) -> None:
        """Raises `Misuse` if the caller has ended the transaction meanwhile."""
        try:
            await self._run(f"RELEASE SAVEPOINT {BLOCK}")
        except Exception as error:
            if getattr(error, "sqlstate", "")[:2] in ("25", "3B"):
                raise Misuse(_ENDED) from error
            raise

    async def commit(self) -> None:
        await _done((self._transaction or self.owner).commit())

    async def rollback(self) -> None:
        try:
            await _done((self._transaction or self.owner).rollback())
        except Exception:  # then the server does it when the connection is gone
            return

    async def _run(self, statement: str) -> None:
        if self._is_psycopg:
            cursor = self._cursor()
            await _done(cursor.execute(statement))
            await _done(cursor.close())
        else:
            await self.driver.execute(statement)

    def _cursor(self) -> Any:
        psycopg: Any = importlib.import_module("psycopg")
        rows: Any = importlib.import_module("psycopg.rows")
        kind = psycopg.AsyncRawCursor if isinstance(self.driver, psycopg.AsyncConnection) else psycopg.RawCursor
        return kind(self.driver, row_factory=rows.tuple_row)


async def session_on(connection: Any) -> CallersSession:
    """What a turn may use, of a connection of a library that we know."""
    roots = _roots(connection)
    if "sqlalchemy" in roots:
        return CallersSession(await _driver_of(connection), connection)
    if "asyncpg" in roots or "psycopg" in roots:
        return CallersSession(connection, connection)
    raise _unknown(connection)


async def check_schema(session: CallersSession, schema: str, identity: Sequence[Any], where: str) -> None:
    """Raises `Misuse` if the connection is not open on the engine's own database."""
    [found] = await session.fetch(IDENTITY)
    if tuple(found) != tuple(identity):
        raise Misuse(
            f"the connection is open on another database than {where}, where the messages are. Only rows in the "
            "engine's own database can commit together with messages; connect to that one."
        )
    version = await schema_version_of(session.fetch, schema)
    if version != len(MIGRATIONS):
        raise Misuse(f"the connection sees version {version} of the schema {quoted(schema)}, not {len(MIGRATIONS)}.")


async def _driver_of(connection: Any) -> Any:
    """The driver's connection within one of SQLAlchemy's, or within a session's."""
    if _is_session(connection):
        connection = await _done(connection.connection())
    raw = connection.get_raw_connection if hasattr(connection, "get_raw_connection") else None
    driver = (await raw()).driver_connection if raw is not None else connection.connection.driver_connection
    if not _roots(driver) & {"asyncpg", "psycopg"}:
        raise _unknown(driver)
    return driver


def _is_session(connection: Any) -> bool:
    return any(kind.__name__ in ("Session", "AsyncSession") for kind in type(connection).__mro__)


def _roots(connection: Any) -> set[str]:
    return {kind.__module__.partition(".")[0] for kind in type(connection).__mro__}


def _unknown(connection: Any) -> Misuse:
    name = f"{connection.__class__.__module__}.{connection.__class__.__qualname__}"
    return Misuse(
        f"a connection of type {name} cannot be shared. Give one of asyncpg, of psycopg 3, or of SQLAlchemy on one of "
        "these drivers (postgresql+asyncpg://, postgresql+psycopg://)."
    )


async def _done(result: Any) -> Any:
    """What a call gave, of a library that is awaited or of one that is not."""
    return await result if inspect.isawaitable(result) else result
