"""TO: a timer fires once, never early, and not at all once it is cancelled."""

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from outlast import Client, Command, Context, Event, Service, Worker, Workflow, on, starts
from outlast.core.naming import open_packet
from outlast.engines import inspector_of, open_engine
from outlast.errors import Misuse
from outlast.ports import Changes, Parcel
from tests.system import MovableWorld, System, running, until

SOON = timedelta(milliseconds=60)
DAY = timedelta(days=1)


class Ring(Command[None], to="clock"):
    number: int = 0
    text: str = ""


class Opened(Event):
    key: str


class Closed(Event):
    key: str


class Overdue(Event):
    key: str
    number: int = 0


class Rung(Event):
    key: str
    number: int = 0


def clock(heard: list[tuple[int, float]]) -> Service:
    service = Service("clock")

    @service.handles
    async def ring(command: Ring) -> None:
        heard.append((command.number, time.monotonic()))

    return service


def listener(heard: list[tuple[str, int]]) -> Service:
    service = Service("listener")

    @service.handles
    async def hear(event: Rung) -> None:
        heard.append((event.key, event.number))

    return service


class Waiting(Workflow, key="key"):
    """Waits a day, unless it is closed before."""

    rung: int = 0

    @starts
    def opened(self, event: Opened) -> None:
        self.after(DAY, Overdue(key=event.key))

    @on
    def overdue(self, event: Overdue) -> Rung:
        self.rung += 1
        return Rung(key=self.key, number=event.number)

    @on
    def closed(self, event: Closed) -> None:
        self.complete()


async def test_what_is_dated_comes_at_its_time_and_not_before(url: str) -> None:
    """TO-01: sent with a delay or a date, it is not early by a millisecond, and soon there."""
    heard: list[tuple[int, float]] = []
    async with running(url, clock(heard)) as system:
        began = time.monotonic()
        await system.client.send(Ring(number=1), after=SOON)
        await system.client.send(Ring(number=2), at=datetime.now(UTC) + SOON * 2)
        await until(lambda: len(heard) == 2)

    assert [number for number, _ in heard] == [1, 2]
    assert 0.06 <= heard[0][1] - began < 0.5
    assert 0.12 <= heard[1][1] - began < 0.6


async def test_the_past_is_now(url: str) -> None:
    """TO-02: a negative delay or a date that has passed delivers at once; in a workflow too."""

    class Late(Workflow, key="key"):
        rung: int = 0

        @starts
        def opened(self, event: Opened) -> None:
            self.after(-DAY, Overdue(key=event.key))

        @on
        def overdue(self, event: Overdue) -> None:
            self.rung += 1

    heard: list[tuple[int, float]] = []
    async with running(url, clock(heard), Service("s", workflows=[Late])) as system:
        await system.client.send(Ring(number=1), after=-DAY)
        await system.client.send(Ring(number=2), at=datetime(1999, 1, 1, tzinfo=UTC))
        await system.client.publish(Opened(key="k"))
        await system.quiet()
        assert (await system.state("k"))["rung"] == 1

    assert sorted(number for number, _ in heard) == [1, 2]


async def test_a_due_letter_whose_turn_was_not_committed_is_offered_again(url: str) -> None:
    """TO-03: moved into its queue in one transaction, and there until a turn has handled it."""
    engine, world = open_engine(url)
    await engine.declare("clock", [])
    async with Client(engine=engine, world=world) as client:
        await client.send(Ring(number=1), after=timedelta(milliseconds=1))
    await asyncio.sleep(0.005)
    for _ in range(3):
        await engine.relay(world.now(), 10)

    [first] = await engine.receive("clock", 10)
    work = await engine.begin("clock")
    await work.rollback()
    [again] = await engine.receive("clock", 10)
    await engine.close()

    assert again == first


async def test_a_dated_message_arrives_as_it_was_sent(url: str) -> None:
    """TO-04: body, headers and id, a year later."""
    world = MovableWorld()
    odd = {"é": 'a"b\n', "♥": "\U0001f600"}
    seen: list[tuple[str, dict[str, str], str]] = []
    service = Service("clock")

    @service.handles
    async def ring(command: Ring, context: Context) -> None:
        seen.append((context.message_id, dict(context.headers), command.text))

    async with running(url, service, world=world) as system:
        async with Client(engine=system.engine, world=world, headers=odd) as client:
            sent = await client.send(Ring(text="\0\x7fü"), after=timedelta(days=365))
        assert seen == []
        world.ahead = timedelta(days=366)
        await system.quiet()

    assert seen == [(sent.id, odd, "\0\x7fü")]


