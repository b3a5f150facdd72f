"""SD: stopping takes no longer than allowed, and loses and doubles nothing."""

import asyncio
import gc
import signal
import sqlite3
import time
import warnings
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from outlast import NO_RETRY, Client, Command, Event, Service, Worker
from outlast.engines import inspector_of, open_engine
from outlast.errors import BadHandler, Misuse, OutlastError
from outlast.signals import Retrying, Stopped
from tests.processes import ends, lines, program, wait_for
from tests.system import AT_ONCE, eventually, running, until


class Work(Command[None], to="shop"):
    number: int = 0


class Worked(Event):
    number: int


def listener(heard: list[int]) -> Service:
    service = Service("listener")

    @service.handles
    async def hear(event: Worked) -> None:
        heard.append(event.number)

    return service


async def test_a_handler_in_flight_completes_and_is_committed(url: str) -> None:
    """SD-01: stop waits for it, does not cancel it, and what it sent is on its way."""
    shop = Service("shop")
    entered, gate = asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    @shop.handles
    async def work(command: Work) -> Worked:
        entered.set()
        try:
            await gate.wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        ended.append("completed")
        return Worked(number=command.number)

    heard: list[int] = []
    async with running(url, listener(heard)) as system:
        async with Worker([shop], url=url) as worker:
            await system.client.send(Work(number=1))
            await entered.wait()
            stopping = asyncio.create_task(worker.stop())
            await asyncio.sleep(0.02)
            assert not stopping.done()
            gate.set()
            await stopping
        await system.quiet()

    assert ended == ["completed"]
    assert heard == [1]


async def test_stop_without_grace_cancels_at_once_and_gives_back_uncounted(url: str) -> None:
    """SD-02, SD-03: the handler is cancelled, no attempt is counted, and the next worker gets it at once."""
    entered = asyncio.Event()
    attempts: list[tuple[str, int]] = []

    def shop(name: str) -> Service:
        service = Service("shop", retry=AT_ONCE)

        @service.handles
        async def work(command: Work) -> None:
            attempts.append((name, command.number))
            entered.set()
            if name == "first":
                await asyncio.get_running_loop().create_future()

        return service

    signals: list[Any] = []
    keeper, world = open_engine(url)
    async with Client(engine=keeper, world=world) as client:
        async with Worker([shop("first")], url=url, observe=signals.append) as worker:
            await client.send(Work(number=1))
            await entered.wait()
            began = time.monotonic()
            await worker.stop(timedelta(0))
            assert time.monotonic() - began < 0.5
        [waiting] = await keeper.receive("shop", 9)
        assert waiting.count == 0
        async with running(url, shop("second")) as system:
            await system.quiet()
            assert await system.dead() == []
    await keeper.close()

    assert attempts == [("first", 1), ("second", 1)]
    assert not [signal for signal in signals if isinstance(signal, Retrying)]
    assert [signal.released for signal in signals if isinstance(signal, Stopped)] == [1]


async def test_a_handler_that_will_not_be_cancelled_is_left_behind(url: str) -> None:
    """SD-02, SD-14: stop returns all the same; its message is released, and what it returns later is refused."""
    shop = Service("shop")
    let_go = asyncio.Event()
    entered = asyncio.Event()

    @shop.handles
    async def work(command: Work) -> Worked:
        entered.set()
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        return Worked(number=command.number)

    heard: list[int] = []
    async with running(url, listener(heard)) as system:
        async with Worker([shop], url=url) as worker:
            await system.client.send(Work(number=1))
            await entered.wait()
            began = time.monotonic()
            await worker.stop(timedelta(0))
            took = time.monotonic() - began
        let_go.set()
        await asyncio.sleep(0.01)
        [waiting] = list(await system.engine.receive("shop", 9))

    assert took < 2
    assert waiting.count == 0
    assert heard == []


async def test_a_plain_handler_that_blocks_does_not_keep_stop_waiting(url: str) -> None:
    """SD-06: a thread cannot be cancelled; stop returns after the grace period and its result is refused."""
    shop = Service("shop")
    entered: list[int] = []

    @shop.handles
    def work(command: Work) -> Worked:
        entered.append(command.number)
        time.sleep(0.4)
        return Worked(number=command.number)

    heard: list[int] = []
    async with running(url, listener(heard)) as system:
        async with Worker([shop], url=url) as worker:
            await system.client.send(Work(number=1))
            await until(lambda: entered)
            began = time.monotonic()
            await worker.stop(timedelta(milliseconds=50))
            took = time.monotonic() - began
        await asyncio.sleep(0.5)
        [waiting] = await system.engine.receive("shop", 9)

    assert took < 0.3
    assert waiting.count == 0
    assert heard == []


