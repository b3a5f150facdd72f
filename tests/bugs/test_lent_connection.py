"""What handlers that have the turn's connection did to it for good."""

from __future__ import annotations

import sqlite3
from typing import Any

from outlast import Client, Event, Service, Transaction
from tests.system import AT_ONCE, System, running, until


class Asked(Event):
    key: str


class Noted(Event):
    key: str


async def goes_on(url: str, system: System, heard: list[str]) -> None:
    """After `Asked` was handled, others still write, and the service still hears."""
    await system.client.publish(Asked(key="1"))
    await system.quiet()
    async with Client(url) as other:
        await other.publish(Noted(key="2"))
        await until(lambda: heard == ["2"], within=5)
        await other.publish(Noted(key="3"))
        await until(lambda: heard == ["2", "3"], within=5)


def noting(heard: list[str]) -> Service:
    service = Service("s", retry=AT_ONCE)

    @service.handles
    async def note(event: Noted, transaction: Transaction) -> None:
        await transaction.execute("SELECT 1")
        heard.append(event.key)

    return service


async def test_a_statement_that_a_handler_does_not_read_to_its_end_ends_with_it(sqlite_url: str) -> None:
    """A handler took the first of several rows, and its cursor was kept: by itself, or by a traceback that was.

    The statement went on, and with it the snapshot of the file that it read from. As soon as another process had
    written, no transaction of this one could begin, since it would have written into the past: it waited for the
    lock, gave up, and began again, until the cursor was collected; that is, perhaps never.
    """
    heard, kept = list[str](), list[sqlite3.Cursor]()
    service = noting(heard)

    @service.handles
    async def look(event: Asked, connection: sqlite3.Connection) -> None:
        cursor = connection.execute("SELECT topic FROM outlast_topics")
        cursor.fetchone()
        kept.append(cursor)

    async with running(sqlite_url, service) as system:
        await goes_on(sqlite_url, system, heard)


async def test_how_a_handler_reads_rows_is_its_own_affair(sqlite_url: str) -> None:
    """A handler set the connection's row and text factories, as it would on a connection of its own.

    They stayed: from then on the engine had dicts of bytes where it expected rows of text, and did nothing more.
    """
    heard = list[str]()
    service = noting(heard)

    def as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
        return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}

    @service.handles
    async def look(event: Asked, connection: sqlite3.Connection) -> None:
        connection.row_factory = as_dict
        connection.text_factory = bytes
        assert connection.execute("SELECT 'text' AS kind").fetchall() == [{"kind": b"text"}]

    async with running(sqlite_url, service) as system:
        await goes_on(sqlite_url, system, heard)
