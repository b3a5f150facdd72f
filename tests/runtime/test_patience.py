"""What a worker does with messages whose processes died: doubt grows in steps, and stops nobody else."""

from __future__ import annotations

import asyncio

from outlast import Client, Command, Service, Worker
from outlast.adapters.memory import MemoryEngine, MemoryStore
from outlast.adapters.system import SystemWorld
from outlast.core.recovery import Patience


class Ask(Command[None], to="agency"):
    number: int


async def most_at_once(*, died: int, messages: int) -> tuple[int, int]:
    """How many slow handlers run at once after so many deaths, and how many were done while others waited."""
    world, store = SystemWorld(), MemoryStore()
    agency = Service("agency")
    running = most = done = 0

    @agency.handles
    async def ask(command: Ask) -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.2)  # long enough for all of them to begin, whatever else the machine does
        running -= 1
        done += 1

    async with Client(engine=MemoryEngine(store, world), world=world) as client:
        await client.send_all(*[Ask(number=n) for n in range(messages)])
    for row in store.queues["agency"].values():
        row.count = died
    engine = MemoryEngine(store, world)
    async with Worker([agency], engine=engine, world=world):
        for _ in range(500):
            if done == messages:
                break
            await asyncio.sleep(0.01)
    return most, done


async def test_messages_that_are_doubted_hold_up_no_others() -> None:
    """Though they stand before them, and no more of them may run."""
    engine = MemoryEngine(MemoryStore(), SystemWorld())
    agency, begun, is_open = Service("agency"), list[int](), asyncio.Event()

    @agency.handles
    async def ask(command: Ask) -> None:
        begun.append(command.number)
        await is_open.wait()

    async with Client(engine=engine, world=engine.world) as client:
        await client.send_all(*[Ask(number=n) for n in range(25)])
        for row in list(engine.store.queues["agency"].values())[:20]:
            row.count = 2
        async with Worker([agency], engine=engine, world=engine.world, concurrency=15):
            for _ in range(100):
                if len(begun) == 15:
                    break
                await asyncio.sleep(0.01)
            few = Patience().few
            assert sorted(begun) == [*range(few), *range(20, 25)]
            is_open.set()


async def test_one_death_changes_nothing() -> None:
    assert await most_at_once(died=1, messages=30) == (30, 30)


async def test_after_two_deaths_only_a_few_are_handled_at_once() -> None:
    assert await most_at_once(died=2, messages=30) == (Patience().few, 30)


async def test_after_three_deaths_each_is_handled_alone() -> None:
    assert await most_at_once(died=3, messages=5) == (1, 5)
