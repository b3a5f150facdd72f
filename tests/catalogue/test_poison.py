"""PO: one bad message, row or handler costs itself and nobody else."""

import asyncio
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from outlast import NO_RETRY, Command, Context, Event, Retry, Service, Transaction, Workflow, on, starts
from outlast.core.naming import encode
from outlast.errors import Conflict, Unavailable
from outlast.ports import Changes, Parcel
from outlast.signals import Interrupted
from tests.system import AT_ONCE, System, running, until


class Job(Command[None], to="shop"):
    number: int = 0
    items: list[int] = []


class Ticket(Command[None], to="shop"):
    number: int = 0


class Begun(Event):
    key: str
    items: list[int] = []


class Continued(Event):
    key: str
    number: int = 0


class Checked(Event):
    key: str

    def __post_init__(self) -> None:
        if self.key == "forbidden":
            raise KeyError(self.key)


HEAD = {"id": "x", "conversation": "c", "sent_at": "2026-01-01T00:00:00Z", "sender": "elsewhere"}


def packet(**fields: object) -> bytes:
    return encode(HEAD | {"type": "job", "body": {}} | fields)


async def insert(system: System, *packets: bytes, service: str = "shop") -> None:
    """Puts packets into a queue as a foreign program would."""
    work = await system.engine.begin("")
    await work.commit(Changes(parcels=[Parcel("x", packet, queue=service) for packet in packets]))


def shop_that_notes(seen: list[Any], *, retry: Retry = AT_ONCE) -> Service:
    shop = Service("shop", retry=retry)

    @shop.handles
    async def work(command: Job) -> None:
        seen.append(command.number)

    @shop.handles
    async def serve(command: Ticket) -> None:
        seen.append(command.number)

    @shop.handles
    async def check(event: Checked) -> None:
        seen.append(event.key)

    return shop