async def test_timers_reach_the_instance_that_set_them_each_once(url: str) -> None:
    """TO-05: three timers each on a hundred instances of two workflows that share the message."""

    def workflow(its_name: str) -> type[Workflow]:
        class Timed(Workflow, key="key", name=its_name):
            rung: list[int] = []

            @starts
            def opened(self, event: Opened) -> None:
                for number in range(3):
                    self.after(DAY * (number + 1), Overdue(key="nobody", number=number), name=f"t{number}")

            @on
            def overdue(self, event: Overdue) -> None:
                self.rung.append(event.number)

        return Timed

    world = MovableWorld()
    services = [Service(name, workflows=[workflow(name)]) for name in ("a", "b")]
    async with running(url, *services, world=world) as system:
        await system.client.send_all(*[Opened(key=f"k{n}") for n in range(100)])
        await system.quiet(dated=False)
        world.ahead = DAY * 5
        await system.quiet()
        found = await inspector_of(system.engine).instances(key="", done=None, limit=999)
        rung = [msgspec.json.decode(i.state)["state"]["rung"] for i in found]

    assert rung == [[0, 1, 2]] * 200


async def test_a_timer_of_a_completed_instance_is_gone(url: str) -> None:
    """TO-06: nothing fires, nothing is set aside, and nothing is left in the table."""
    world = MovableWorld()
    heard: list[tuple[str, int]] = []
    async with running(url, Service("s", workflows=[Waiting]), listener(heard), world=world) as system:
        await system.client.publish(Opened(key="k"))
        await system.quiet(dated=False)
        [_, queue] = await inspector_of(system.engine).queues()
        assert queue.dated == 1
        await system.client.publish(Closed(key="k"))
        await system.quiet()
        world.ahead = DAY * 2
        await asyncio.sleep(0.05)
        await system.quiet()
        assert await system.dead() == []

    assert heard == []


async def test_a_date_on_a_message_is_not_passed_on(url: str) -> None:
    """TO-07: what a dated message leads to is sent at once."""
    world = MovableWorld()
    heard: list[tuple[int, float]] = []

    class Begin(Command[None], to="starter"):
        number: int

    starter = Service("starter")

    @starter.handles
    async def begin(command: Begin) -> Ring:
        return Ring(number=command.number)

    async with running(url, starter, clock(heard), world=world) as system:
        await system.client.send(Begin(number=5), after=DAY)
        world.ahead = DAY * 1.1
        await system.quiet()

    assert [number for number, _ in heard] == [5]


async def test_any_delay_that_a_calendar_has_is_accepted(url: str) -> None:
    """TO-08: no engine limit below the year 9999; beyond it the call itself fails, and nothing is sent."""
    async with running(url, clock([])) as system:
        await system.client.send(Ring(), at=datetime.max.replace(tzinfo=UTC))
        await system.client.send(Ring(), after=timedelta(days=365 * 5000))
        with pytest.raises(OverflowError):
            await system.client.send(Ring(), after=timedelta.max)
        [queue] = await inspector_of(system.engine).queues()

    assert queue.dated == 2


async def test_what_fell_due_while_nobody_was_there_fires_once_at_the_start(sqlite_url: str) -> None:
    """TO-10: the service was down at the time."""
    heard: list[tuple[str, int]] = []
    async with running(sqlite_url, Service("s", workflows=[Waiting])) as system:
        await system.client.publish(Opened(key="k"))
        await system.quiet(dated=False)
    world = MovableWorld()
    world.ahead = DAY * 30
    async with running(sqlite_url, Service("s", workflows=[Waiting]), listener(heard), world=world) as system:
        await system.quiet()
        await asyncio.sleep(0.02)
        await system.quiet()

    assert heard == [("k", 0)]


async def test_several_relays_fire_a_timer_once(url: str) -> None:
    """TO-11: four workers with a relay each, a thousand timers, one effect for each."""
    heard: list[tuple[str, int]] = []
    world = MovableWorld()
    workers = [
        Worker([Service("s", workflows=[Waiting])], url=url, world=world, poll=timedelta(milliseconds=5))
        for _ in range(4)
    ]
    async with workers[0], workers[1], workers[2], workers[3], running(url, listener(heard), world=world) as system:
        await system.client.send_all(*[Opened(key=f"k{n}") for n in range(1000)])
        await system.quiet(dated=False)
        world.ahead = DAY * 2
        await system.quiet()

    assert Counter(heard) == {(f"k{n}", 0): 1 for n in range(1000)}


