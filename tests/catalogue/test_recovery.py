"""RC: a message that fails is tried as often as it was said, and then kept for a person with all there is to know."""

import asyncio
import itertools
import statistics
import threading
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from outlast import NO_RETRY, Client, Command, Context, Event, Failed, Retry, Service, Workflow, on, starts
from outlast.core.naming import open_packet
from outlast.core.recovery import RetryAt, SetAside
from outlast.engines import inspector_of
from outlast.errors import Misuse
from outlast.operations import Operations
from outlast.signals import GaveUp, Interrupted, Retrying
from tests.processes import ends, program
from tests.system import AT_ONCE, MovableWorld, running, until


class Job(Command[None], to="shop"):
    number: int = 0


class Done(Event):
    number: int


class Declined(Exception):
    """No further attempt cures it."""


def failing(retry: Retry, attempts: list[int], error: type[Exception] = ValueError) -> Service:
    shop = Service("shop", retry=retry)

    @shop.handles
    async def work(command: Job, context: Context) -> Done:
        attempts.append(context.attempt)
        raise error("always")

    return shop


@pytest.mark.parametrize(
    ("immediate", "delayed"), [(0, 0), (3, 0), (0, 3), (2, 3)], ids=["none", "immediate", "delayed", "both"]
)
async def test_attempts_are_as_many_as_said(url: str, immediate: int, delayed: int) -> None:
    """RC-01, RC-02, TR-13: one, and the immediate ones, and the delayed ones; then a dead letter."""
    attempts: list[int] = []
    retry = Retry(immediate=immediate, delayed=delayed, first=timedelta(milliseconds=1), factor=2)
    async with running(url, failing(retry, attempts)) as system:
        await system.client.send(Job())
        await system.quiet()
        [dead] = await system.dead()

    assert attempts == list(range(1, immediate + delayed + 2))
    assert dead.attempts == immediate + delayed + 1 == retry.attempts


async def test_an_error_that_no_retry_cures_is_tried_once(url: str) -> None:
    """RC-03: named in `give_up_on`, of the service or of the handler."""
    attempts: list[int] = []
    async with running(url, failing(Retry(give_up_on=(Declined,)), attempts, Declined)) as system:
        await system.client.send(Job())
        await system.quiet()
        [dead] = await system.dead()

    assert attempts == [1]
    assert "Declined" in dead.reason


async def test_a_handlers_own_policy_comes_first(url: str) -> None:
    """RC-04: each handler may say for itself how often; the service says for the others."""
    shop = Service("shop", retry=Retry(immediate=4, delayed=0))
    attempts: Counter[str] = Counter()

    class Other(Command[None], to="shop"):
        number: int = 0

    @shop.handles(retry=NO_RETRY)
    async def work(command: Job) -> None:
        attempts["own"] += 1
        raise ValueError("always")

    @shop.handles
    async def other(command: Other) -> None:
        attempts["service's"] += 1
        raise ValueError("always")

    async with running(url, shop) as system:
        await system.client.send_all(Job(), Other())
        await system.quiet()

    assert attempts == {"own": 1, "service's": 5}


async def test_a_dead_letter_has_all_that_a_person_needs(url: str) -> None:
    """RC-05: bytes and headers as sent, error, trace, service, host, version, attempts, time, conversation, key."""
    shop = Service("shop", retry=AT_ONCE)

    @shop.handles
    async def work(command: Job) -> None:
        number = command.number
        raise ValueError(f"number {number} is out of order")

    world = MovableWorld()
    async with running(url, shop, version="1.2.3", world=world) as system:
        async with Client(engine=system.engine, world=world, headers={"tenant": "a"}) as client:
            sent = await client.send(Job(number=4))
        await system.quiet()
        [dead] = await system.dead()
        gave_up = [signal for signal in system.signals if isinstance(signal, GaveUp)]

    envelope = open_packet(dead.packet)
    assert (envelope.id, envelope.headers) == (sent.id, {"tenant": "a"})
    assert bytes(envelope.body) == b'{"number":4}'
    assert dead.error == "ValueError: number 4 is out of order"
    assert "raise ValueError" in dead.traceback
    assert (dead.service, dead.type, dead.message_id, dead.version) == ("shop", "job", sent.id, "1.2.3")
    assert dead.conversation == sent.id
    assert dead.attempts == 3
    assert dead.host
    assert abs(dead.at - world.now()) < timedelta(seconds=5)
    assert len(gave_up) == 1


