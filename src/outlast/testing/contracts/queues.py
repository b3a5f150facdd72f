"""Queues: what goes in comes out, in order, byte for byte, and to one worker at a time."""

from __future__ import annotations

import asyncio

import pytest

from outlast.errors import Conflict
from outlast.ports import Changes
from outlast.testing.contracts.rig import Contract, Rig, promise

PACKETS = {
    "nothing": b"",
    "every byte": bytes(range(256)),
    "unicode": "é ∑ ♥ \U0001d518 \u202e\0".encode(),
    "one MiB": b"x" * (1 << 20),
}


class QueueContract(Contract):
    """Sending, receiving, claiming."""

    @promise()
    async def test_what_is_sent_is_received(self, rig: Rig) -> None:
        """TR-02"""
        packets = [f"packet {number:03}".encode() for number in range(100)]

        await rig.send("shop", *packets)

        assert sorted(await rig.waiting("shop")) == packets

    @pytest.mark.parametrize("name", PACKETS)
    @promise()
    async def test_packets_arrive_byte_for_byte(self, rig: Rig, name: str) -> None:
        """TR-03, TR-04: at the handler, after a claim, and in the dead letter."""
        packet = PACKETS[name]
        await rig.send("shop", packet)
        claimed = await rig.claim("shop", await rig.first("shop"))
        await rig.commit(Changes(released=[claimed]), "shop")
        again = await rig.first("shop")

        await rig.commit(Changes(handled=[again], dead=[rig.letter(again.packet)]), "shop")

        (letter,) = await rig.inspector.dead_letters(status="", id="", limit=9)
        assert claimed.packet == again.packet == letter.letter.packet == packet

    @promise("ordered")
    async def test_the_oldest_message_comes_first(self, rig: Rig) -> None:
        """TR-28"""
        for number in range(3):
            await rig.send("shop", b"%d" % number, b"%d again" % number)

        assert await rig.waiting("shop") == [b"0", b"0 again", b"1", b"1 again", b"2", b"2 again"]

    @promise()
    async def test_receiving_takes_nothing_away(self, rig: Rig) -> None:
        """TR-10: until its turn commits, a message is there."""
        await rig.send("shop", b"1", b"2", b"3")

        some = await rig.receive("shop", limit=2)

        assert len(some) == 2
        assert len(await rig.receive("shop")) == 3

    @promise()
    async def test_what_a_turn_is_about_is_left_out_for_the_next(self, rig: Rig) -> None:
        """TR-10"""
        if rig.engine.turns_at_once == 1:
            pytest.skip("one turn of a service at a time")
        await rig.send("shop", b"1", b"2", b"3")
        some = await rig.receive("shop", limit=2)
        work = await rig.engine.begin("shop")
        await work.first_sight(some)

        assert await rig.waiting("shop") == [b"3"]
        await work.rollback()
        assert await rig.waiting("shop") == [b"1", b"2", b"3"]

    @promise()
    async def test_an_empty_queue_answers_at_once(self, rig: Rig) -> None:
        """TR-06: also one that nobody has ever declared."""
        await rig.engine.declare("shop", [])

        assert await rig.waiting("shop") == []
        assert await rig.waiting("unheard-of") == []

    @promise()
    async def test_a_handled_message_is_gone(self, rig: Rig) -> None:
        """CP-11"""
        await rig.send("shop", b"1", b"2")
        deliveries = await rig.receive("shop")

        await rig.commit(Changes(handled=[d for d in deliveries if d.packet == b"1"]), "shop")

        assert await rig.waiting("shop") == [b"2"]

    @promise()
    async def test_a_turn_that_rolls_back_leaves_its_message(self, rig: Rig) -> None:
        """TR-10"""
        await rig.send("shop", b"1")
        delivery = await rig.first("shop")
        work = await rig.engine.begin("shop")

        await work.first_sight([delivery])
        await work.rollback()
        await work.rollback()

        assert await rig.waiting("shop") == [b"1"]

    @promise()
    async def test_a_message_is_handled_by_one_turn_only(self, rig: Rig) -> None:
        """OB-03, OB-06"""
        await rig.send("shop", b"1")
        delivery = await rig.first("shop")
        await rig.commit(Changes(handled=[delivery]), "shop")

        with pytest.raises(Conflict):
            await rig.commit(Changes(handled=[delivery], parcels=[rig.parcel(b"2", queue="shop")]), "shop")

        assert await rig.first_sight("shop", [delivery]) == set()
        assert await rig.waiting("shop") == []

    @promise()
    async def test_a_claimed_message_is_hidden_from_everybody(self, rig: Rig) -> None:
        other = rig.open()
        await rig.send("shop", b"1")

        claimed = await rig.claim("shop", await rig.first("shop"))

        assert await rig.waiting("shop") == await rig.waiting("shop", other) == []
        assert await rig.first_sight("shop", [claimed]) == {claimed.receipt}

    @promise("leases")
    async def test_a_claim_ends_and_is_counted(self, rig: Rig) -> None:
        """RC-22: a message that kills its process is known by its count."""
        await rig.send("shop", b"1")
        for count in range(3):
            delivery = await rig.first("shop")
            assert delivery.count == count
            await rig.claim("shop", delivery)
            await rig.pass_time(rig.lease)

        assert (await rig.first("shop")).count == 3

    @promise()
    async def test_a_renewed_claim_lasts_longer(self, rig: Rig) -> None:
        await rig.send("shop", b"1")
        claimed = await rig.claim("shop", await rig.first("shop"))
        await rig.pass_time(rig.lease / 2)

        await rig.commit(Changes(renewed=[claimed], claimed_until=rig.world.now() + rig.lease), "shop")
        await rig.pass_time(rig.lease * 0.7)

        assert await rig.waiting("shop") == []
        await rig.commit(Changes(handled=[claimed]), "shop")

    @promise()
    async def test_a_released_message_is_back_at_once_and_uncounted(self, rig: Rig) -> None:
        await rig.send("shop", b"1", b"2")
        claimed = await rig.claim("shop", await rig.first("shop"))

        await rig.commit(Changes(released=[claimed]), "shop")

        assert await rig.waiting("shop") == [b"1", b"2"]
        assert {delivery.count for delivery in await rig.receive("shop")} == {0}

    @promise("ordered")
    async def test_a_message_that_comes_back_keeps_its_place(self, rig: Rig) -> None:
        """P10"""
        await rig.send("shop", b"1", b"2", b"3")
        released = await rig.claim("shop", await rig.first("shop"))
        await rig.claim("shop", await rig.first("shop"))
        assert await rig.waiting("shop") == [b"3"]

        await rig.commit(Changes(released=[released]), "shop")
        await rig.pass_time(rig.lease)

        assert await rig.waiting("shop") == [b"1", b"2", b"3"]

    @promise()
    async def test_queues_do_not_touch_each_other(self, rig: Rig) -> None:
        """TR-36: not even when their receipts look alike."""
        await rig.send("shop", b"shop 1", b"shop 2")
        await rig.send("bank", b"bank 1", b"bank 2")

        await rig.commit(Changes(handled=[await rig.first("shop")]), "shop")
        await rig.claim("bank", await rig.first("bank"))

        assert await rig.waiting("shop") == [b"shop 2"]
        assert await rig.waiting("bank") == [b"bank 2"]

    @promise()
    async def test_acknowledging_changes_nothing_that_was_committed(self, rig: Rig) -> None:
        """CP-10: a broker that hears it late, twice or never hands over nothing that has effect again."""
        await rig.send("shop", b"1", b"2")
        handled = await rig.first("shop")
        await rig.commit(Changes(handled=[handled]), "shop")

        await rig.engine.acknowledge("shop", [handled])
        await rig.engine.acknowledge("shop", [handled])

        assert await rig.first_sight("shop", [handled]) == set()
        assert await rig.waiting("shop") == [b"2"]

    @promise("leases")
    async def test_who_has_lost_a_claim_cannot_commit(self, rig: Rig) -> None:
        """CP-24: a worker that slept through its lease finds that another has its message."""
        other = rig.open()
        await rig.send("shop", b"1")
        lost = await rig.claim("shop", await rig.first("shop"))
        await rig.pass_time(rig.lease)
        taken = await rig.claim("shop", await rig.first("shop", other), other)

        with pytest.raises(Conflict):
            await rig.commit(Changes(handled=[lost], parcels=[rig.parcel(b"ghost", queue="bank")]), "shop")

        assert await rig.first_sight("shop", [lost]) == set()
        assert await rig.first_sight("shop", [taken], other) == {taken.receipt}
        assert await rig.waiting("bank") == []
        await rig.commit(Changes(handled=[taken]), "shop", other)

    @promise("leases")
    async def test_who_has_lost_a_claim_neither_renews_nor_releases_it(self, rig: Rig) -> None:
        """CP-24"""
        other = rig.open()
        await rig.send("shop", b"1")
        lost = await rig.claim("shop", await rig.first("shop"))
        await rig.pass_time(rig.lease)
        taken = await rig.claim("shop", await rig.first("shop", other), other)

        far = rig.world.now() + rig.lease * 100
        await rig.commit(Changes(renewed=[lost], claimed_until=far), "shop")
        await rig.commit(Changes(released=[lost]), "shop")

        assert await rig.waiting("shop") == []
        await rig.pass_time(rig.lease)
        assert (await rig.first("shop")).count == taken.count

    @promise()
    async def test_a_claim_that_ended_is_still_its_owners_until_it_is_claimed_anew(self, rig: Rig) -> None:
        await rig.send("shop", b"1")
        claimed = await rig.claim("shop", await rig.first("shop"))
        await rig.pass_time(rig.lease)

        await rig.commit(Changes(handled=[claimed]), "shop")

        assert await rig.waiting("shop") == []

    @promise("shared")
    async def test_two_workers_cannot_claim_one_message(self, rig: Rig) -> None:
        """OB-06"""
        other = rig.open()
        await rig.send("shop", b"1")
        delivery = await rig.first("shop")
        same = await rig.first("shop", other)
        await rig.claim("shop", delivery)

        with pytest.raises(Conflict):
            await rig.claim("shop", same, other)

    @promise()
    async def test_an_old_delivery_never_fits_a_new_message(self, rig: Rig) -> None:
        """Receipts are not used again after a queue ran empty."""
        await rig.send("shop", b"old")
        old = await rig.first("shop")
        await rig.commit(Changes(handled=[old]), "shop")
        if rig.features.durable:
            await rig.reopen()
        await rig.send("shop", b"new")

        assert await rig.first_sight("shop", [old]) == set()
        with pytest.raises(Conflict):
            await rig.commit(Changes(handled=[old]), "shop")
        assert await rig.waiting("shop") == [b"new"]

    @promise()
    async def test_an_event_goes_to_every_service_that_declared_its_topic(self, rig: Rig) -> None:
        """TR-25, OB-10, PS-01, PS-15: and to nobody when nobody did."""
        await rig.engine.declare("shop", ["placed", "paid"])
        await rig.engine.declare("bank", ["placed"])

        await rig.commit(Changes(parcels=[rig.parcel(b"1", topic="placed"), rig.parcel(b"2", topic="paid")]))
        await rig.commit(Changes(parcels=[rig.parcel(b"3", topic="unheard-of")]))

        assert await rig.waiting("shop") == [b"1", b"2"]
        assert await rig.waiting("bank") == [b"1"]

    @promise()
    async def test_declaring_again_replaces_the_topics_and_keeps_the_messages(self, rig: Rig) -> None:
        """PS-04, PS-11"""
        await rig.engine.declare("shop", ["placed"])
        await rig.commit(Changes(parcels=[rig.parcel(b"1", topic="placed")]))
        await rig.arrived()

        await rig.engine.declare("shop", ["paid"])
        await rig.engine.declare("shop", ["paid"])
        await rig.commit(Changes(parcels=[rig.parcel(b"2", topic="placed"), rig.parcel(b"3", topic="paid")]))

        assert await rig.waiting("shop") == [b"1", b"3"]

    @promise()
    async def test_a_command_to_a_service_that_was_never_up_is_kept(self, rig: Rig) -> None:
        """P2: nothing vanishes."""
        await rig.send("shop", b"1")

        await rig.engine.declare("shop", [])

        assert await rig.waiting("shop") == [b"1"]

    @promise("notifies")
    async def test_who_listens_is_told_of_a_message(self, rig: Rig) -> None:
        """TR-06: no poll interval lies between a message and its receiver."""
        other = rig.open()
        await rig.engine.declare("shop", [])
        told = asyncio.Event()
        rig.engine.listen("shop", told.set)

        await rig.commit(Changes(parcels=[rig.parcel(b"1", queue="shop")]), engine=other)

        async with asyncio.timeout(1):
            await told.wait()
