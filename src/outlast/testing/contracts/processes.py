"""Several engines on one store: side by side, one after the other, and one that is killed."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from datetime import timedelta

from outlast.adapters.system import SystemWorld
from outlast.errors import Conflict
from outlast.ports import Changes, Delivery, Engine, Parcel
from outlast.testing.contracts.rig import Contract, Features, Rig, Store, promise

MESSAGES = 300
CHILD_SECONDS = 30
PATIENCE_SECONDS = 0.5
"""Where a broker brings messages, there are no more when none has come for so long."""


class ProcessContract(Contract):
    """More than one at a time."""

    @promise()
    async def test_engines_that_compete_handle_every_message_once(self, rig: Rig) -> None:
        """TR-24"""
        engines = [rig.engine, rig.open(), rig.open()]
        for engine in engines:
            await rig.subscribe("shop", engine)
        await rig.send("shop", *[b"%03d" % number for number in range(MESSAGES)])

        await asyncio.gather(*[compete(engine, rig.features) for engine in engines])

        assert sorted(await rig.waiting("done")) == [b"%03d" % number for number in range(MESSAGES)]
        assert await rig.waiting("shop") == []

    @promise("processes")
    async def test_processes_that_compete_handle_every_message_once(self, rig: Rig) -> None:
        """TR-24, OB-06"""
        await rig.send("shop", *[b"%03d" % number for number in range(MESSAGES)])

        children = [Child(_compete, rig.store, rig.features) for _ in range(2)]
        codes = [await child.ended() for child in children]

        assert codes == [0, 0]
        assert sorted(await rig.waiting("done")) == [b"%03d" % number for number in range(MESSAGES)]

    @promise("durable")
    async def test_what_was_committed_is_there_after_a_restart(self, rig: Rig) -> None:
        """CP-11, P1"""
        await rig.engine.declare("shop", ["placed"])
        due = rig.world.now() + rig.lease
        await rig.commit(Changes(parcels=[rig.parcel(b"later", queue="shop", due=due)], dead=[rig.letter()]))
        await rig.send("shop", b"1", b"2")
        await rig.commit(Changes(handled=[await rig.first("shop")]), "shop")

        await rig.reopen()

        await rig.commit(Changes(parcels=[rig.parcel(b"3", topic="placed")]))
        assert await rig.waiting("shop") == [b"2", b"3"]
        assert len(await rig.inspector.dead_letters(status="open", id="", limit=9)) == 1
        await rig.pass_time(rig.lease)
        await rig.relay()
        assert await rig.waiting("shop") == [b"2", b"3", b"later"]

    @promise()
    async def test_what_an_engine_had_claimed_is_anothers_when_it_is_closed(self, rig: Rig) -> None:
        """TR-10: at once where a broker has the queues, else when the claim ends; and nothing before that."""
        other = rig.open()
        await rig.send("shop", b"1")
        await rig.claim("shop", await rig.first("shop", other), other)
        assert await rig.waiting("shop") == []

        rig.engines.remove(other)
        await other.close()
        await rig.pass_time(rig.lease)

        assert (await rig.comes("shop", b"1")).packet == b"1"

    @promise("processes")
    async def test_a_process_that_is_killed_in_a_transaction_leaves_nothing(self, rig: Rig) -> None:
        """CP-02, CP-03: no lock and no trace remain."""
        await rig.engine.declare("shop", [])
        await rig.send("shop", b"1")

        code = await Child(_die_in_a_transaction, rig.store, rig.features).ended()

        assert code == -signal.SIGKILL
        await rig.comes("shop", b"1")
        assert (await rig.first("shop")).packet == b"1"
        await rig.send("shop", b"2")

    @promise("processes", "notices_death")
    async def test_what_a_killed_process_had_claimed_comes_back_when_its_service_starts(self, rig: Rig) -> None:
        """CP-02: at once, and counted, since it may be what killed the process."""
        await rig.send("shop", b"1")

        code = await Child(_die_with_a_claim, rig.store, rig.features).ended()
        assert code == -signal.SIGKILL
        if rig.features.shared:
            assert await rig.waiting("shop") == []
        await rig.engine.declare("shop", [])

        again = await rig.comes("shop", b"1")
        assert await rig.waiting("shop") == [b"1"]
        # What a broker counts says little, so there a message is no suspect at once.
        assert again.count >= (1 if rig.features.shared else 0)


class Child:
    """A process that runs a function of this module with the store."""

    def __init__(self, target: Callable[[Store, Features], None], store: Store, features: Features) -> None:
        self.process = multiprocessing.get_context("spawn").Process(target=target, args=(store, features))
        self.process.start()

    async def ended(self) -> int | None:
        """Waits for its end; returns its exit code, negative for a signal."""
        await asyncio.to_thread(self.process.join, CHILD_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        code = self.process.exitcode
        self.process.close()
        return code


async def take(engine: Engine, features: Features, limit: int) -> Sequence[Delivery]:
    """What waits at `shop`; where a broker brings it, what comes within a time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (0.0 if features.shared else PATIENCE_SECONDS + features.arrives_within.total_seconds())
    while True:
        found = await engine.receive("shop", limit)
        if found or loop.time() >= deadline:
            return found
        await asyncio.sleep(0.01)


async def compete(engine: Engine, features: Features) -> None:
    """Takes messages of `shop` until there are none, and sends each on to `done`."""
    ids = SystemWorld()
    while deliveries := await take(engine, features, 7):
        work = await engine.begin("shop")
        try:
            fresh = await work.first_sight(deliveries)
            handled = [delivery for delivery in deliveries if delivery.receipt in fresh]
            parcels = [Parcel(ids.new_id(), delivery.packet, queue="done") for delivery in handled]
            await work.commit(Changes(handled=handled, parcels=parcels))
            await engine.acknowledge("shop", deliveries)
        except Conflict:
            await work.rollback()
        await asyncio.sleep(0)


def _compete(store: Store, features: Features) -> None:
    async def whole() -> None:
        engine = store.open(SystemWorld())
        if not features.shared:
            await engine.declare("shop", [])
        await compete(engine, features)
        await engine.close()

    asyncio.run(whole())


def _die_in_a_transaction(store: Store, features: Features) -> None:
    async def whole() -> None:
        engine = store.open(SystemWorld())
        if not features.shared:
            await engine.declare("shop", [])
        found = await take(engine, features, 9)
        work = await engine.begin("shop")
        await work.first_sight(found)
        os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(whole())


def _die_with_a_claim(store: Store, features: Features) -> None:
    async def whole() -> None:
        world = SystemWorld()
        engine = store.open(world)
        await engine.declare("shop", [])
        claimed = await take(engine, features, 9)
        work = await engine.begin("shop")
        # Claimed for so long that no clock of a test gets there.
        await work.commit(Changes(claimed=list(claimed), claimed_until=world.now() + timedelta(days=36_500)))
        os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(whole())
