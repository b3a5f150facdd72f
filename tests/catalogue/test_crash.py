"""CP: a process that is killed at any point has done all of a turn, or nothing."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from outlast import Client, Command, Event, Service, Transaction, Worker
from outlast.engines import inspector_of, open_engine
from outlast.ports import Changes
from tests.processes import ends, lines, program
from tests.system import running, until


class Job(Command[None], to="shop"):
    number: int = 0


class Done(Event):
    number: int


def listener(heard: list[int]) -> Service:
    service = Service("listener")

    @service.handles
    async def hear(event: Done) -> None:
        heard.append(event.number)

    return service


def test_killed_before_any_statement_an_order_still_takes_effect_once(tmp_path: Path) -> None:
    """CP-01, CP-02, CP-03, CP-04, CP-05, CP-06, CP-07, CP-08, CP-10, CP-11, CP-12, CP-15, CP-17, CP-19, CP-22:
    every statement of an order with a workflow, a timer, rows and a dead letter; also two and five kills in a row.
    """
    ran = subprocess.run(
        [sys.executable, "-m", "tests.mortal", str(tmp_path), "1", "1"],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("tried "), ran.stdout
    assert int(ran.stdout.split()[1]) > 150


WORKING = """
import asyncio, os, sys, time
from datetime import timedelta
from tests.catalogue.test_crash import Done, Job
from outlast import Service, Transaction, Worker, run

url, log, kind, seconds, lease = sys.argv[1:]
shop = Service("shop")

def note(line):
    with open(log, "a") as file:
        file.write(line + "\\n")

if kind == "async":
    @shop.handles
    async def work(command: Job) -> Done:
        note(f"begin {os.getpid()}")
        await asyncio.sleep(float(seconds))
        note(f"end {os.getpid()}")
        return Done(number=command.number)
elif kind == "thread":
    @shop.handles
    def work(command: Job) -> Done:
        import subprocess
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        note(f"child {child.pid}")
        time.sleep(float(seconds))
        return Done(number=command.number)
else:
    @shop.handles
    async def work(command: Job, transaction: Transaction) -> Done:
        await transaction.execute("INSERT INTO effects VALUES (?)", (command.number,))
        note(f"begin {os.getpid()}")
        time.sleep(float(seconds))
        return Done(number=command.number)

