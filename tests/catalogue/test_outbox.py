"""OB: what a turn sends is committed with it, under ids that tell a repeated call from a new one."""

import asyncio
import sqlite3
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from outlast import Client, Command, Event, Service, Transaction, Workflow, starts
from outlast.core.naming import open_packet
from outlast.engines import inspector_of, open_engine
from outlast.errors import BadHandler, Misuse
from outlast.ports import Changes, Parcel
from tests.system import AT_ONCE, MovableWorld, running


class Job(Command[None], to="shop"):
    number: int = 0


class Done(Event):
    number: int
    note: Any = None


def listener(heard: list[int], name: str = "listener") -> Service:
    service = Service(name)

    @service.handles
    async def hear(event: Done) -> None:
        heard.append(event.number)

    return service


def path_of(url: str) -> str:
    return url.removeprefix("sqlite:///").partition("?")[0]


async def test_what_cannot_be_written_is_not_sent_and_neither_are_its_siblings(url: str) -> None:
    """OB-20: the second of three messages cannot be encoded: nothing leaves, from a handler or a workflow."""
    odd = [object(), "half \ud800", {1: {2, object()}}, 1j]

    class Process(Workflow, key="number"):
        @starts
        def begun(self, event: Done) -> list[Job | Done]:
            return [Job(number=1), Done(number=2, note=odd[event.number % 4]), Job(number=3)]

    flow = Service("flow", workflows=[Process], retry=AT_ONCE)
    shop = Service("shop", retry=AT_ONCE)
    heard: list[int] = []

    @shop.handles
    async def work(command: Job) -> list[Done]:
        note = odd[command.number % 4]
        return [Done(number=-1), Done(number=-2, note=note), Done(number=-3)]

    async with running(url, flow) as system:
        await system.client.send_all(*[Done(number=number) for number in range(4)])
        await system.quiet()
        assert len(await system.dead()) == 4
    async with running(url, shop, listener(heard)) as system:
        await system.client.send_all(*[Job(number=number) for number in range(4)])
        await system.quiet()
        assert len(await system.dead()) == 8
        found = await inspector_of(system.engine).instances(key="", done=None, limit=9)

    assert heard == []
    assert list(found) == []


async def test_a_call_that_cannot_be_written_sends_nothing(url: str) -> None:
    """OB-20: `send_all` is all or nothing too."""
    async with running(url, Service("shop")) as system:
        with pytest.raises(TypeError):
            await system.client.send_all(Job(number=1), Done(number=2, note=object()), Job(number=3))
        assert await system.engine.receive("shop", 9) == []


async def test_a_repeated_call_with_an_id_sends_once(url: str) -> None:
    """OB-02, OB-05: also later, also when the first was handled long ago, also from two clients at once."""
    shop = Service("shop")
    seen: list[int] = []

    @shop.handles
    async def work(command: Job) -> None:
        seen.append(command.number)

    async with running(url, shop) as system:
        await asyncio.gather(*[system.client.send(Job(number=1), id="one") for _ in range(10)])
        await system.quiet()
        other = Client(engine=system.engine, world=system.worker.world)
        async with other:
            await other.send(Job(number=1), id="one")
            await other.send(Job(number=2), id="two")
        await system.quiet()

    assert seen == [1, 2]


async def test_after_its_retention_an_id_is_new_again(url: str) -> None:
    """OB-15: within the retention a repeated call is harmless; after the cleaning it is a new message."""
    seen: list[int] = []
    shop = Service("shop")
    world = MovableWorld()

    @shop.handles
    async def work(command: Job) -> None:
        seen.append(command.number)

    async with running(url, shop, world=world) as system:
        inspector = inspector_of(system.engine)
        await system.client.send(Job(number=1), id="one")
        await inspector.clean(world.now(), world.now() - timedelta(days=7), 100)
        await system.client.send(Job(number=1), id="one")
        await system.quiet()
        assert seen == [1]
        world.ahead = timedelta(days=8)
        await inspector.clean(world.now(), world.now() - timedelta(days=7), 100)
        await system.client.send(Job(number=1), id="one")
        await system.quiet()

    assert seen == [1, 1]


