"""Several engines on one store: side by side, one after the other, and one that is killed."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable
from datetime import timedelta

from outlast.adapters.system import SystemWorld
from outlast.errors import Conflict
from outlast.ports import Changes, Engine, Parcel
from outlast.testing.contracts.rig import Contract, Rig, Store, promise

MESSAGES = 300
CHILD_SECONDS = 30


class ProcessContract(Contract):
    """More than one at a time."""

    @promise()
    async def test_engines_that_compete_handle_every_message_once(self, rig: Rig) -> None:
        """TR-24"""
        await rig.send("shop", *[b"%03d" % number for number in range(MESSAGES)])

        await asyncio.gather(*[compete(engine) for engine in (rig.engine, rig.open(), rig.open())])

        assert sorted(await rig.waiting("done")) == [b"%03d" % number for number in range(MESSAGES)]
        assert await rig.waiting("shop") == []

    @promise("processes")
    async def test_processes_that_compete_handle_every_message_once(self, rig: Rig) -> None:
        """TR-24, OB-06"""
        await rig.send("shop", *[b"%03d" % number for number in range(MESSAGES)])

        children = [Child(_compete, rig.store) for _ in range(2)]
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

    @promise("processes")
    async def test_a_process_that_is_killed_in_a_transaction_leaves_nothing(self, rig: Rig) -> None:
        """CP-02, CP-03: no lock and no trace remain."""
        await rig.engine.declare("shop", [])
        await rig.send("shop", b"1")

        code = await Child(_die_in_a_transaction, rig.store).ended()

        assert code == -signal.SIGKILL
        assert (await rig.first("shop")).packet == b"1"
        await rig.send("shop", b"2")

    @promise("processes", "notices_death")
    async def test_what_a_killed_process_had_claimed_comes_back_when_its_service_starts(self, rig: Rig) -> None:
        """CP-02: at once, and counted, since it may be what killed the process."""
        await rig.send("shop", b"1")

        code = await Child(_die_with_a_claim, rig.store).ended()
        assert code == -signal.SIGKILL
        assert await rig.waiting("shop") == []
        await rig.engine.declare("shop", [])

        assert await rig.waiting("shop") == [b"1"]
        assert (await rig.first("shop")).count >= 1


class Child:
    """A process that runs a function of this module with the store."""

    def __init__(self, target: Callable[[Store], None], store: Store) -> None:
        self.process = multiprocessing.get_context("spawn").Process(target=target, args=(store,))
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


async def compete(engine: Engine) -> None:
    """Takes messages of `shop` until there are none, claiming some first, and sends each on to `done`."""
    ids = SystemWorld()
    while deliveries := await engine.receive("shop", 7):
        work = await engine.begin("shop")
        try:
            fresh = await work.first_sight(deliveries)
            handled = [delivery for delivery in deliveries if delivery.receipt in fresh]
            parcels = [Parcel(ids.new_id(), delivery.packet, queue="done") for delivery in handled]
            await work.commit(Changes(handled=handled, parcels=parcels))
        except Conflict:
            await work.rollback()
        await asyncio.sleep(0)


def _compete(store: Store) -> None:
    async def whole() -> None:
        engine = store.open(SystemWorld())
        await compete(engine)
        await engine.close()

    asyncio.run(whole())


def _die_in_a_transaction(store: Store) -> None:
    async def whole() -> None:
        engine = store.open(SystemWorld())
        work = await engine.begin("shop")
        await work.first_sight(await engine.receive("shop", 9))
        os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(whole())


def _die_with_a_claim(store: Store) -> None:
    async def whole() -> None:
        world = SystemWorld()
        engine = store.open(world)
        await engine.declare("shop", [])
        claimed = await engine.receive("shop", 9)
        work = await engine.begin("shop")
        # Claimed for so long that no clock of a test gets there.
        await work.commit(Changes(claimed=list(claimed), claimed_until=world.now() + timedelta(days=36_500)))
        os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(whole())
