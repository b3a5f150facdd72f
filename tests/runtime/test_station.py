"""Turns that overlap: the next one begins before the last has ended, and they do not get in each other's way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import msgspec

from outlast import Client, Command, Event, Service, Worker, Workflow, on, starts
from outlast.adapters.memory import MemoryEngine, MemoryStore, MemoryWork
from outlast.adapters.system import SystemWorld
from outlast.errors import Unavailable
from outlast.ports import Changes, Delivery
from outlast.signals import Interrupted, Overruled, Signal

BATCH = 4


class SlowEngine(MemoryEngine):
    """Its commits wait until they are let go, as those of a server that has much to do."""

    turns_at_once = 2

    def __init__(self) -> None:
        super().__init__(MemoryStore(), SystemWorld())
        self.committing: list[Changes] = []
        self.most_at_once = 0
        self.gate = asyncio.Event()
        self.own_gates: list[asyncio.Event] = []
        """Of the next commits, one each."""
        self.failures: list[Exception] = []
        self.about: dict[int, set[Any]] = {}
        self.asked_for: list[int] = []
        self.tidying_seconds = 0.0

    async def receive(self, service: str, limit: int) -> Sequence[Delivery]:
        self.asked_for.append(limit)
        taken = {receipt for receipts in self.about.values() for receipt in receipts}
        rows = await super().receive(service, limit + len(taken))
        return [row for row in rows if row.receipt not in taken][:limit]

    async def begin(self, service: str) -> Any:
        return SlowWork(self, service) if service else MemoryWork(self, service)


class SlowWork(MemoryWork):
    async def first_sight(self, deliveries: Sequence[Delivery]) -> set[Any]:
        assert isinstance(self.engine, SlowEngine)
        self.engine.about[id(self)] = {delivery.receipt for delivery in deliveries}
        return await super().first_sight(deliveries)

    async def commit(self, changes: Changes) -> None:
        engine = self.engine
        assert isinstance(engine, SlowEngine)
        engine.committing.append(changes)
        engine.most_at_once = max(engine.most_at_once, len(engine.committing))
        try:
            await (engine.own_gates.pop(0) if engine.own_gates else engine.gate).wait()
            if engine.failures:
                raise engine.failures.pop()
            await super().commit(changes)
        finally:
            if engine.tidying_seconds:
                await asyncio.sleep(engine.tidying_seconds)
            engine.committing.remove(changes)
            engine.about.pop(id(self), None)


class Begun(Event):
    key: str


class Step(Event):
    key: str
    number: int


class Steps(Workflow, key="key"):
    numbers: list[int] = []

    @starts
    def begun(self, event: Begun) -> None: ...

    @on
    def stepped(self, event: Step) -> None:
        self.numbers.append(event.number)


class Ship(Command[None], to="depot"):
    number: int


@asynccontextmanager
async def at_work(
    engine: SlowEngine, service: Service, *, concurrency: int = 100, grace: timedelta = timedelta(seconds=5)
) -> AsyncGenerator[tuple[Client, list[Signal]]]:
    signals: list[Signal] = []
    async with (
        Worker(
            [service],
            engine=engine,
            world=engine.world,
            batch=BATCH,
            concurrency=concurrency,
            grace=grace,
            poll=timedelta(seconds=5),
            observe=signals.append,
        ),
        Client(engine=engine, world=engine.world) as client,
    ):
        yield client, signals


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():
            await asyncio.sleep(0.005)


def numbers_of(engine: SlowEngine, key: str) -> list[int]:
    [row] = [row for address, row in engine.store.instances.items() if address.key == key]
    return msgspec.json.decode(row.saved.state)["state"].get("numbers", [])


STEPS = Service("steps", workflows=[Steps])


async def test_the_next_turn_begins_before_the_last_has_ended() -> None:
    engine = SlowEngine()
    async with at_work(engine, STEPS) as (client, _):
        await client.send_all(*[Begun(key=str(n)) for n in range(4 * BATCH)])
        await until(lambda: len(engine.committing) == 2)
        assert [len(changes.handled) for changes in engine.committing] == [BATCH, BATCH]
        engine.gate.set()
        await until(lambda: len(engine.store.instances) == 4 * BATCH)
    assert engine.most_at_once == 2


async def test_a_turn_that_is_not_full_is_not_overtaken() -> None:
    """What comes meanwhile makes the next turn fuller instead."""
    engine = SlowEngine()
    async with at_work(engine, STEPS) as (client, _):
        await client.send_all(*[Begun(key=str(n)) for n in range(BATCH - 1)])
        await until(lambda: len(engine.committing) == 1)
        await client.send_all(*[Begun(key=f"later {n}") for n in range(BATCH)])
        await asyncio.sleep(0.05)
        assert len(engine.committing) == 1
        engine.gate.set()
        await until(lambda: len(engine.store.instances) == 2 * BATCH - 1)


async def test_no_two_turns_have_the_same_instance() -> None:
    engine = SlowEngine()
    async with at_work(engine, STEPS) as (client, signals):
        engine.gate.set()
        await client.publish(Begun(key="a"))
        await until(lambda: len(engine.store.instances) == 1)
        engine.gate.clear()
        await client.send_all(*[Step(key="a", number=n) for n in range(3 * BATCH)])
        await until(lambda: len(engine.committing) == 1)
        await asyncio.sleep(0.05)
        assert len(engine.committing) == 1
        engine.gate.set()
        await until(lambda: len(numbers_of(engine, "a")) == 3 * BATCH)
    assert numbers_of(engine, "a") == list(range(3 * BATCH))
    assert not [signal for signal in signals if isinstance(signal, Overruled)]


async def test_no_more_handlers_begin_than_there_is_room_for() -> None:
    engine, depot = SlowEngine(), Service("depot")
    running, most = 0, 0

    @depot.handles
    async def ship(command: Ship) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    async with at_work(engine, depot, concurrency=BATCH + 2) as (client, _):
        await client.send_all(*[Ship(number=n) for n in range(5 * BATCH)])
        await until(lambda: len(engine.committing) == 2)
        assert [len(changes.claimed) for changes in engine.committing] == [BATCH, 2]
        engine.gate.set()
        await until(lambda: not engine.store.queues["depot"])
    assert most <= BATCH + 2


async def test_no_more_is_received_than_there_is_room_for() -> None:
    engine, depot, is_open = SlowEngine(), Service("depot"), asyncio.Event()

    @depot.handles
    async def ship(command: Ship) -> None:
        await is_open.wait()

    engine.gate.set()
    async with at_work(engine, depot, concurrency=BATCH + 2) as (client, _):
        await client.send_all(*[Ship(number=n) for n in range(5 * BATCH)])
        await until(lambda: sum(row.count for row in engine.store.queues["depot"].values()) == BATCH + 2)
        await client.send_all(*[Ship(number=n) for n in range(BATCH)])
        await asyncio.sleep(0.05)
        assert engine.asked_for[-2:] == [BATCH, 2]
        is_open.set()
        await until(lambda: not engine.store.queues["depot"])


async def test_what_handlers_did_is_not_lost_with_a_turn_that_fails_while_another_goes_on() -> None:
    engine, depot = SlowEngine(), Service("depot")
    runs: list[int] = []

    @depot.handles
    async def ship(command: Ship) -> None:
        runs.append(command.number)
        if len(runs) == 1:
            engine.gate.clear()

    async with at_work(engine, depot) as (client, signals):
        engine.gate.set()
        await client.send_all(*[Ship(number=n) for n in range(10 * BATCH)])
        await until(lambda: len(engine.committing) == 2)
        assert any(changes.handled for changes in engine.committing)
        engine.failures += [Unavailable("not just now"), Unavailable("nor now")]
        engine.gate.set()
        await until(lambda: not engine.store.queues["depot"])

    assert sorted(runs) == list(range(10 * BATCH))
    assert len([signal for signal in signals if isinstance(signal, Interrupted)]) == 2


async def test_a_worker_that_stops_lets_its_turns_end() -> None:
    engine = SlowEngine()
    first, second = engine.own_gates = [asyncio.Event(), asyncio.Event()]
    async with at_work(engine, STEPS) as (client, _):
        await client.send_all(*[Begun(key=str(n)) for n in range(2 * BATCH)])
        await until(lambda: len(engine.committing) == 2)
        second.set()
        asyncio.get_running_loop().call_later(0.1, first.set)
    assert len(engine.store.instances) == 2 * BATCH


async def test_a_worker_that_must_not_wait_waits_for_the_end_of_what_it_breaks_off() -> None:
    """What is provided to handlers, and the engine, are closed after that."""
    engine = SlowEngine()
    engine.tidying_seconds = 0.05
    async with at_work(engine, STEPS, grace=timedelta(0)) as (client, _):
        await client.send_all(*[Begun(key=str(n)) for n in range(2 * BATCH)])
        await until(lambda: len(engine.committing) == 2)
    assert not engine.committing


async def test_it_rests_longer_each_time_while_every_commit_fails() -> None:
    engine = SlowEngine()
    engine.gate.set()
    engine.failures = [Unavailable("the disk is full")] * 1000
    engine.tidying_seconds = 0.01
    async with at_work(engine, STEPS) as (client, signals):
        await client.send_all(*[Begun(key=str(n)) for n in range(5 * BATCH)])
        await asyncio.sleep(0.1)
        engine.most_at_once = 0
        await asyncio.sleep(1.5)
        assert engine.most_at_once == 1  # more than one turn at a time only if that goes well
        failures = [signal for signal in signals if isinstance(signal, Interrupted)]
        assert 3 <= len(failures) <= 7  # after 0, 0.05, 0.15, 0.35, 0.75 and 1.55 seconds, of which one overlapped
        engine.failures = []
        await until(lambda: len(engine.store.instances) == 5 * BATCH)
    assert engine.most_at_once == 2
