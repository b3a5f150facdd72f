"""`outlast move`: what is under way on a file is carried on elsewhere, and nothing is done in both places."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from outlast import Client, Command, Event, Failed, Retry, Service, Worker, Workflow, on, starts
from outlast.cli.group import run
from outlast.engines import inspector_of
from outlast.errors import Misuse, Unavailable
from outlast.moving import move
from outlast.operations import Operations
from outlast.ports import Address, Changes, Saved

PATIENCE_SECONDS = 20


class TripBooked(Event):
    trip_id: str


class PayTrip(Command["TripPaid"], to="bank"):
    trip_id: str


class TripPaid(Event):
    trip_id: str


class TripOver(Event):
    trip_id: str


class Hurry(Command[None], to="bank"):
    trip_id: str


class Trip(Workflow, key="trip_id"):
    paid: bool = False
    given_up: bool = False

    @starts
    def booked(self, event: TripBooked) -> PayTrip:
        self.after(timedelta(seconds=2), TripOver(trip_id=event.trip_id))
        return PayTrip(trip_id=event.trip_id)

    @on
    def was_paid(self, event: TripPaid) -> None:
        self.paid = True

    @on
    def failed(self, event: Failed[PayTrip]) -> None:
        self.given_up = True

    @on
    def over(self, event: TripOver) -> None:
        self.complete()


travel = Service("travel", workflows=[Trip])


def bank(seen: list[str]) -> Service:
    service = Service("bank", retry=Retry(immediate=0, delayed=0))

    @service.handles
    async def pay(command: PayTrip) -> TripPaid:
        seen.append(command.trip_id)
        return TripPaid(trip_id=command.trip_id)

    @service.handles
    async def hurry(command: Hurry) -> None:
        raise ValueError("no time")

    return service


@pytest.fixture
def source(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'old.db'}"


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres_database")
        return url
    return f"sqlite:///{tmp_path / 'new.db'}"


async def set_out(source: str) -> None:
    """Ten trips: the bank has not seen five of them; a timer each, a dead letter, and a message given with its id."""
    async with Worker([travel, bank([])], url=source) as worker:
        assert worker.engine is not None
        async with Client(engine=worker.engine, world=worker.world) as client:
            await client.send_all(*[TripBooked(trip_id=f"early-{n}") for n in range(5)])
            await client.send(Hurry(trip_id="x"), id="hurry-once")
            operations = Operations(inspector_of(worker.engine), client.world)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not (await operations.failures() and await paid(worker, 5)):
                    await asyncio.sleep(0.02)
    async with Worker([travel], url=source) as worker:
        assert worker.engine is not None
        async with Client(engine=worker.engine, world=worker.world) as client:
            await client.send_all(*[TripBooked(trip_id=f"late-{n}") for n in range(5)])
            async with asyncio.timeout(PATIENCE_SECONDS):
                while sum(q.waiting for q in await inspector_of(worker.engine).queues() if q.service == "bank") < 5:
                    await asyncio.sleep(0.02)


async def paid(worker: Worker, count: int) -> bool:
    assert worker.engine is not None
    found = await inspector_of(worker.engine).instances(key="", done=None, limit=99)
    return sum(b'"paid":true' in bytes(instance.state) for instance in found) >= count


async def test_what_is_under_way_is_carried_on_at_the_target(source: str, target: str) -> None:
    await set_out(source)

    counts = await move(source, target, progress=lambda counts: None)

    assert counts["saved"] == 10
    assert counts["dead"] == 1
    assert counts["history"] > 10
    seen: list[str] = []
    async with Worker([travel, bank(seen)], url=target) as worker:
        assert worker.engine is not None
        inspector = inspector_of(worker.engine)
        async with Client(engine=worker.engine, world=worker.world) as client:
            await client.send(Hurry(trip_id="x"), id="hurry-once")
            async with asyncio.timeout(PATIENCE_SECONDS):
                while await inspector.instances(key="", done=False, limit=9):
                    await asyncio.sleep(0.05)
        assert await paid(worker, 10)
        assert len(await inspector.dead_letters(status="open", id="", limit=9)) == 1
        lines = await inspector.history(conversation="", after=0, limit=999)
    assert sorted(seen) == [f"late-{n}" for n in range(5)]
    assert sum(entry.packet != b"" for _, entry in lines) == len(lines)


async def test_a_file_that_was_left_is_of_no_use_to_anybody(source: str, tmp_path: Path) -> None:
    """Also not to a process that has it open: its message is refused, and so not lost."""
    target = f"sqlite:///{tmp_path / 'new.db'}"
    async with Client(source) as late:
        await late.publish(TripBooked(trip_id="before"))
        await move(source, target, progress=lambda counts: None)

        with pytest.raises(Unavailable):
            await late.publish(TripBooked(trip_id="after"))

    with pytest.raises(Unavailable, match=r"was left for sqlite:.*new\.db"):
        async with Client(source):
            pass
    for again in (target, f"sqlite:///{tmp_path / 'third.db'}"):
        with pytest.raises(Misuse, match="was moved to"):
            await move(source, again, progress=lambda counts: None)


async def test_a_move_that_was_interrupted_is_done_again_with_an_empty_target(source: str, tmp_path: Path) -> None:
    await set_out(source)

    class Cut(Exception):
        pass

    def cut(counts: object) -> None:
        raise Cut

    with pytest.raises(Cut):
        await move(source, f"sqlite:///{tmp_path / 'new.db'}", progress=cut)
    with pytest.raises(Unavailable, match="run the same command once more"):
        async with Client(source):
            pass
    for path in tmp_path.glob("new.db*"):
        if path.is_file():
            path.unlink()

    counts = await move(source, f"sqlite:///{tmp_path / 'new.db'}", progress=lambda counts: None)

    assert counts["saved"] == 10


async def test_a_target_that_is_in_use_is_refused_and_the_file_goes_on(source: str, tmp_path: Path) -> None:
    await set_out(source)
    target = f"sqlite:///{tmp_path / 'new.db'}"
    async with Client(target) as client:
        work = await client.engine.begin("travel")
        await work.commit(Changes(saved=[Saved(Address("travel", "trip", "1"), b"{}", 0, "c")]))

    with pytest.raises(Misuse, match="has messages or instances already"):
        await move(source, target, progress=lambda counts: None)

    async with Client(source) as client:
        await client.publish(TripBooked(trip_id="still here"))


async def test_a_file_whose_services_run_is_not_left(source: str, tmp_path: Path) -> None:
    async with Worker([travel], url=source):
        with pytest.raises(Misuse, match="travel run on"):
            await move(source, f"sqlite:///{tmp_path / 'new.db'}", progress=lambda counts: None)


async def test_the_command_tells_what_it_moved(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await set_out(source)

    code = await asyncio.to_thread(run, ["move", source, f"sqlite:///{tmp_path / 'new.db'}"])

    assert code == 0
    assert "10  instances" in capsys.readouterr().out


def test_the_services_own_tables_stay(source: str, tmp_path: Path) -> None:
    path = tmp_path / "old.db"

    async def make() -> None:
        async with Client(source) as client, client.transaction() as transaction:
            await transaction.execute("CREATE TABLE mine (id TEXT)")
            await transaction.execute("INSERT INTO mine VALUES ('1')")

    asyncio.run(make())
    asyncio.run(move(source, f"sqlite:///{tmp_path / 'new.db'}", progress=lambda counts: None))

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT id FROM mine").fetchall() == [("1",)]
