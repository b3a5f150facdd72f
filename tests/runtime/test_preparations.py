"""What a service does before its first message."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from outlast import Client, Command, Service, Transaction, Worker
from outlast.errors import BadHandler


class Count(Command[None], to="counter"):
    number: int


def counting() -> Service:
    service = Service("counter")

    @service.prepares
    async def tables(transaction: Transaction) -> None:
        await transaction.execute("CREATE TABLE IF NOT EXISTS counted (number INTEGER)")

    @service.handles
    async def count(command: Count, connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO counted VALUES (?)", (command.number,))

    return service


async def test_tables_are_there_before_the_first_message_and_at_every_start(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/file.db"
    async with Client(url) as client:
        await client.send(Count(number=1))
        for _ in range(2):
            async with Worker([counting()], url=url):
                await client.send(Count(number=2))

    async with Worker([counting()], url=url):
        pass
    with sqlite3.connect(tmp_path / "file.db") as connection:
        found = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'counted'").fetchone()
    connection.close()
    assert found == (1,)


async def test_a_preparation_that_fails_keeps_the_service_from_starting_and_leaves_nothing(tmp_path: Path) -> None:
    service = Service("counter")

    @service.prepares
    def tables(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE half (number INTEGER)")
        connection.execute("CREATE TABLE half (number INTEGER)")

    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        async with Worker([service], url=f"sqlite:///{tmp_path}/file.db"):
            pass

    with sqlite3.connect(tmp_path / "file.db") as connection:
        assert not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'half'").fetchall()
    connection.close()


async def test_a_preparation_that_asks_for_something_else_is_refused(tmp_path: Path) -> None:
    service = Service("counter")

    @service.prepares
    def tables(path: Path) -> None: ...

    with pytest.raises(BadHandler, match="must take one parameter"):
        async with Worker([service], url=f"sqlite:///{tmp_path}/file.db"):
            pass


async def test_an_engine_without_a_database_says_that_it_has_none() -> None:
    service = Service("counter")

    @service.prepares
    async def tables(transaction: Transaction) -> None: ...

    with pytest.raises(BadHandler, match="engine with a database"):
        async with Worker([service], url="memory://preparations"):
            pass
