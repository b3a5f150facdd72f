"""What a broker will never take is set aside, and holds up nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from outlast import Client, Command, Event, Failed, Service, Worker, Workflow, on, starts
from outlast.adapters.broker import BrokerEngine
from outlast.adapters.memory import MemoryEngine, MemoryStore
from outlast.adapters.system import SystemWorld
from outlast.engines import inspector_of
from outlast.errors import Misuse, RequestFailed
from outlast.ports import Parcel
from outlast.testing.broker import SimulatedBroker, SimulatedTransport

LARGEST = 1_000


class Print(Command[None], to="printer"):
    text: str


class Narrow(SimulatedTransport):
    """Takes small messages only, as brokers with a limit do."""

    def __init__(self, broker: SimulatedBroker, largest: int = LARGEST) -> None:
        super().__init__(broker)
        self.largest = largest

    async def publish(self, parcels: Sequence[Parcel]) -> None:
        for parcel in parcels:
            if len(parcel.packet) > self.largest:
                raise Misuse(f"the message {parcel.id} has {len(parcel.packet)} bytes")
        await super().publish(parcels)


async def test_a_message_that_is_too_large_becomes_a_dead_letter_and_the_others_arrive() -> None:
    """PO-06: in one transaction with others or not."""
    world = SystemWorld()
    engine = BrokerEngine(Narrow(SimulatedBroker("rabbitmq")), MemoryEngine(MemoryStore(), world), world)
    printer = Service("printer")
    seen: list[str] = []

    @printer.handles
    async def print_it(command: Print) -> None:
        seen.append(command.text)

    async with Worker([printer], engine=engine, world=world), Client(engine=engine, world=world) as client:
        await client.send_all(Print(text="a"), Print(text="x" * LARGEST), Print(text="b"))
        await client.send(Print(text="c"))
        async with asyncio.timeout(10):
            while len(seen) < 3 or not (dead := await inspector_of(engine).dead_letters(status="open", id="", limit=9)):
                await asyncio.sleep(0.02)

    assert sorted(seen) == ["a", "b", "c"]
    [item] = dead
    assert item.letter.service == "printer"
    assert "does not take it" in item.letter.reason
    assert item.letter.message_id
    assert engine.trouble == ""
    await engine.close()


class Printed(Event):
    order_id: str


class PrintLabel(Command[Printed], to="printer"):
    order_id: str
    text: str
    image: bytes
    lines: list[str]


class Ordered(Event):
    order_id: str


class Labels(Workflow, key="order_id"):
    failure: str = ""

    @starts
    def ordered(self, event: Ordered) -> PrintLabel:
        return large(event.order_id)

    @on
    def not_printed(self, event: Failed[PrintLabel]) -> None:
        assert event.command.order_id == "1"
        assert large("1").image.startswith(event.command.image)
        assert large("1").text.startswith(event.command.text)
        self.failure = event.reason


def large(order_id: str) -> PrintLabel:
    return PrintLabel(order_id=order_id, text="é" * 3_000, image=bytes(range(256)) * 9, lines=["x"] * 20_000)


async def test_whoever_asked_for_what_is_too_large_is_told_that_it_failed() -> None:
    """PO-06, RR-08: the instance that sent it, and the client that waits for its answer; and nobody is told twice."""
    world = SystemWorld()
    engine = BrokerEngine(Narrow(SimulatedBroker("rabbitmq"), 10_000), MemoryEngine(MemoryStore(), world), world)
    shop = Service("shop", workflows=[Labels])

    async with Worker([shop], engine=engine, world=world), Client(engine=engine, world=world) as client:
        with pytest.raises(RequestFailed, match="does not take it"):
            await client.request(large("2"), timeout=timedelta(seconds=10))
        await client.publish(Ordered(order_id="1"))
        async with asyncio.timeout(10):
            while b"does not take it" not in await _state(engine):
                await asyncio.sleep(0.02)

    dead = await inspector_of(engine).dead_letters(status="open", id="", limit=9)
    assert [item.letter.type for item in dead] == ["print-label", "print-label"]
    await engine.close()


async def _state(engine: BrokerEngine) -> bytes:
    found = await inspector_of(engine).instances(key="1", done=None, limit=1)
    return bytes(found[0].state) if found else b""