asyncio.run(run(Worker([shop], url=url, lease=timedelta(seconds=float(lease)), poll=timedelta(seconds=0.02))))
"""


@pytest.mark.parametrize("kind", ["async", "transaction"])
async def test_killed_inside_the_handler_it_is_done_again_by_whoever_is_left(
    sqlite_url: str, tmp_path: Path, kind: str
) -> None:
    """CP-02, CP-03, CP-04: rows are rolled back, no lock and no claim outlives the process, effects once."""
    log = tmp_path / "log"
    heard: list[int] = []
    async with running(sqlite_url, listener(heard)) as system:
        system.execute("CREATE TABLE effects (number INTEGER)")
        await system.client.send(Job(number=7))
        with program(WORKING, sqlite_url, log, kind, 60, 60) as first:
            await until(lambda: lines(log))
            first.kill()
            assert (await asyncio.to_thread(ends, first, within=5))[0] == -signal.SIGKILL
        assert system.execute("SELECT * FROM effects") == []
        with program(WORKING, sqlite_url, log, kind, 0, 60):
            await until(lambda: heard, within=5)
            await system.quiet()
        rows = system.execute("SELECT * FROM effects")

    assert heard == [7]
    assert rows == ([(7,)] if kind == "transaction" else [])


async def test_a_worker_that_lives_takes_over_from_one_that_died(sqlite_url: str, tmp_path: Path) -> None:
    """CP-04, CP-16, OB-24: without a restart, and long before the lease of a minute ends."""
    log = tmp_path / "log"
    heard: list[int] = []
    seen: list[int] = []
    shop = Service("shop")

    @shop.handles
    async def work(command: Job) -> Done:
        seen.append(command.number)
        return Done(number=command.number)

    async with running(sqlite_url, listener(heard)) as system:
        await system.client.send(Job(number=7))
        with program(WORKING, sqlite_url, log, "async", 60, 60) as first:
            await until(lambda: lines(log))
            async with Worker([shop], url=sqlite_url, poll=timedelta(milliseconds=20)):
                await asyncio.sleep(0.1)
                assert seen == []
                first.kill()
                await until(lambda: heard, within=3)
                await system.quiet()

    assert seen == heard == [7]


async def test_a_zombie_cannot_commit(sqlite_url: str, tmp_path: Path) -> None:
    """CP-24: stopped beyond its lease, overtaken, then continued: its result is refused, nothing it sent leaves."""
    log = tmp_path / "log"
    heard: list[int] = []
    async with running(sqlite_url, listener(heard)) as system:
        await system.client.send(Job(number=7))
        with program(WORKING, sqlite_url, log, "async", 0.3, 0.4) as zombie:
            await until(lambda: lines(log))
            os.kill(zombie.pid, signal.SIGSTOP)
            with program(WORKING, sqlite_url, log, "async", 0, 0.4) as other:
                await until(lambda: heard == [7], within=5)
                os.kill(zombie.pid, signal.SIGCONT)
                await until(lambda: f"end {zombie.pid}" in lines(log), within=5)
                await asyncio.sleep(0.2)
                await system.quiet()
                other.terminate()
                assert await asyncio.to_thread(ends, other, within=5) == (0, "")
            zombie.terminate()
            assert await asyncio.to_thread(ends, zombie, within=5) == (0, "")
        entries = [outcome for kind, outcome in await system.outcomes() if kind == "job"]
        dead = await system.dead()

    assert [line.split()[0] for line in lines(log)] == ["begin", "begin", "end", "end"]
    assert heard == [7]
    assert entries == ["handled"]
    assert dead == []


async def test_a_suspended_worker_fires_overdue_timers_once_when_it_goes_on(sqlite_url: str, tmp_path: Path) -> None:
    """TO-17, CP-24: what fell due while it was stopped is handled once."""
    log = tmp_path / "log"
    heard: list[int] = []
    with program(WORKING, sqlite_url, log, "async", 0, 0.4) as worker:
        async with running(sqlite_url, listener(heard), poll=timedelta(seconds=30)) as system:

            async def is_up() -> bool:
                return any(q.service == "shop" and q.workers for q in await inspector_of(system.engine).queues())

            async with asyncio.timeout(5):
                while not await is_up():
                    await asyncio.sleep(0.01)
            os.kill(worker.pid, signal.SIGSTOP)
            for number in range(5):
                await system.client.send(Job(number=number), after=timedelta(milliseconds=50))
            await asyncio.sleep(0.6)
            os.kill(worker.pid, signal.SIGCONT)
            await until(lambda: len(heard) == 5, within=5)
            await system.quiet()

    assert sorted(heard) == list(range(5))


async def test_killing_the_whole_group_leaves_no_child_and_no_half_effect(sqlite_url: str, tmp_path: Path) -> None:
    """CP-25: a plain handler in a thread, with a child of its own; all are gone, and the message is done again."""
    log = tmp_path / "log"
    heard: list[int] = []

    def is_alive(pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                return stat.read().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    async with running(sqlite_url, listener(heard)) as system:
        await system.client.send(Job(number=7))
        with program(WORKING, sqlite_url, log, "thread", 60, 60) as first:
            await until(lambda: lines(log))
            os.killpg(first.pid, signal.SIGKILL)
            await asyncio.to_thread(ends, first, within=5)
        child = int(lines(log)[0].split()[1])
        await until(lambda: not is_alive(child), within=2)
        with program(WORKING, sqlite_url, log, "async", 0, 60):
            await until(lambda: heard, within=5)
            await system.quiet()

    assert heard == [7]


SENDING = """
import asyncio, os, signal, sqlite3, sys
from tests.catalogue.test_crash import Job
from outlast import Client

url, path, last = sys.argv[1], sys.argv[2], int(sys.argv[3])

async def main():
    count = 0
    def step(statement):
        nonlocal count
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
    async with Client(url) as client:
        connection = sqlite3.connect(path)
        connection.set_trace_callback(step)
        async with client.transaction(connection) as outgoing:
            connection.execute("INSERT INTO orders VALUES (1)")
            for number in range(3):
                outgoing.send(Job(number=number))
        connection.set_trace_callback(None)
        connection.close()