BAD = {
    "no JSON": b"\x00\x01 not json",
    "empty": b"",
    "half of it": packet()[:-9],
    "two of it": packet() + packet(),
    "invalid UTF-8": packet(sender="@@").replace(b"@@", b"\xff\xfe"),
    "invalid UTF-8 in the body": packet(body={"number": 1, "items": "@@"}).replace(b"@@", b"\xff\xfe"),
    "byte order mark": b"\xef\xbb\xbf" + packet(),
    "UTF-16": packet().decode().encode("utf-16"),
    "unknown type": packet(type="never-heard-of"),
    "module path as type": packet(type="os:system"),
    "empty type": packet(type=""),
    "blank type": packet(type="   "),
    "type missing": encode(HEAD | {"body": {}}),
    "body of another type": packet(type="begun", body={"number": 5}),
    "wrong field type": packet(body={"number": "five"}),
    "null field": packet(body={"number": None}),
    "number too large": packet(body={"number": 5}).replace(b"5}", b"5" * 5000 + b"}"),
    "body is a list": packet(body=[1, 2]),
    "body is null": packet(body=None),
    "deep nesting in the body": packet(body="@@").replace(b'"@@"', b"[" * 100_000 + b"]" * 100_000),
    "deep nesting in a field": packet(body={"items": "@@"}).replace(b'"@@"', b"[" * 100_000 + b"]" * 100_000),
    "deep nesting of all": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "ten thousand headers": packet(headers={str(n): n for n in range(10_000)}),
    "attempt is negative text": packet(attempt="-1"),
    "sent at no time": packet(sent_at="yesterday"),
    "sent at a local time": packet(sent_at="2026-01-01T00:00:00"),
    "before its first attempt": packet(attempt=-1_000_000),
    "refused by its own class": packet(type="checked", body={"key": "forbidden"}),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_what_cannot_be_read_is_set_aside_on_its_first_attempt(url: str, bad: bytes) -> None:
    """PO-01, PO-02, PO-03, PO-04, PO-05, PO-07, PO-09, PO-24: a dead letter at once, and the next is handled."""
    seen: list[int] = []

    async with running(url, shop_that_notes(seen)) as system:
        modules = set(sys.modules)
        await insert(system, packet(body={"number": 1}), bad, packet(body={"number": 2}))
        began = time.monotonic()
        await system.quiet()
        took = time.monotonic() - began
        dead = await system.dead()

    assert sorted(seen) == [1, 2]
    assert [(letter.packet, letter.attempts <= 1) for letter in dead] == [(bad, True)]
    assert 0 < len(dead[0].reason) <= 8_000
    assert took < 1.0
    assert set(sys.modules) - modules <= {"encodings.utf_16"}


async def test_a_dead_letter_names_the_type_or_field_that_was_wrong(url: str) -> None:
    """PO-03, PO-09: the reason has the unknown name, and the path of the bad field; PO-04: blanks are shown."""
    async with running(url, shop_that_notes([])) as system:
        await insert(system, packet(type="never-heard-of"), packet(body={"items": [1, "x"]}), packet(type="  ", id="y"))
        await system.quiet()
        reasons = [letter.reason for letter in await system.dead()]

    assert "'never-heard-of'" in reasons[0]
    assert "$.items[1]" in reasons[1]
    assert "'  '" in reasons[2]


async def test_a_field_from_a_newer_version_is_tolerated(url: str) -> None:
    """PO-09: a field that this version does not know is left out."""
    seen: list[int] = []

    async with running(url, shop_that_notes(seen)) as system:
        await insert(system, packet(body={"number": 3, "colour": "red"}))
        await system.quiet()

    assert seen == [3]


async def test_a_message_of_sixteen_megabytes_arrives_and_a_damaged_one_is_kept(url: str) -> None:
    """PO-06: there is no limit to a message but the file's; one that cannot be read keeps its bytes."""
    seen: list[int] = []
    large = packet(body={"items": list(range(2_500_000))})
    damaged = large[:-3]

    async with running(url, shop_that_notes(seen)) as system:
        await insert(system, damaged, large)
        await system.quiet()
        [dead] = await system.dead()

    assert seen == [0]
    assert dead.packet == damaged


async def test_a_header_of_a_megabyte_leaves_no_long_line_behind(url: str) -> None:
    """PO-22: what is kept to be shown of a bad message stays under 8,000 characters."""
    async with running(url, shop_that_notes([])) as system:
        await insert(system, packet(type="x" * 1_000_000), packet(headers={"h": "x" * 1_000_000}, body=[]))
        await system.quiet()
        dead = await system.dead()

    assert all(len(letter.reason) <= 8_000 and len(letter.error) <= 8_000 for letter in dead)
    assert len(dead) == 2


class Stop(BaseException):
    """Nothing that `except Exception` would catch."""


def recurse(n: int = 0) -> int:
    return recurse(n + 1) + 1


def exits() -> None:
    sys.exit(3)


def raises(error: BaseException | type[BaseException]) -> Any:
    def fail() -> None:
        raise error

    return fail


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Loud(Exception):
    def __str__(self) -> str:
        return "x" * 10_000_000


def cyclic() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def chained() -> None:
    error = ValueError("0")
    for n in range(3_000):
        following = ValueError(str(n))
        following.__cause__ = error
        error = following
    raise error


VILE = {
    "SystemExit": exits,
    "KeyError": raises(KeyError("k")),
    "RecursionError": recurse,
    "MemoryError": raises(MemoryError()),
    "CancelledError": raises(asyncio.CancelledError()),
    "GeneratorExit": raises(GeneratorExit()),
    "StopIteration": raises(StopIteration(1)),
    "StopAsyncIteration": raises(StopAsyncIteration()),
    "TimeoutError": raises(TimeoutError()),
    "of its own": raises(Stop("mine")),
    "our Unavailable": raises(Unavailable("my shop is closed")),
    "our Conflict": raises(Conflict("of interests")),
    "sqlite3.OperationalError": raises(sqlite3.OperationalError("database is locked")),
    "without words": raises(Unspeakable()),
    "ten megabytes of text": raises(Loud()),
    "a circle of causes": cyclic,
    "three thousand causes": chained,
    "a group of a thousand": raises(BaseExceptionGroup("all", [Stop(str(n)) for n in range(1000)])),
    "half a surrogate": raises(ValueError("name \udc80 \ud800")),
    "a NUL": raises(ValueError("a\0b")),
    "with a lock inside": raises(ValueError(asyncio.Lock())),
}


@pytest.mark.parametrize("vile", VILE.values(), ids=VILE)
@pytest.mark.parametrize("how", ["async", "waiting", "thread"])
async def test_however_a_handler_fails_its_message_alone_is_set_aside(url: str, how: str, vile: Any) -> None:
    """PO-10, PO-11, PO-12, RC-18: three attempts, a bounded description, and its neighbours are handled once."""
    shop = Service("shop", retry=AT_ONCE)
    seen: list[int] = []

    if how == "thread":

        @shop.handles
        def work(command: Job) -> None:
            seen.append(command.number)
            if command.number == 13:
                vile()

    else:

        @shop.handles
        async def work_async(command: Job) -> None:
            seen.append(command.number)
            if how == "waiting":
                await asyncio.sleep(0)
            if command.number == 13:
                vile()

    async with running(url, shop) as system:
        await system.client.send_all(*[Job(number=number) for number in range(10, 20)])
        await system.quiet(within=5)
        [dead] = await system.dead()

    assert sorted(seen) == sorted([*range(10, 20), 13, 13])
    assert dead.attempts == 3
    assert 0 < len(dead.error) <= 8_000
    assert 0 < len(dead.traceback) <= 8_000


@pytest.mark.parametrize("vile", VILE.values(), ids=VILE)
async def test_however_a_workflow_fails_its_message_alone_is_set_aside(url: str, vile: Any) -> None:
    """PO-10, PO-11, PO-12, RC-18: its state stays, its neighbours' changes are committed."""

    class Process(Workflow, key="key"):
        total: int = 0

        @starts
        def begin(self, event: Begun) -> None:
            pass

        @on
        def go_on(self, event: Continued) -> Job:
            self.total += event.number
            if event.number == 13:
                vile()
            return Job(number=event.number)

    seen: list[int] = []
    flow = Service("flow", workflows=[Process], retry=AT_ONCE)

    async with running(url, flow, shop_that_notes(seen)) as system:
        await system.client.send_all(*[Begun(key=key) for key in "ab"])
        await system.client.send_all(
            *[
                Continued(key=key, number=number)
                for number in (1, 13, 100)
                for key in "ab"
                if (number, key) != (13, "b")
            ]
        )
        await system.quiet(within=5)
        [dead] = await system.dead()
        states = [(await system.state(key))["total"] for key in "ab"]
        interruptions = [signal for signal in system.signals if isinstance(signal, Interrupted)]

    assert states == [101, 101]
    assert sorted(seen) == [1, 1, 100, 100]
    assert dead.attempts == 3
    assert interruptions == []


@pytest.mark.parametrize("vile", VILE.values(), ids=VILE)
async def test_however_a_handler_in_the_transaction_fails_its_rows_alone_go(sqlite_url: str, vile: Any) -> None:
    """PO-10, PO-11, PO-12: rows of its neighbours are committed, its own are not."""
    shop = Service("shop", retry=AT_ONCE)

    @shop.handles
    async def work(command: Job, transaction: Transaction) -> Continued:
        await transaction.execute("INSERT INTO rows VALUES (?)", (command.number,))
        if command.number == 13:
            vile()
        return Continued(key="k")

    async with running(sqlite_url, shop) as system:
        system.execute("CREATE TABLE rows (number)")
        await system.client.send_all(*[Job(number=number) for number in range(10, 20)])
        await system.quiet(within=5)
        [dead] = await system.dead()
        rows = system.execute("SELECT number FROM rows ORDER BY number")
        interruptions = [signal for signal in system.signals if isinstance(signal, Interrupted)]

    assert [row[0] for row in rows] == [number for number in range(10, 20) if number != 13]
    assert dead.attempts == 3
    assert interruptions == []


def commits(connection: sqlite3.Connection) -> None:
    connection.commit()


def commits_by_statement(connection: sqlite3.Connection) -> None:
    connection.execute("COMMIT")


def ends_by_statement(connection: sqlite3.Connection) -> None:
    connection.execute("/* politely */ end transaction")


def rolls_back_by_statement(connection: sqlite3.Connection) -> None:
    connection.execute("ROLLBACK")


def commits_by_cursor(connection: sqlite3.Connection) -> None:
    connection.cursor().execute("COMMIT")


def commits_by_script(connection: sqlite3.Connection) -> None:
    connection.executescript("INSERT INTO rows VALUES (-1);")


def commits_by_cursor_script(connection: sqlite3.Connection) -> None:
    connection.cursor().executescript("INSERT INTO rows VALUES (-1);")


def commits_by_class(connection: sqlite3.Connection) -> None:
    sqlite3.Connection.commit(connection)


def commits_by_isolation_level(connection: sqlite3.Connection) -> None:
    connection.isolation_level = None


def commits_and_begins(connection: sqlite3.Connection) -> None:
    connection.execute("COMMIT")
    connection.execute("BEGIN IMMEDIATE")


def releases_our_savepoint(connection: sqlite3.Connection) -> None:
    connection.execute("RELEASE outlast_handler")


def closes(connection: sqlite3.Connection) -> None:
    connection.close()


def closes_by_class(connection: sqlite3.Connection) -> None:
    sqlite3.Connection.close(connection)


TREASON = [
    commits,
    commits_by_statement,
    ends_by_statement,
    rolls_back_by_statement,
    commits_by_cursor,
    commits_by_script,
    commits_by_cursor_script,
    commits_by_class,
    commits_by_isolation_level,
    commits_and_begins,
    releases_our_savepoint,
    closes,
]


@pytest.mark.parametrize("treason", TREASON)
@pytest.mark.parametrize("swallowed", [False, True], ids=["raised", "swallowed"])
async def test_a_handler_cannot_end_the_transaction(sqlite_url: str, treason: Any, swallowed: bool) -> None:
    """PO-12: whoever tries is refused; nothing of the failed attempt stays, and the others are committed."""
    shop = Service("shop", retry=AT_ONCE)

    @shop.handles
    async def work(command: Job, connection: sqlite3.Connection) -> Continued:
        connection.execute("INSERT INTO rows VALUES (?)", (command.number,))
        if command.number == 13:
            try:
                treason(connection)
            except Exception:
                if not swallowed:
                    raise
            raise ValueError("and then it fails")
        return Continued(key="k")

    async with running(sqlite_url, shop) as system:
        system.execute("CREATE TABLE rows (number)")
        await system.client.send_all(*[Job(number=number) for number in range(10, 20)])
        await system.quiet(within=5)
        dead = await system.dead()
        rows = system.execute("SELECT number FROM rows ORDER BY number")

    assert [row[0] for row in rows] == [number for number in range(10, 20) if number != 13]
    assert len(dead) == 1


async def test_a_part_of_a_handlers_rows_can_be_undone_by_itself(sqlite_url: str) -> None:
    """PO-12: `with connection:` and savepoints work inside the turn's transaction, as a part of it."""
    shop = Service("shop", retry=NO_RETRY)

    @shop.handles
    async def work(command: Job, connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO rows VALUES (1)")
        try:
            with connection:
                connection.execute("INSERT INTO rows VALUES (2)")
                raise ValueError("only this part")
        except ValueError:
            pass
        with connection:
            connection.execute("INSERT INTO rows VALUES (3)")
        connection.execute("SAVEPOINT mine")
        connection.execute("INSERT INTO rows VALUES (4)")
        connection.execute("ROLLBACK TO mine")
        connection.execute("RELEASE mine")
        if command.number:
            raise ValueError("all of it")

    async with running(sqlite_url, shop) as system:
        system.execute("CREATE TABLE rows (number)")
        await system.client.send_all(Job(number=0), Job(number=1))
        await system.quiet()
        dead = await system.dead()
        rows = system.execute("SELECT number FROM rows ORDER BY number")

    assert [row[0] for row in rows] == [1, 3]
    assert len(dead) == 1


async def test_a_handler_that_never_returns_is_cancelled_and_frees_its_place(url: str) -> None:
    """PO-15: the time limit counts as a failure, and the place is free again."""
    shop = Service("shop", retry=AT_ONCE)
    seen: list[int] = []

    @shop.handles(time_limit=timedelta(milliseconds=20))
    async def work(command: Job) -> None:
        if command.number == 13:
            await asyncio.get_running_loop().create_future()
        seen.append(command.number)

    async with running(url, shop, concurrency=1) as system:
        await system.client.send_all(Job(number=13), Job(number=1), Job(number=2))
        await system.quiet()
        [dead] = await system.dead()

    assert sorted(seen) == [1, 2]
    assert dead.attempts == 3
    assert "TimeLimitExceeded" in dead.error


async def test_a_handler_in_the_transaction_that_waits_is_refused(sqlite_url: str) -> None:
    """PO-15: it may not hold the file's only write transaction while it waits."""
    shop = Service("shop", retry=AT_ONCE)

    @shop.handles
    async def work(command: Job, transaction: Transaction) -> None:
        await transaction.execute("INSERT INTO rows VALUES (?)", (command.number,))
        if command.number == 13:
            await asyncio.sleep(0)

    async with running(sqlite_url, shop) as system:
        system.execute("CREATE TABLE rows (number)")
        await system.client.send_all(Job(number=13), Job(number=1))
        await system.quiet()
        [dead] = await system.dead()
        rows = system.execute("SELECT number FROM rows")

    assert [row[0] for row in rows] == [1]
    assert "waited for something else" in dead.reason


async def test_a_handler_that_blocks_the_loop_has_effect_once(url: str) -> None:
    """PO-16: while it blocks nothing else moves; afterwards all is handled once, though the lease ran out."""
    shop = Service("shop")
    seen: list[int] = []

    @shop.handles
    async def work(command: Job) -> Continued:
        if command.number == 13:
            time.sleep(0.3)
        seen.append(command.number)
        return Continued(key=str(command.number))

    hearing = Service("hearing")
    heard: list[str] = []

    @hearing.handles
    async def hear(event: Continued) -> None:
        heard.append(event.key)

    async with running(url, shop, hearing, lease=timedelta(milliseconds=100)) as system:
        await system.client.send_all(*[Job(number=number) for number in range(10, 20)])
        await system.quiet()

    assert sorted(heard) == [str(number) for number in range(10, 20)]


async def test_many_threads_may_block_and_others_still_get_one(url: str) -> None:
    """PO-15, PO-16: plain handlers run as many at a time as the worker allows, not as the machine has cores."""
    shop = Service("shop", retry=NO_RETRY)
    now = most = 0

    @shop.handles(time_limit=timedelta(milliseconds=700))
    def work(command: Job) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        time.sleep(0.1)
        now -= 1

    async with running(url, shop, concurrency=40) as system:
        await system.client.send_all(*[Job(number=number) for number in range(80)])
        await system.quiet()
        dead = await system.dead()

    assert dead == []
    assert most > 30


@pytest.mark.complains
async def test_a_task_that_a_handler_left_behind_cannot_hurt_the_worker(url: str) -> None:
    """PO-18: it fails later, the loop is told, and the worker goes on."""
    shop = Service("shop")
    seen: list[int] = []
    tasks: list[asyncio.Task[None]] = []

    async def fails_later() -> None:
        await asyncio.sleep(0)
        raise ValueError("later")

    @shop.handles
    async def work(command: Job) -> None:
        seen.append(command.number)
        if command.number == 13:
            tasks.append(asyncio.ensure_future(fails_later()))

    async with running(url, shop) as system:
        await system.client.send(Job(number=13))
        await system.quiet()
        await until(lambda: tasks[0].done())
        await system.client.send(Job(number=1))
        await system.quiet()
        assert await system.dead() == []

    assert seen == [13, 1]
    tasks.clear()


async def test_what_one_receiver_does_to_a_message_the_next_does_not_see(url: str) -> None:
    """PO-19, RC-06: a handler and two workflows that change the lists in their message get one each."""

    class First(Workflow, key="key"):
        items: list[int] = []

        @starts
        def begin(self, event: Begun) -> None:
            event.items.append(98)
            self.items = event.items

    class Second(Workflow, key="key"):
        items: list[int] = []

        @starts
        def begin(self, event: Begun) -> None:
            event.items.append(99)
            self.items = event.items

    shop = Service("shop", workflows=[First, Second])
    seen: list[list[int]] = []

    @shop.handles
    async def hear(event: Begun) -> None:
        event.items.append(97)
        seen.append(event.items)

    async with running(url, shop) as system:
        await system.client.publish(Begun(key="k", items=[1]))
        await system.quiet()
        from outlast.engines import inspector_of

        instances = await inspector_of(system.engine).instances(key="k", done=None, limit=9)
        states = sorted(msgspec.json.decode(instance.state)["state"]["items"] for instance in instances)

    assert seen == [[1, 97]]
    assert states == [[1, 98], [1, 99]]


async def test_a_mutated_message_is_retried_and_kept_as_it_was_sent(url: str) -> None:
    """RC-06, PO-19: the next attempt and the dead letter have the original."""
    shop = Service("shop", retry=AT_ONCE)
    seen: list[list[int]] = []

    @shop.handles
    async def work(command: Job) -> None:
        seen.append(list(command.items))
        command.items.clear()
        raise ValueError("after spoiling it")

    async with running(url, shop) as system:
        await system.client.send(Job(items=[1, 2]))
        await system.quiet()
        [dead] = await system.dead()

    assert seen == [[1, 2]] * 3
    assert b'"items":[1,2]' in dead.packet


async def test_a_key_that_cannot_be_stored_costs_only_its_message(url: str) -> None:
    """PO-02, PO-12: half a surrogate from a key function, an error inside it, and the neighbour is handled."""

    def key_of(event: Continued) -> object:
        if event.number == 1:
            return "\ud800"
        if event.number == 2:
            raise ZeroDivisionError("in the key")
        return event.key

    class Process(Workflow, key="key"):
        total: int = 0

        @starts(key=key_of)
        def begin(self, event: Continued) -> None:
            self.total += 1

    flow = Service("flow", workflows=[Process], retry=AT_ONCE)
    async with running(url, flow) as system:
        await system.client.send_all(*[Continued(key=str(number), number=number) for number in range(4)])
        await system.quiet(within=5)
        dead = await system.dead()
        assert (await system.state("0")) == (await system.state("3")) == {"total": 1}
        interruptions = [signal for signal in system.signals if isinstance(signal, Interrupted)]

    assert len(dead) == 2
    assert interruptions == []


async def test_an_observer_that_fails_does_not_harm_the_work(url: str) -> None:
    """PO-12: what only looks on cannot lose or double a message."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))

    def fails(signal: object) -> None:
        raise ValueError("the log is full")

    shop = Service("shop", retry=AT_ONCE)
    seen: list[int] = []

    @shop.handles
    async def work(command: Job) -> None:
        seen.append(command.number)

    async with running(url, shop, observe=fails) as system:
        await system.client.send_all(*[Job(number=number) for number in range(10)])
        await system.quiet(within=5)

    assert sorted(seen) == list(range(10))
    assert complaints


async def test_what_is_no_message_is_not_sent(url: str) -> None:
    """PO-09: a handler that returns something else fails, with what it returned in the reason."""
    shop = Service("shop")

    @shop.handles
    async def work(command: Job) -> Continued:
        return {"key": "k"}  # type: ignore[return-value]

    @shop.handles
    async def serve(command: Ticket, context: Context) -> list[Continued]:
        return [Continued(key="k"), "and more"]  # type: ignore[list-item]

    async with running(url, shop) as system:
        await system.client.send_all(Job(), Ticket())
        await system.quiet()
        dead = await system.dead()

    assert len(dead) == 2
    assert all("which is no message" in letter.reason for letter in dead)


TENANT: ContextVar[str] = ContextVar("TENANT", default="nobody")


@pytest.mark.parametrize("how", ["async", "waiting", "thread", "transaction"])
async def test_context_variables_of_one_message_do_not_leak_into_the_next(sqlite_url: str, how: str) -> None:
    """PO-19: what a handler sets (a tenant, a log field) is gone when the next one begins."""
    shop = Service("shop")
    seen: list[str] = []

    if how == "thread":

        @shop.handles
        def work(command: Job) -> None:
            seen.append(TENANT.get())
            TENANT.set(f"tenant {command.number}")

    elif how == "transaction":

        @shop.handles
        async def work_on_rows(command: Job, transaction: Transaction) -> None:
            seen.append(TENANT.get())
            TENANT.set(f"tenant {command.number}")

    else:

        @shop.handles
        async def work_async(command: Job) -> None:
            seen.append(TENANT.get())
            token = TENANT.set(f"tenant {command.number}")
            if how == "waiting":
                await asyncio.sleep(0.001)
                assert TENANT.get() == f"tenant {command.number}"
                TENANT.reset(token)

    async with running(sqlite_url, shop) as system:
        await system.client.send_all(*[Job(number=number) for number in range(10)])
        await system.client.send_all(*[Job(number=number) for number in range(10)])
        await system.quiet()
        assert await system.dead() == []

    assert seen == ["nobody"] * 20


async def test_a_plain_generator_does_its_work_in_the_thread(url: str) -> None:
    """PO-16: its body runs where it may block, and what it yields is sent."""
    shop = Service("shop")
    threads: list[str] = []
    heard: list[str] = []

    @shop.handles
    def work(command: Job) -> Iterator[Continued]:
        for number in range(3):
            threads.append(threading.current_thread().name)
            yield Continued(key=str(number))

    @shop.handles
    async def hear(event: Continued) -> None:
        heard.append(event.key)

    async with running(url, shop) as system:
        await system.client.send(Job())
        await system.quiet()

    assert sorted(heard) == ["0", "1", "2"]
    assert threading.main_thread().name not in threads