async def test_a_handler_that_fails_while_stopping_is_dealt_with(url: str) -> None:
    """SD-04: its failure is committed like any other, and stop raises nothing."""
    shop = Service("shop", retry=NO_RETRY)
    entered, gate = asyncio.Event(), asyncio.Event()

    @shop.handles
    async def work(command: Work) -> None:
        entered.set()
        await gate.wait()
        raise ValueError("just now")

    async with running(url, Service("other")) as system:
        async with Worker([shop], url=url) as worker:
            await system.client.send(Work(number=1))
            await entered.wait()
            stopping = asyncio.create_task(worker.stop())
            await asyncio.sleep(0)
            gate.set()
            await stopping
        [dead] = await system.dead()

    assert "just now" in dead.error


async def test_claims_are_kept_while_draining(url: str) -> None:
    """SD-01: a drain longer than the lease; another worker of the service does not run the handler again."""
    runs: list[str] = []
    entered = asyncio.Event()

    def shop(name: str) -> Service:
        service = Service("shop")

        @service.handles
        async def work(command: Work) -> Worked:
            runs.append(name)
            entered.set()
            await asyncio.sleep(1.5)
            return Worked(number=command.number)

        return service

    heard: list[int] = []
    async with running(url, listener(heard)) as system:
        async with Worker([shop("first")], url=url, lease=timedelta(milliseconds=600)) as worker:
            await system.client.send(Work(number=1))
            await entered.wait()
            async with Worker([shop("second")], url=url, poll=timedelta(milliseconds=20)):
                await worker.stop()
                await system.quiet()

    assert runs == ["first"]
    assert heard == [1]


async def test_what_finishes_while_draining_is_committed_at_once(url: str) -> None:
    """SD-01, SD-12: it does not wait for the slowest handler."""
    shop = Service("shop")
    gate = asyncio.Event()
    entered: list[int] = []

    @shop.handles
    async def work(command: Work) -> Worked:
        entered.append(command.number)
        await (asyncio.sleep(0.05) if command.number else gate.wait())
        return Worked(number=command.number)

    heard: list[int] = []
    async with running(url, listener(heard)) as system:
        async with Worker([shop], url=url) as worker:
            await system.client.send_all(*[Work(number=number) for number in range(3)])
            await until(lambda: len(entered) == 3)
            stopping = asyncio.create_task(worker.stop())
            await until(lambda: sorted(heard) == [1, 2], within=2)
            assert not stopping.done()
            gate.set()
            await stopping
        await system.quiet()

    assert sorted(heard) == [0, 1, 2]


async def test_what_was_not_begun_is_free_for_others_at_once(url: str) -> None:
    """SD-11: beyond the one that runs, nothing is held; the next worker takes all of it without a lease to wait for."""
    entered = asyncio.Event()
    seen: list[int] = []

    def shop(name: str) -> Service:
        service = Service("shop")

        @service.handles
        async def work(command: Work) -> None:
            entered.set()
            if name == "first":
                await asyncio.get_running_loop().create_future()
            seen.append(command.number)

        return service

    async with running(url, Service("other")) as system:
        async with Worker([shop("first")], url=url, concurrency=1) as worker:
            await system.client.send_all(*[Work(number=number) for number in range(50)])
            await entered.wait()
            await worker.stop(timedelta(0))
        async with Worker([shop("second")], url=url):
            await system.quiet(within=2)

    assert sorted(seen) == list(range(50))


async def test_whatever_raises_while_stopping_everything_else_stops(url: str) -> None:
    """SD-13: a provider that fails on its way out is heard of, and nothing is left open."""

    class Gateway:
        pass

    @asynccontextmanager
    async def gateway() -> Any:
        yield Gateway()
        raise ConnectionError("on the way out")

    shop = Service("shop")
    shop.provide(Gateway, gateway)

    @shop.handles
    async def work(command: Work, gateway: Gateway) -> None:
        pass

    worker = Worker([shop], url=url)
    with pytest.raises(ConnectionError, match="on the way out"):
        async with worker:
            pass
    await worker.stop()

    assert all(task.done() for task in worker._tasks)
    engine, _ = open_engine(url)
    assert all(queue.workers == 0 for queue in await inspector_of(engine).queues())
    await engine.close()


