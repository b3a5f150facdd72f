"""A handler's statements: placeholders as on every engine, and none that ends the turn."""

from __future__ import annotations

import asyncpg
import pytest

from outlast import Command, Retry, Service, Transaction
from outlast.adapters.postgres.statements import refusal, translated, with_values
from outlast.errors import Misuse
from tests.system import AT_ONCE, running


@pytest.mark.parametrize(
    ("sql", "text", "names"),
    [
        ("SELECT ?, ?", "SELECT $1, $2", (None, None)),
        ("SELECT :a, :b, :a", "SELECT $1, $2, $1", ("a", "b")),
        ("SELECT '?' || \"?\", ?", "SELECT '?' || \"?\", $1", (None,)),
        ("SELECT 'it''s ?', ?", "SELECT 'it''s ?', $1", (None,)),
        (r"SELECT E'\'?', ?", r"SELECT E'\'?', $1", (None,)),
        ("SELECT $$ ? :a $$, $x$ ? $x$, ?", "SELECT $$ ? :a $$, $x$ ? $x$, $1", (None,)),
        ("SELECT ? -- why?\n, ?", "SELECT $1 -- why?\n, $2", (None, None)),
        ("SELECT /* ? /* ? */ ? */ ?", "SELECT /* ? /* ? */ ? */ $1", (None,)),
        ("SELECT a::text, :a::int", "SELECT a::text, $1::int", ("a",)),
        ("SELECT data ?? 'a', ?", "SELECT data ? 'a', $1", (None,)),
        ("SELECT $1, '?'", "SELECT $1, '?'", ()),
    ],
)
def test_placeholders_are_those_of_every_engine(sql: str, text: str, names: tuple[str | None, ...]) -> None:
    assert translated(sql) == (text, names)


def test_places_without_values_are_refused() -> None:
    with pytest.raises(Misuse, match="'b'"):
        with_values("SELECT :a, :b", {"a": 1})
    with pytest.raises(Misuse, match="have names"):
        with_values("SELECT :a", [1])


@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT",
        " /* now */ commit;",
        "SELECT 1; END",
        "ROLLBACK",
        "ABORT",
        "BEGIN",
        "START TRANSACTION",
        "COMMIT AND CHAIN",
        "PREPARE TRANSACTION 'x'",
        "ROLLBACK PREPARED 'x'",
        "RELEASE outlast_handler",
        'ROLLBACK TO SAVEPOINT "outlast_handler"',
    ],
)
def test_what_would_end_the_turn_is_refused(sql: str) -> None:
    assert refusal(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'COMMIT; COMMIT'",
        "SAVEPOINT mine",
        "ROLLBACK TO mine",
        "ROLLBACK TO SAVEPOINT mine",
        "RELEASE mine",
        "INSERT INTO commit VALUES (1)",
        "SELECT 1 -- ; COMMIT",
        "DO $$ BEGIN PERFORM 1; END $$",
        "",
    ],
)
def test_what_leaves_the_turn_alone_is_let_through(sql: str) -> None:
    assert refusal(sql) == ""


class Write(Command[None], to="shop"):
    number: int


BAD = {
    "commit": "COMMIT",
    "rollback": "ROLLBACK",
    "several": "SELECT 1; COMMIT; BEGIN",
    "swallowed": "",
    "close": "",
    "raw transaction": "",
}


@pytest.mark.parametrize("how", BAD)
async def test_a_handler_that_would_end_the_turn_fails_alone(postgres_database: str, how: str) -> None:
    """P12: what others did in the same turn is kept, and of what it did nothing."""
    shop = Service("shop", retry=Retry(immediate=0, delayed=0))

    @shop.handles
    async def write(command: Write, connection: asyncpg.Connection) -> None:
        await connection.execute("INSERT INTO written VALUES ($1)", command.number)
        if command.number != 2:
            return
        match how:
            case "swallowed":
                try:
                    await connection.execute("SELECT 1 / 0")
                except asyncpg.DivisionByZeroError:
                    return
            case "close":
                await connection.close()
            case "raw transaction":
                await connection.transaction(isolation="serializable").start()
            case _:
                await connection.execute(BAD[how])

    connection = await asyncpg.connect(postgres_database)
    await connection.execute("CREATE TABLE written (number integer)")
    async with running(postgres_database, shop) as system:
        await system.client.send_all(*[Write(number=number) for number in (1, 2, 3)])
        await system.quiet()

        assert len(await system.dead()) == 1
        rows = await connection.fetch("SELECT number FROM written ORDER BY 1")
        assert [number for (number,) in rows] == [1, 3]
    await connection.close()


async def test_a_part_of_a_handler_may_fail_and_be_caught(postgres_database: str) -> None:
    """With the driver's own `transaction()`, which is a part of the turn's."""
    shop = Service("shop", retry=AT_ONCE)

    @shop.handles
    async def write(command: Write, connection: asyncpg.Connection, transaction: Transaction) -> None:
        await transaction.execute("INSERT INTO written VALUES (:number)", {"number": command.number})
        try:
            async with connection.transaction():
                await connection.execute("INSERT INTO written VALUES (99)")
                await connection.execute("SELECT 1 / 0")
        except asyncpg.DivisionByZeroError:
            await transaction.execute_many("INSERT INTO written VALUES (?)", [(10,), (11,)])

    connection = await asyncpg.connect(postgres_database)
    await connection.execute("CREATE TABLE written (number integer)")
    async with running(postgres_database, shop) as system:
        await system.client.send(Write(number=1))
        await system.quiet()

        rows = await connection.fetch("SELECT number FROM written ORDER BY 1")
        assert [number for (number,) in rows] == [1, 10, 11]
        assert await system.dead() == []
    await connection.close()