asyncio.run(main())
"""


async def test_a_row_and_its_messages_leave_together_or_not_at_all(sqlite_url: str) -> None:
    """CP-21, OB-22: a program outside of any handler, killed before each of its statements in turn."""
    path = sqlite_url.removeprefix("sqlite:///").partition("?")[0]
    engine, _ = open_engine(sqlite_url)
    await engine.declare("shop", [])
    look = sqlite3.connect(path)
    look.execute("CREATE TABLE orders (id INTEGER)")
    look.commit()
    seen: set[tuple[int, int]] = set()
    for last in range(1, 40):
        with program(SENDING, sqlite_url, path, last) as process:
            code, complaints = await asyncio.to_thread(ends, process, within=10)
        assert code in (0, -signal.SIGKILL), complaints
        rows = look.execute("SELECT count(*) FROM orders").fetchone()[0]
        deliveries = await engine.receive("shop", 100)
        seen.add((rows, len(deliveries)))
        if code == 0:
            break
    look.close()
    await engine.close()

    assert code == 0
    assert last > 4
    assert seen == {(0, 0), (1, 3)}


async def test_what_a_committed_turn_sent_needs_nobody_to_send_it(url: str) -> None:
    """CP-07, OB-13, OB-14: after the commit it is in its receiver's queue, though the sender is never seen again."""
    shop = Service("shop")

    @shop.handles
    async def work(command: Job) -> Done:
        return Done(number=command.number)

    engine, _ = open_engine(url)
    await engine.declare("listener", ["done"])
    async with running(url, shop) as system:
        await system.client.send(Job(number=7))
        await until(lambda: True)

        async def is_sent() -> bool:
            return bool(await engine.receive("listener", 9))

        async with asyncio.timeout(5):
            while not await is_sent():
                await asyncio.sleep(0.002)
    heard: list[int] = []
    async with running(url, listener(heard)) as system:
        await system.quiet()
    await engine.close()

    assert heard == [7]


async def test_two_processes_with_one_delivery_commit_it_once(url: str) -> None:
    """CP-16, OB-03, OB-06: received by both at the same instant; one commits, the other finds nothing to do."""
    first, world = open_engine(url)
    second, _ = open_engine(url)
    await first.declare("shop", [])
    async with Client(engine=first, world=world) as client:
        await client.send(Job(number=1))
    [one] = await first.receive("shop", 9)
    while not (others := await second.receive("shop", 9)):
        await asyncio.sleep(0.01)  # an engine may keep from one what another was handed just now
    [other] = others
    await asyncio.sleep(0.1)  # and no longer than a moment
    assert one == other

    work = await first.begin("shop")
    assert await work.first_sight([one]) == {one.receipt}
    await work.commit(Changes(handled=[one]))
    work = await second.begin("shop")
    assert await work.first_sight([other]) == set()
    await work.rollback()
    assert await second.receive("shop", 9) == []
    await first.close()
    await second.close()


async def test_a_row_of_a_handler_in_a_claimed_batch_is_written_once(sqlite_url: str) -> None:
    """CP-03: a turn that is refused as a whole is repeated letter by letter, and no row is written twice."""
    shop = Service("shop")

    @shop.handles
    async def work(command: Job, transaction: Transaction) -> None:
        await transaction.execute("INSERT INTO orders VALUES (?)", (command.number,))

    async with running(sqlite_url, shop) as system:
        system.execute("CREATE TABLE orders (id INTEGER UNIQUE)")
        work = await system.engine.begin("shop")
        original = type(work).commit
        await work.rollback()
        refused: list[int] = []

        async def refuses(self: object, changes: Changes) -> None:
            if len(changes.handled) > 1:
                refused.append(len(changes.handled))
                await self.rollback()  # type: ignore[attr-defined]
                raise ValueError("too many")
            await original(self, changes)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(work), "commit", refuses)
            await system.client.send_all(*[Job(number=number) for number in range(10)])
            await system.quiet()
        rows = [row for (row,) in system.execute("SELECT id FROM orders ORDER BY id")]
        dead = await system.dead()

    assert refused
    assert rows == list(range(10))
    assert dead == []