async def test_a_worker_that_cannot_start_leaves_nothing_open(url: str) -> None:
    """SD-13, SD-16: neither a connection nor a task nor a provider that was entered."""
    left: list[str] = []

    class Gateway:
        pass

    class Absent:
        pass

    @asynccontextmanager
    async def gateway() -> Any:
        yield Gateway()
        left.append("gateway")

    shop = Service("shop")
    shop.provide(Gateway, gateway)

    @shop.handles
    async def work(command: Work, gateway: Gateway, absent: Absent) -> None:
        pass

    with pytest.raises(BadHandler, match="Absent"):
        async with Worker([shop], url=url):
            pass

    assert left == ["gateway"]
    engine, _ = open_engine(url)
    assert all(queue.workers == 0 for queue in await inspector_of(engine).queues())
    await engine.close()


async def test_a_worker_is_used_once(url: str) -> None:
    """SD-14: entering it again is refused, with what to do instead."""
    worker = Worker([Service("shop")], url=url)
    async with worker:
        pass

    with pytest.raises(Misuse, match="Make a new one"):
        async with worker:
            pass


async def test_a_whole_life_leaves_no_warning(url: str) -> None:
    """SD-16: work, failures, a time limit, a stop in the middle: nothing unfetched, unawaited or unclosed."""
    shop = Service("shop", retry=AT_ONCE)
    entered = asyncio.Event()

    @shop.handles(time_limit=timedelta(milliseconds=10))
    async def work(command: Work) -> Worked:
        if command.number == 1:
            raise ValueError("always")
        if command.number == 2:
            await asyncio.sleep(60)
        return Worked(number=command.number)

    blocked = Service("blocked")

    @blocked.handles
    async def hear(event: Worked) -> None:
        entered.set()
        await asyncio.sleep(60)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with Worker([shop, blocked], url=url, grace=timedelta(0)), Client(url) as client:
            await client.send_all(*[Work(number=number) for number in range(4)])
            await entered.wait()
            await asyncio.sleep(0.1)
        gc.collect()

    assert [str(warning.message) for warning in caught] == []