async def test_a_dead_letter_that_is_retried_is_handled_once(url: str) -> None:
    """RC-08: however often the button is pressed, and at the same time."""
    cured = False
    handled: list[int] = []
    shop = Service("shop", retry=NO_RETRY)

    @shop.handles
    async def work(command: Job) -> None:
        if not cured:
            raise ValueError("ill")
        handled.append(command.number)

    async with running(url, shop) as system:
        await system.client.send(Job(number=1))
        await system.quiet()
        cured = True
        [dead] = await system.dead()
        assert system.worker.world is not None
        operations = Operations(inspector_of(system.engine), system.worker.world)
        await asyncio.gather(*[operations.retry([dead.id]) for _ in range(5)], return_exceptions=True)
        await system.quiet()
        statuses = [item.status for item in await inspector_of(system.engine).dead_letters(status="", id="", limit=9)]

    assert handled == [1]
    assert statuses == ["retried"]


async def test_retried_and_failing_again_it_is_a_dead_letter_again(url: str) -> None:
    """RC-08: a second failure is not lost in the shadow of the first; attempts are counted anew."""
    attempts: list[int] = []
    async with running(url, failing(AT_ONCE, attempts)) as system:
        await system.client.send(Job(number=1))
        await system.quiet()
        [dead] = await system.dead()
        assert system.worker.world is not None
        await Operations(inspector_of(system.engine), system.worker.world).retry([dead.id])
        await system.quiet()
        statuses = [item.status for item in await inspector_of(system.engine).dead_letters(status="", id="", limit=9)]

    assert statuses == ["retried", "open"]
    assert len(attempts) == 6


def test_delays_grow_are_spread_and_bounded() -> None:
    """RC-10: each round at least as long as the one before, never above the longest, and different for each message."""
    retry = Retry(first=timedelta(seconds=1), factor=3, longest=timedelta(seconds=50), delayed=40)
    dice = [n / 1000 for n in range(1000)]

    rounds = [[retry.delay(round, die).total_seconds() for die in dice] for round in range(1, 12)]

    assert all(max(earlier) <= max(later) for earlier, later in itertools.pairwise(rounds))
    assert all(0 < delay <= 50 for delays in rounds for delay in delays)
    assert all(statistics.stdev(delays) / statistics.mean(delays) > 0.04 for delays in rounds)
    assert retry.delay(10_000, 0.999) <= timedelta(seconds=50)


def test_every_policy_ends() -> None:
    """RC-01, RC-10: whatever the attempt's number, the answer is again or never; and never is not taken back."""
    from datetime import UTC, datetime

    now = datetime(2026, 1, 1, tzinfo=UTC)
    retry = Retry(immediate=2, delayed=3)

    verdicts = [type(retry.recover(ValueError(), attempt, now, 0.5)) for attempt in range(1, 30)]

    assert verdicts == [RetryAt] * 5 + [SetAside] * 24


async def test_the_round_survives_a_restart(sqlite_url: str) -> None:
    """RC-15: the number of the attempt is in the letter, not in the process."""
    attempts: list[int] = []
    world = MovableWorld()
    retry = Retry(immediate=1, delayed=3, first=timedelta(hours=1))
    async with Client(sqlite_url) as client:
        await client.send(Job())
    for round in range(4):
        world.ahead = timedelta(days=round)
        async with running(sqlite_url, failing(retry, attempts), world=world) as system:
            await until(lambda: len(attempts) == min(round + 2, 5))  # noqa: B023
            await system.quiet(dated=False)
            dead = await system.dead()

    assert attempts == [1, 2, 3, 4, 5]
    assert len(dead) == 1


async def test_without_a_place_for_dead_letters_the_message_stays(sqlite_url: str) -> None:
    """RC-17, TR-14: neither dropped nor handled over and over at full speed; the trouble is told."""
    attempts: list[int] = []
    async with running(sqlite_url, failing(NO_RETRY, attempts)) as system:
        system.execute("ALTER TABLE outlast_dead RENAME TO outlast_elsewhere")
        await system.client.send(Job(number=1))
        await until(lambda: [s for s in system.signals if isinstance(s, Interrupted)])
        await asyncio.sleep(0.2)
        troubles = len([s for s in system.signals if isinstance(s, Interrupted)])
        system.execute("ALTER TABLE outlast_elsewhere RENAME TO outlast_dead")
        await system.quiet()
        dead = await system.dead()

    assert len(dead) == 1
    assert troubles < 20
    assert len(attempts) == 1


