"""The packets in the history of a turn, which the server takes over from the queue by itself."""

from __future__ import annotations

from datetime import timedelta

from outlast.adapters.postgres import PostgresEngine
from outlast.adapters.system import SystemWorld
from outlast.ports import Changes, Delivery, Entry, Parcel

LARGE = bytes(range(256)) * 64
"""More than a row of a table holds as it is."""


async def test_what_was_handed_over_how_often_makes_no_difference_to_its_packet(postgres_database: str) -> None:
    world = SystemWorld()
    engine = PostgresEngine(postgres_database, world)
    packets = [b"first", b"", LARGE, b"fourth", b"fifth"]
    try:
        await engine.declare("payment", [])
        work = await engine.begin("")
        await work.commit(Changes(parcels=[Parcel(world.new_id(), packet, queue="payment") for packet in packets]))

        some = list(await engine.receive("payment", 2))
        work = await engine.begin("payment")
        await work.first_sight(some)
        await work.commit(Changes(claimed=some, claimed_until=world.now() + timedelta(minutes=1)))
        claimed = [Delivery(d.receipt, d.packet, d.count + 1) for d in some]
        all_of_them = [*claimed, *await engine.receive("payment", 9)]

        work = await engine.begin("payment")
        assert len(await work.first_sight(all_of_them)) == len(packets)
        entries = [
            Entry("c", world.now(), "payment", "handled", d.packet, key=str(n), receipt=d.receipt)
            for n, d in enumerate(all_of_them)
        ]
        elsewhere = Entry("c", world.now(), "payment", "failed", b"of an earlier attempt", key="5")
        await work.commit(Changes(handled=all_of_them, history=[*entries, elsewhere]))

        inspector = engine.inspector()
        found = await inspector.history(conversation="c", after=0, limit=10)
        assert [entry.packet for _, entry in found] == [*packets, b"of an earlier attempt"]
        assert await engine.fetch("looking", "SELECT 1 FROM outlast.messages") == []
    finally:
        await engine.close()