async def test_a_message_keeps_its_id_headers_and_date_through_a_restart(sqlite_url: str) -> None:
    """OB-08, OB-09, OB-01: what was committed by one process is delivered as it was by another."""
    odd = {"quote\"'": "line\nbreak", "♥": "\U0001f600", "drop": "'); DROP TABLE outlast_dated; --"}
    world = MovableWorld()
    async with Client(sqlite_url, world=world, headers=odd, name="teller") as client:
        sent = await client.send(Job(number=4), after=timedelta(hours=1))
    engine, _ = open_engine(sqlite_url, world)
    await engine.declare("shop", [])
    await engine.relay(world.now(), 10)
    assert await engine.receive("shop", 9) == []
    world.ahead = timedelta(hours=1, seconds=1)
    await engine.relay(world.now(), 10)
    [delivery] = await engine.receive("shop", 9)
    await engine.close()

    envelope = open_packet(delivery.packet)
    assert (envelope.id, dict(envelope.headers), envelope.sender) == (sent.id, odd, "teller")


async def test_every_subscriber_gets_an_event_once(url: str) -> None:
    """OB-10, PS-01, PS-02, PS-08: two services in one database, one of them in two workers."""
    heard: dict[str, list[int]] = {"a": [], "b": []}
    async with running(url, listener(heard["a"], "a")) as system, running(url, listener(heard["b"], "b")):
        async with running(url, listener(heard["b"], "b")):
            await system.client.send_all(*[Done(number=number) for number in range(50)])
            await system.quiet()

    assert {name: sorted(numbers) for name, numbers in heard.items()} == {
        "a": list(range(50)),
        "b": list(range(50)),
    }


async def test_a_subscriber_that_is_away_gets_its_events_when_it_is_back(url: str) -> None:
    """PS-03: a hundred of them, from when it was first there."""
    heard: list[int] = []
    async with running(url, Service("other")) as system:
        async with running(url, listener(heard)):
            pass
        await system.client.send_all(*[Done(number=number) for number in range(100)])
        async with running(url, listener(heard)):
            await system.quiet()

    assert sorted(heard) == list(range(100))


async def test_an_error_right_after_the_commit_takes_nothing_back(url: str) -> None:
    """OB-07: the turn is committed, then its acknowledgement fails: what it sent is there, and nothing runs twice."""
    runs: list[int] = []
    heard: list[int] = []
    shop = Service("shop")

    @shop.handles
    async def work(command: Job) -> Done:
        runs.append(command.number)
        return Done(number=command.number)

    async with running(url, shop, listener(heard)) as system:
        original, failures = system.engine.acknowledge, 0

        async def fails(service: str, deliveries: Any) -> None:
            nonlocal failures
            failures += 1
            if failures % 2:
                raise ConnectionError("just after the commit")
            await original(service, deliveries)

        system.engine.acknowledge = fails  # type: ignore[method-assign]
        await system.client.send_all(*[Job(number=number) for number in range(10)])
        await system.quiet()

    assert failures > 1
    assert sorted(heard) == list(range(10))
    assert sorted(set(runs)) == list(range(10))


async def test_a_transaction_of_the_callers_own_is_all_or_nothing(sqlite_url: str) -> None:
    """OB-22, OB-04: rows and messages of one block commit together; an exception undoes both."""
    shop = Service("shop")
    seen: list[int] = []

    @shop.handles
    async def work(command: Job) -> None:
        seen.append(command.number)

    async with running(sqlite_url, shop) as system:
        connection = sqlite3.connect(path_of(sqlite_url))
        connection.execute("CREATE TABLE orders (id INTEGER)")
        connection.commit()
        async with system.client.transaction(connection) as outgoing:
            connection.execute("INSERT INTO orders VALUES (1)")
            outgoing.send(Job(number=1))
            outgoing.send(Job(number=2))
        with pytest.raises(ValueError, match="on second thought"):
            async with system.client.transaction(connection) as outgoing:
                connection.execute("INSERT INTO orders VALUES (2)")
                outgoing.send(Job(number=3))
                raise ValueError("on second thought")
        with pytest.raises(Misuse, match="before its messages were written"):
            async with system.client.transaction(connection) as outgoing:
                connection.execute("INSERT INTO orders VALUES (3)")
                outgoing.send(Job(number=4))
                connection.commit()
        async with system.client.transaction(connection) as outgoing:
            outgoing.send(Job(number=5))
        await system.quiet()
        rows = connection.execute("SELECT id FROM orders").fetchall()
        connection.close()

    assert sorted(seen) == [1, 2, 5]
    assert rows == [(1,), (3,)]