async def test_ten_thousand_failures_at_once_are_borne(url: str) -> None:
    """RC-20, RC-14: no more tasks than the worker may have, and every one is a dead letter with its attempts."""
    shop = Service("shop", retry=Retry(immediate=1, delayed=0))
    most = 0

    @shop.handles
    async def work(command: Job) -> None:
        nonlocal most
        if command.number % 50 == 0:
            most = max(most, len(asyncio.all_tasks()))
        raise ValueError("always")

    async with running(url, shop, concurrency=50) as system:
        for start in range(0, 10_000, 1000):
            await system.client.send_all(*[Job(number=number) for number in range(start, start + 1000)])
        await system.quiet(within=50)
        dead = await system.dead()
        left = len(asyncio.all_tasks())

    assert len(dead) == 10_000
    assert {letter.attempts for letter in dead} == {2}
    assert most < 70
    assert left < 10


async def test_a_failure_is_told_once_to_the_workflow_that_asked(url: str) -> None:
    """OB-21, RC-01, TR-15: `Failed` comes with the dead letter, not with the attempts before it."""

    class Asker(Workflow, key="number"):
        failures: list[str] = []

        @starts
        def begun(self, event: Done) -> Job:
            return Job(number=event.number)

        @on
        def failed(self, event: Failed[Job]) -> None:
            self.failures.append(f"{event.command.number}: {event.reason} ({event.attempts})")

    attempts: list[int] = []
    asking = Service("asking", workflows=[Asker])
    async with running(url, failing(AT_ONCE, attempts), asking) as system:
        await system.client.publish(Done(number=4))
        await system.quiet()
        state = await system.state("4")

    assert state["failures"] == ["4: ValueError after 3 attempts (3)"]
    assert len(attempts) == 3


def test_a_policy_that_cannot_be_followed_is_refused() -> None:
    """RC-21: where it is written down, with what is wrong with it."""
    for wrong in ({"immediate": -1}, {"delayed": -1}, {"factor": 0.5}, {"jitter": 2.0}):
        with pytest.raises(Misuse, match="cannot be followed"):
            Retry(**wrong)  # type: ignore[arg-type]


async def test_what_is_retrying_is_told_with_attempt_and_error(url: str) -> None:
    """RC-05, RC-04: one signal for each counted failure, with the error itself."""
    async with running(url, failing(AT_ONCE, [])) as system:
        await system.client.send(Job())
        await system.quiet()
        retrying = [signal for signal in system.signals if isinstance(signal, Retrying)]

    assert [signal.attempt for signal in retrying] == [1, 2]
    assert all(isinstance(signal.error, ValueError) for signal in retrying)


POISONED = """
import asyncio, os, sqlite3, sys
from datetime import timedelta
from outlast import Service, Transaction, Worker, Workflow, starts
from outlast.adapters.sqlite import SqliteInspector
from tests.catalogue.test_recovery import Dose, Taken

url, kind, poison = sys.argv[1], sys.argv[2], set(map(int, sys.argv[3].split(",")))

def swallow(number):
    if number in poison:
        os._exit(9)

clinic = Service("clinic")
if kind == "async":
    @clinic.handles
    async def take(event: Dose) -> Taken:
        await asyncio.sleep(0.001)
        swallow(event.number)
        return Taken(number=event.number)
elif kind == "thread":
    @clinic.handles
    def take(event: Dose) -> Taken:
        swallow(event.number)
        return Taken(number=event.number)
elif kind == "transaction":
    @clinic.handles
    async def take(event: Dose, transaction: Transaction) -> Taken:
        await transaction.execute("INSERT INTO effects VALUES ('row', ?)", (event.number,))
        swallow(event.number)
        return Taken(number=event.number)
else:
    class Patient(Workflow, key="number"):
        taken: int = 0
        @starts
        def take(self, event: Dose) -> Taken:
            self.taken += 1
            swallow(event.number)
            return Taken(number=event.number)
    clinic = Service("clinic", workflows=[Patient])

ledger = Service("ledger")

@ledger.handles
async def note(event: Taken, transaction: Transaction) -> None:
    await transaction.execute("INSERT INTO effects VALUES ('taken', ?)", (event.number,))

async def main():
    async with Worker([clinic, ledger], url=url, poll=timedelta(milliseconds=10)) as worker:
        inspector = SqliteInspector(worker.engine)
        while any(queue.waiting or queue.claimed for queue in await inspector.queues()):
            await asyncio.sleep(0.01)

asyncio.run(main())
"""