JUMPS = """
import asyncio, os, sys, time
from datetime import UTC, datetime, timedelta
from outlast import Client, Worker
from tests.catalogue.test_time import Ring, clock

async def main():
    heard = []
    async with Worker([clock(heard)], url=sys.argv[1]), Client(sys.argv[1]) as client:
        before = datetime.now(UTC)
        await client.send(Ring(number=2), after=timedelta(hours=2))
        await client.send(Ring(number=1), after=timedelta(minutes=30))
        await asyncio.sleep(0.1)
        assert heard == []
        with open(os.environ["FAKETIME_TIMESTAMP_FILE"], "w") as file:
            file.write("+1h")
        began = time.monotonic()
        await asyncio.sleep(0.4)
        assert 0.39 < time.monotonic() - began < 1.5, "sleeping follows the monotonic clock"
        assert timedelta(minutes=59) < datetime.now(UTC) - before < timedelta(minutes=61)
        print([number for number, _ in heard])

asyncio.run(main())
"""

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@pytest.mark.skipif(FAKETIME is None, reason="TO-12 needs the library faketime (apt install libfaketime)")
def test_when_the_wall_clock_jumps_only_what_is_due_by_it_fires(sqlite_url: str, tmp_path: Path) -> None:
    """TO-12: an hour forward: the timer of half an hour fires, that of two hours does not, sleeps keep their length."""
    offset = tmp_path / "offset"
    offset.write_text("+0")
    faked = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }

    ran = subprocess.run(
        [sys.executable, "-c", JUMPS, sqlite_url],
        env=os.environ | faked,
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert (ran.stdout, ran.returncode) == ("[1]\n", 0), ran.stderr


async def test_a_wall_clock_that_jumps_fires_what_is_due_by_it_and_keeps_leases(url: str) -> None:
    """TO-12: forward, a timer is due; back, it waits for its date; a running handler is not run again."""
    world = MovableWorld()
    runs: list[int] = []
    heard: list[tuple[int, float]] = []
    slow = Service("slow")

    class Crawl(Command[None], to="slow"):
        number: int = 0

    @slow.handles
    async def crawl(command: Crawl) -> None:
        runs.append(command.number)
        await asyncio.sleep(0.2)

    async with running(url, slow, clock(heard), world=world, lease=timedelta(milliseconds=300)) as system:
        await system.client.send(Ring(number=1), after=timedelta(hours=2))
        await system.client.send(Crawl())
        await until(lambda: runs)
        world.ahead = timedelta(hours=1)
        await asyncio.sleep(0.1)
        assert heard == []
        world.ahead = timedelta(hours=-1)
        await asyncio.sleep(0.1)
        assert heard == []
        world.ahead = timedelta(hours=3)
        await system.quiet()

    assert [number for number, _ in heard] == [1]
    assert runs == [0]


async def test_dates_need_a_time_zone_and_are_kept_in_utc(url: str) -> None:
    """TO-15: naive datetimes are refused at the call; both nights of a clock change mean what they say."""
    berlin = ZoneInfo("Europe/Berlin")
    dues: list[datetime] = []

    class Planned(Workflow, key="key"):
        @starts
        def opened(self, event: Opened) -> None:
            if event.key == "naive":
                self.at(datetime(2030, 1, 1), Overdue(key="k"))
            self.at(datetime(2030, 3, 31, 2, 30, tzinfo=berlin), Overdue(key="k"), name="gap")
            self.at(datetime(2030, 10, 27, 2, 30, tzinfo=berlin), Overdue(key="k"), name="fold 0")
            self.at(datetime(2030, 10, 27, 2, 30, fold=1, tzinfo=berlin), Overdue(key="k"), name="fold 1")
            self.at(datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=-5))), Overdue(key="k"), name="west")
            dues.extend(self.timers.values())

        @on
        def overdue(self, event: Overdue) -> None:
            pass

    async with running(url, Service("s", workflows=[Planned]), clock([])) as system:
        with pytest.raises(Misuse, match="no time zone"):
            await system.client.send(Ring(), at=datetime(2030, 1, 1))
        await system.client.send_all(Opened(key="naive"), Opened(key="k"))
        await system.quiet(dated=False)
        [dead] = await system.dead()
        sent = await system.client.send(Ring(), at=datetime(2030, 10, 27, 2, 30, fold=1, tzinfo=berlin))
        await system.client.cancel(sent)
        queues = {queue.service: queue.dated for queue in await inspector_of(system.engine).queues()}

    assert "no time zone" in dead.reason
    assert dues == [
        datetime(2030, 3, 31, 1, 30, tzinfo=UTC),
        datetime(2030, 10, 27, 0, 30, tzinfo=UTC),
        datetime(2030, 10, 27, 1, 30, tzinfo=UTC),
        datetime(2030, 1, 1, 5, tzinfo=UTC),
    ]
    assert all(due.utcoffset() == timedelta(0) for due in dues)
    assert queues == {"s": 4, "clock": 0}


async def test_a_dated_message_to_a_service_that_was_never_there_waits_for_it(url: str) -> None:
    """TO-18: it is neither lost nor does it hold up the others; the service finds it when it comes."""

    class Adrift(Command[None], to="nobody-yet"):
        number: int

    heard: list[tuple[int, float]] = []
    found: list[int] = []
    async with running(url, clock(heard)) as system:
        await system.client.send(Adrift(number=7), after=timedelta(milliseconds=10))
        await system.client.send(Ring(number=1), after=timedelta(milliseconds=20))
        await until(lambda: heard)
        late = Service("nobody-yet")

        @late.handles
        async def find(command: Adrift) -> None:
            found.append(command.number)

        async with running(url, late):
            await system.quiet()

    assert found == [7]