async def test_a_connection_that_is_closed_in_the_block_holds_nobody_up(sqlite_url: str) -> None:
    """OB-22: the engine goes on, whatever the caller did to his connection."""
    async with running(sqlite_url, Service("shop")) as system:
        connection = sqlite3.connect(path_of(sqlite_url))
        with pytest.raises(sqlite3.ProgrammingError):
            async with system.client.transaction(connection) as outgoing:
                outgoing.send(Job(number=1))
                connection.close()
        async with asyncio.timeout(2):
            await system.client.send(Job(number=2))


async def test_a_transaction_that_the_engine_cannot_share_is_refused(url: str, tmp_path: Path) -> None:
    """OB-18, OB-22: another file, a transaction already begun, an engine without a database."""
    connection = sqlite3.connect(tmp_path / "other.db")
    async with running(url, Service("other")) as system:
        with pytest.raises(Misuse):
            async with system.client.transaction(connection):
                pass
        if url.startswith("sqlite"):
            own = sqlite3.connect(path_of(url), isolation_level=None)
            own.execute("BEGIN")
            with pytest.raises(Misuse, match="in a transaction already"):
                async with system.client.transaction(own):
                    pass
            own.close()
    connection.close()


async def test_a_handler_that_needs_a_transaction_needs_an_engine_with_one() -> None:
    """OB-18: refused at the start, with the handler's name and what to use instead."""
    shop = Service("shop")

    @shop.handles
    async def work(command: Job, transaction: Transaction) -> None: ...

    with pytest.raises(BadHandler, match=r"sqlite:///file\.db"):
        async with running("memory://needs-a-transaction", shop):
            pass


async def test_handling_is_as_fast_with_a_long_history(sqlite_url: str) -> None:
    """OB-16: a hundred thousand ids and letters of the past, cleaned in portions meanwhile, double no latency."""
    shop = Service("shop")
    done = asyncio.Event()

    @shop.handles
    async def work(command: Job) -> None:
        done.set()

    async def median(client: Client) -> float:
        took = []
        for number in range(30):
            done.clear()
            began = time.perf_counter()
            await client.send(Job(number=number))
            await done.wait()
            took.append(time.perf_counter() - began)
        return sorted(took)[15]

    world = MovableWorld()
    async with running(sqlite_url, shop, world=world) as system:
        before = await median(system.client)
        work_ = await system.engine.begin("")
        parcels = [Parcel(f"p{n}", b"{}", topic="nobody", once=True) for n in range(100_000)]
        await work_.commit(Changes(parcels=parcels))
        world.ahead = timedelta(days=30)
        inspector = inspector_of(system.engine)
        removed = 0

        async def cleaning() -> None:
            nonlocal removed
            while gone := await inspector.clean(world.now(), world.now() - timedelta(days=7), 500):
                removed += gone
                await asyncio.sleep(0.001)

        cleaner = asyncio.create_task(cleaning())
        during = await median(system.client)
        await cleaner
        left = system.execute("SELECT count(*) FROM outlast_sent")[0][0]

    assert removed >= 100_000
    assert left == 0
    assert during < before * 4 + 0.01


async def test_a_send_that_would_wait_for_its_own_block_is_refused(sqlite_url: str) -> None:
    """OB-22: with what to write instead; the block is undone, and the next one works."""
    async with running(sqlite_url, Service("other")) as system:
        connection = sqlite3.connect(path_of(sqlite_url))
        with pytest.raises(Misuse, match=r"outgoing\.send"):
            async with asyncio.timeout(2), system.client.transaction(connection):
                await system.client.send(Job(number=1))
        async with system.client.transaction(connection) as outgoing:
            outgoing.send(Job(number=2))
        connection.close()
        assert len(await system.engine.receive("shop", 9)) == 1
