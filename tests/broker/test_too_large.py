"""What a broker will never take is set aside, and holds up nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from outlast import Client, Command, Service, Worker
from outlast.adapters.broker import BrokerEngine
from outlast.adapters.memory import MemoryEngine, MemoryStore
from outlast.adapters.system import SystemWorld
from outlast.engines import inspector_of
from outlast.errors import Misuse
from outlast.ports import Parcel
from outlast.testing.broker import SimulatedBroker, SimulatedTransport

LARGEST = 1_000


class Print(Command[None], to="printer"):
    text: str


class Narrow(SimulatedTransport):
    """Takes small messages only, as brokers with a limit do."""

    async def publish(self, parcels: Sequence[Parcel]) -> None:
        for parcel in parcels:
            if len(parcel.packet) > LARGEST:
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