class Dose(Event):
    number: int


class Taken(Event):
    number: int


def supervised(url: str, kind: str, poison: str, codes: list[int]) -> None:
    """Starts the process again whenever it dies, until it ends by itself."""
    while not codes or codes[-1] != 0:
        with program(POISONED, url, kind, poison) as process:
            code, complaints = ends(process, within=20)
        assert code in (0, 9), complaints
        codes.append(code)
        assert len(codes) < 30, "a crash loop"


@pytest.mark.parametrize(
    ("kind", "poison", "processes"),
    [
        ("async", "20", 1),
        ("thread", "20", 1),
        ("workflow", "20", 1),
        ("transaction", "20", 1),
        ("workflow", "0,49", 1),
        ("async", "20", 2),
    ],
)
async def test_a_message_that_kills_its_process_is_set_aside_alone(
    sqlite_url: str, kind: str, poison: str, processes: int
) -> None:
    """RC-22, PO-12: fifty in a batch, supervised restarts; the poison is a dead letter, all others count once."""
    bad = {int(number) for number in poison.split(",")}
    async with running(sqlite_url, Service("other")) as system:
        system.execute("CREATE TABLE effects (what TEXT, number INTEGER)")
        for service in ("clinic", "ledger"):
            await system.engine.declare(service, ["dose" if service == "clinic" else "taken"])
        await system.client.send_all(*[Dose(number=number) for number in range(50)])
    codes: list[list[int]] = [[] for _ in range(processes)]

    threads = [threading.Thread(target=supervised, args=(sqlite_url, kind, poison, each)) for each in codes]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)

    async with running(sqlite_url, Service("other")) as system:
        effects = Counter(system.execute("SELECT what, number FROM effects"))
        dead = await system.dead()
    healthy = {("taken", number): 1 for number in range(50) if number not in bad}
    rows = {("row", number): 1 for number in range(50) if number not in bad} if kind == "transaction" else {}
    assert effects == healthy | rows
    assert sorted(letter.packet.count(b'"number":') for letter in dead) == [1] * len(bad)
    assert all("its process ended" in letter.reason for letter in dead)
    assert sum(code == 9 for each in codes for code in each) <= 6 * len(bad)


async def test_a_death_makes_no_suspects_of_what_others_are_at_work_on(sqlite_url: str) -> None:
    """RC-22: a sibling dies; the handlers that run here are neither counted nor run again."""
    runs: list[int] = []
    heard: list[int] = []
    gate = asyncio.Event()
    clinic, ledger = Service("clinic"), Service("ledger")

    @clinic.handles
    async def take(event: Dose) -> Taken:
        runs.append(event.number)
        await gate.wait()
        return Taken(number=event.number)

    @ledger.handles
    async def hear(event: Taken) -> None:
        heard.append(event.number)

    async with running(sqlite_url, clinic, ledger, concurrency=5) as system:
        system.execute("CREATE TABLE effects (what TEXT, number INTEGER)")
        await system.client.send_all(*[Dose(number=number) for number in range(5)])
        await until(lambda: len(runs) == 5)
        await system.client.publish(Dose(number=99))
        with program(POISONED, sqlite_url, "transaction", "99") as process:
            assert (await asyncio.to_thread(ends, process, within=20))[0] == 9
        await asyncio.sleep(0.1)
        gate.set()
        await system.quiet(within=3)

    assert sorted(runs) == sorted(heard) == [0, 1, 2, 3, 4, 99]


def test_failing_costs_no_time_that_grows() -> None:
    """RC-14: describing an error of ten megabytes stays within its bounds, and is quick."""
    from outlast.runtime.batch import describe, traced

    error: Any = ValueError("x" * 10_000_000)
    began = time.perf_counter()

    assert len(describe(error)) <= 8_000
    assert len(traced(error)) <= 8_000
    assert time.perf_counter() - began < 1
