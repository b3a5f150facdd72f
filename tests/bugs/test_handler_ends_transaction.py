"""What a statement did that makes SQLite end the whole transaction."""

from __future__ import annotations

import sqlite3
from contextlib import suppress

import pytest

from outlast import Event, Service, Transaction
from tests.system import AT_ONCE, running


class Noted(Event):
    key: str


@pytest.mark.parametrize("swallows", [False, True])
async def test_a_statement_that_rolls_back_the_turn_costs_its_own_message_alone(
    sqlite_url: str, *, swallows: bool
) -> None:
    """A handler's `INSERT OR ROLLBACK` met a row that was there, and SQLite ended the transaction of the whole turn.

    That was taken for a fault of the disk, whose remedy is to try again: the same turn was repeated for ever, and no
    other message of the service was handled. Now the turn is split, and the message whose handler did it set aside.
    """
    service = Service("s", retry=AT_ONCE)

    @service.prepares
    async def table(transaction: Transaction) -> None:
        await transaction.execute("CREATE TABLE IF NOT EXISTS noted (key TEXT PRIMARY KEY)")

    @service.handles
    async def note(event: Noted, transaction: Transaction) -> None:
        with suppress(sqlite3.IntegrityError if swallows else ZeroDivisionError):
            await transaction.execute("INSERT OR ROLLBACK INTO noted VALUES (?)", (event.key,))

    async with running(sqlite_url, service) as system:
        await system.client.send_all(Noted(key="1"), Noted(key="1"), Noted(key="2"))
        await system.quiet(within=5)
        assert system.execute("SELECT key FROM noted ORDER BY key") == [("1",), ("2",)]
        [letter] = await system.dead()
        assert "ended the turn's transaction" in letter.reason