async def race(system: System, world: MovableWorld, number: int) -> None:
    await system.client.publish(Opened(key=f"k{number}"))
    await system.quiet(dated=False)
    world.ahead += DAY + timedelta(seconds=1)
    for _ in range(number % 7):
        await asyncio.sleep(0.001)
    await system.client.publish(Closed(key=f"k{number}"))


async def test_of_a_timer_and_its_cancellation_one_wins(url: str) -> None:
    """TO-20: what completed before the firing never fires, what fired before was open; checked for 40 races."""
    world = MovableWorld()
    heard: list[tuple[str, int]] = []
    async with running(url, Service("s", workflows=[Waiting]), listener(heard), world=world) as system:
        for number in range(40):
            await race(system, world, number)
        await system.quiet()
        for number in range(40):
            state = await system.state(f"k{number}")
            assert state["rung"] == heard.count((f"k{number}", 0)) <= 1
        dead = await system.dead()

    assert dead == []
    assert len(set(heard)) == len(heard)


async def test_a_stale_firing_is_harmless(url: str) -> None:
    """TO-20: the letter is in the queue already when its timer is moved; only the new one counts."""

    class Moved(Workflow, key="key"):
        rung: list[int] = []

        @starts
        def opened(self, event: Opened) -> None:
            self.after(DAY, Overdue(key="k", number=1), name="t")

        @on
        def closed(self, event: Closed) -> None:
            self.after(DAY, Overdue(key="k", number=2), name="t")

        @on
        def overdue(self, event: Overdue) -> None:
            self.rung.append(event.number)

    world = MovableWorld()
    service = Service("s", workflows=[Moved])
    async with running(url, service, world=world) as system:
        await system.client.publish(Opened(key="k"))
        await system.quiet(dated=False)
    engine, _ = open_engine(url, world)
    async with Client(engine=engine, world=world) as client:
        await client.publish(Closed(key="k"))
        world.ahead = DAY * 1.5
        await engine.relay(world.now(), 100)
        kinds = [open_packet(delivery.packet).type for delivery in await engine.receive("s", 9)]
        assert kinds == ["closed", "overdue"]
    async with running(url, Service("s", workflows=[Moved]), world=world) as system:
        await system.quiet(dated=False)
        assert (await system.state("k"))["rung"] == []
        world.ahead = DAY * 3
        await system.quiet()
        assert (await system.state("k"))["rung"] == [2]
    await engine.close()


async def test_ten_thousand_cancelled_timers_leave_nothing_behind(sqlite_url: str) -> None:
    """TO-22: rows of timers go with their cancellation, and looking for what is due takes no time."""
    world = MovableWorld()
    async with running(sqlite_url, Service("s", workflows=[Waiting]), world=world) as system:
        for start in range(0, 10_000, 1000):
            await system.client.send_all(*[Opened(key=f"k{n}") for n in range(start, start + 1000)])
        await system.quiet(dated=False, within=30)
        assert system.execute("SELECT count(*) FROM outlast_dated") == [(10_000,)]
        began = time.perf_counter()
        await system.engine.relay(world.now(), 1000)
        full = time.perf_counter() - began
        for start in range(0, 10_000, 1000):
            await system.client.send_all(*[Closed(key=f"k{n}") for n in range(start, start + 1000)])
        await system.quiet(within=30)
        assert system.execute("SELECT count(*) FROM outlast_dated") == [(0,)]
        began = time.perf_counter()
        await system.engine.relay(world.now(), 1000)
        empty = time.perf_counter() - began

    assert full < 0.05
    assert empty < 0.05


async def test_a_relay_that_fails_for_once_goes_on(url: str) -> None:
    """TO-03, TO-18: whatever one look for what is due ends with, the next one happens."""
    heard: list[tuple[int, float]] = []
    async with running(url, clock(heard)) as system:
        original, failures = system.engine.relay, 0

        async def stumbles(now: datetime, limit: int) -> datetime | None:
            nonlocal failures
            failures += 1
            if failures < 4:
                raise TypeError("a bug")
            return await original(now, limit)

        system.engine.relay = stumbles  # type: ignore[method-assign]
        work = await system.engine.begin("")
        packet = Parcel("x", (await _packet(system)).packet, queue="clock", due=datetime.now(UTC) + SOON)
        await work.commit(Changes(parcels=[packet]))
        await until(lambda: heard)

    assert failures >= 4


async def _packet(system: System) -> Parcel:
    return system.client.parcel(Ring(number=1))