async def test_stop_returns_while_the_file_is_locked(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SD-18: nothing can be written, so it is told and given up; the message is handled after the restart."""
    monkeypatch.setattr("outlast.adapters.sqlite.engine.LOCK_WAIT_SECONDS", 0.2)
    entered, gate = asyncio.Event(), asyncio.Event()
    runs: list[int] = []
    shop = Service("shop")

    @shop.handles
    async def work(command: Work) -> None:
        runs.append(command.number)
        entered.set()
        await gate.wait()

    lease = timedelta(milliseconds=300)
    worker = Worker([shop], url=sqlite_url, lease=lease)
    async with Client(sqlite_url) as client:
        await worker.__aenter__()
        await client.send(Work(number=1))
        await entered.wait()
    path = sqlite_url.removeprefix("sqlite:///").partition("?")[0]
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    gate.set()
    began = time.monotonic()
    await worker.stop(timedelta(seconds=1))
    took = time.monotonic() - began
    locker.execute("ROLLBACK")
    locker.close()

    assert took < 5
    async with running(sqlite_url, shop) as system:
        await system.quiet()
        assert await system.dead() == []
    assert runs == [1, 1]


SERVING = """
import asyncio, os, sys
from datetime import timedelta
from tests.catalogue.test_shutdown import Work, Worked
from outlast import Service, Worker, run

url, log, seconds, grace, kind = sys.argv[1:]
shop = Service("shop")

def note(line):
    with open(log, "a") as file:
        file.write(line + "\\n")

if kind == "async":
    @shop.handles
    async def work(command: Work) -> Worked:
        note(f"begin {command.number}")
        await asyncio.sleep(float(seconds))
        note(f"end {command.number}")
        return Worked(number=command.number)
else:
    @shop.handles
    def work(command: Work) -> Worked:
        import time
        note(f"begin {command.number}")
        time.sleep(float(seconds))
        note(f"end {command.number}")
        return Worked(number=command.number)

asyncio.run(run(Worker([shop], url=url, grace=timedelta(seconds=float(grace)))))
"""


async def test_sigterm_lets_the_handler_finish(sqlite_url: str, tmp_path: Path) -> None:
    """SD-05: it finishes within the grace period, is committed, and the process exits with 0 at once after that."""
    heard: list[int] = []
    log = tmp_path / "log"
    async with running(sqlite_url, listener(heard)) as system:
        await system.client.send(Work(number=1))
        with program(SERVING, sqlite_url, log, 0.5, 30, "async") as process:
            await until(lambda: lines(log) == ["begin 1"])
            process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(ends, process, within=3)
        await system.quiet()

    assert code == (0, "")
    assert lines(log) == ["begin 1", "end 1"]
    assert heard == [1]


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_after_the_grace_period_the_message_is_given_back(sqlite_url: str, tmp_path: Path, kind: str) -> None:
    """SD-06: SIGTERM in a handler of a minute; the process exits with 0, and another worker gets it at once."""
    taken: list[int] = []
    shop = Service("shop")
    log = tmp_path / "log"

    @shop.handles
    async def work(command: Work) -> None:
        taken.append(command.number)

    async with Client(sqlite_url) as client:
        await client.send(Work(number=1))
        with program(SERVING, sqlite_url, log, 60, 0.2, kind) as process:
            await until(lambda: lines(log) == ["begin 1"])
            process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(ends, process, within=5)
        async with running(sqlite_url, shop) as system:
            await until(lambda: taken == [1], within=1)
            await system.quiet()

    assert code == (0, "")
    assert lines(log) == ["begin 1"]


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_the_drain(sqlite_url: str, tmp_path: Path, second: signal.Signals) -> None:
    """SD-07: cancelled at once, out within two seconds, nothing lost or doubled."""
    log = tmp_path / "log"
    async with Client(sqlite_url) as client:
        await client.send_all(*[Work(number=number) for number in range(3)])
        with program(SERVING, sqlite_url, log, 60, 60, "async") as process:
            await until(lambda: len(lines(log)) == 3)
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.2)
            assert process.poll() is None
            process.send_signal(second)
            code = await asyncio.to_thread(ends, process, within=2)
        counts = [delivery.count for delivery in await client.engine.receive("shop", 9)]

    assert code == (0, "")
    assert counts == [0, 0, 0]


async def test_a_worker_stops_in_good_order_when_its_body_fails(url: str) -> None:
    """SD-13, SD-14: the error of the body comes out, after everything was stopped."""
    shop = Service("shop")
    seen: list[int] = []

    @shop.handles
    async def work(command: Work) -> None:
        seen.append(command.number)

    with pytest.raises(OutlastError, match="of the body"):
        async with running(url, shop) as system:
            await system.client.send(Work(number=1))
            await system.quiet()
            raise OutlastError("of the body")

    assert seen == [1]


async def test_a_worker_whose_task_is_cancelled_still_gives_everything_back(url: str) -> None:
    """SD-14: the way a web server or a test ends it; claims are released before the cancellation goes on."""
    shop = Service("shop")
    entered = asyncio.Event()

    @shop.handles
    async def work(command: Work) -> None:
        entered.set()
        await asyncio.sleep(60)

    async def serve() -> None:
        async with Worker([shop], url=url, grace=timedelta(0)):
            await asyncio.sleep(60)

    keeper, world = open_engine(url)
    async with Client(engine=keeper, world=world) as client:
        serving = asyncio.create_task(serve())
        await client.send(Work(number=1))
        await entered.wait()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

        async def is_free() -> bool:
            return [delivery.count for delivery in await keeper.receive("shop", 9)] == [0]

        await eventually(is_free, within=2)
    await keeper.close()


def test_a_process_that_only_imports_says_nothing(tmp_path: Path) -> None:
    """SD-16: no warning at import or exit, with all warnings on."""
    with program("import warnings; warnings.simplefilter('error'); import outlast, asyncio") as process:
        assert ends(process, within=10) == (0, "")
    wait_for(lambda: process.returncode == 0)


async def test_a_client_that_leaves_in_the_middle_of_a_call_leaves_nothing_running(sqlite_url: str) -> None:
    """SD-16, SD-18: the file is locked, the caller gives up, and the client is closed: no task, no complaint."""
    path = sqlite_url.removeprefix("sqlite:///").partition("?")[0]
    async with Client(sqlite_url) as client:
        await client.send(Work(number=1))
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")

    began = time.monotonic()
    async with Client(sqlite_url) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.send(Work(number=2))
    took = time.monotonic() - began
    locker.close()

    assert took < 2
    assert len(asyncio.all_tasks()) == 1
