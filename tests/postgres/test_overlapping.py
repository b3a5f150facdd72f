"""Turns of one process that would meet: in rows of the user's, or waiting for a connection."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from outlast import Client, Command, Event, Retry, Service, Transaction, Worker
from outlast.adapters.postgres import PostgresEngine
from outlast.adapters.system import SystemWorld
from outlast.signals import GaveUp, Interrupted, Overruled, Retrying, Signal, Turned

ITEMS = 50


class Take(Command[None], to="stock"):
    item: int


class Counted(Event):
    number: int


class Noted(Event):
    number: int


def handled(signals: list[Signal]) -> int:
    return sum(signal.handled for signal in signals if isinstance(signal, Turned))


def troubles(signals: list[Signal]) -> list[Signal]:
    return [signal for signal in signals if isinstance(signal, (Interrupted, Retrying, GaveUp, Overruled))]


async def until_handled(signals: list[Signal], count: int) -> None:
    async with asyncio.timeout(25):
        while handled(signals) < count:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("order", ["at odds", "one row"])
async def test_handlers_that_share_the_transaction_meet_no_locks_of_their_own_process(
    postgres_database: str, order: str
) -> None:
    """Two turns that write the same rows would wait for each other: the time limits run meanwhile, or for ever."""
    stock, signals = Service("stock"), list[Signal]()

    @stock.prepares
    async def table(transaction: Transaction) -> None:
        await transaction.execute("CREATE TABLE stock (item integer PRIMARY KEY, taken integer NOT NULL DEFAULT 0)")
        await transaction.execute(f"INSERT INTO stock (item) SELECT generate_series(0, {ITEMS - 1})")

    @stock.handles(time_limit=timedelta(seconds=0.5), retry=Retry(immediate=0, delayed=0))
    async def take(command: Take, transaction: Transaction) -> None:
        await transaction.execute("UPDATE stock SET taken = taken + 1 WHERE item = ?", [command.item])
        await asyncio.sleep(0.005)

    items = [number * 7919 % ITEMS if order == "at odds" else 0 for number in range(400)]
    async with Client(postgres_database) as client:
        await client.send_all(*[Take(item=item) for item in items])
    async with Worker([stock], url=postgres_database, batch=120, observe=signals.append):
        await until_handled(signals, len(items))
    assert not troubles(signals)


async def test_services_of_one_process_leave_connections_for_its_clients(postgres_database: str) -> None:
    """Four services in one process, whose handlers send within their turns, over the same engine."""
    world, signals = SystemWorld(), list[Signal]()
    engine = PostgresEngine(postgres_database, world)
    client = Client(engine=engine, world=world)
    services = [Service(f"service-{number}") for number in range(4)]

    async def count(event: Counted, transaction: Transaction) -> None:
        await transaction.execute("SELECT 1")
        await client.publish(Noted(number=event.number))

    for service in services:
        service.handles(count)
    try:
        async with client:
            for service in services:
                await engine.declare(service.name, service.routes.topics)
            await client.send_all(*[Counted(number=number) for number in range(100)])
            async with Worker(services, engine=engine, world=world, batch=16, observe=signals.append):
                await until_handled(signals, 400)
    finally:
        await engine.close()
    assert not troubles(signals)


async def test_turns_overlap_only_while_connections_are_plenty(postgres_database: str) -> None:
    engine = PostgresEngine(f"{postgres_database}?pool=4", SystemWorld())
    try:
        assert engine.turns_at_once > 1
        works = [await engine.begin("") for _ in range(2)]
        assert engine.turns_at_once == 1
        for work in works:
            await work.rollback()
        assert engine.turns_at_once > 1
    finally:
        await engine.close()
