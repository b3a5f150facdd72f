"""Letters with a date, ids that are sent once, and replies."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from outlast.ports import RELAY, REPLIES, Changes, Withdrawn
from outlast.testing.contracts.rig import Contract, Rig, promise


class LetterContract(Contract):
    """Later, once, and in reply."""

    @promise()
    async def test_a_dated_letter_is_not_early_and_not_lost(self, rig: Rig) -> None:
        """TO-01"""
        due = rig.world.now() + rig.lease
        await rig.commit(Changes(parcels=[rig.parcel(b"1", queue="shop", due=due)]))
        await rig.relay()
        assert await rig.waiting("shop") == []

        await rig.pass_time(rig.lease)
        await rig.relay()
        await rig.relay()

        assert await rig.waiting("shop") == [b"1"]

    @promise()
    async def test_a_letter_whose_date_is_past_leaves_at_once(self, rig: Rig) -> None:
        """TO-02"""
        now = rig.world.now()
        past = [rig.parcel(b"1", queue="shop", due=now), rig.parcel(b"2", queue="shop", due=now - timedelta(1))]

        await rig.commit(Changes(parcels=past))

        assert await rig.waiting("shop") == [b"1", b"2"]

    @promise("ordered")
    async def test_letters_arrive_in_the_order_of_their_dates(self, rig: Rig) -> None:
        now = rig.world.now()
        for minutes in (0.3, 0.1, 0.2):
            due = now + rig.lease * minutes
            await rig.commit(Changes(parcels=[rig.parcel(str(minutes).encode(), queue="shop", due=due)]))

        await rig.pass_time(rig.lease)
        await rig.relay(limit=2)

        assert await rig.waiting("shop") == [b"0.1", b"0.2"]

    @promise()
    async def test_the_relay_says_when_it_is_needed_next(self, rig: Rig) -> None:
        assert await rig.relay() is None
        due = rig.world.now() + rig.lease
        later = due + rig.lease
        for date in (later, due, due):
            await rig.commit(Changes(parcels=[rig.parcel(b"1", queue="shop", due=date)]))

        assert await rig.relay() == due
        await rig.pass_time(rig.lease)
        now = rig.world.now()
        at_once = await rig.relay(limit=1)
        assert at_once is not None
        assert at_once <= now
        await rig.relay()
        assert await rig.relay() == later

    @promise()
    async def test_a_dated_event_goes_to_its_topic(self, rig: Rig) -> None:
        await rig.engine.declare("shop", ["placed"])
        due = rig.world.now() + rig.lease
        await rig.commit(Changes(parcels=[rig.parcel(b"1", topic="placed", due=due)]))

        await rig.pass_time(rig.lease)
        await rig.relay()

        assert await rig.waiting("shop") == [b"1"]

    @promise()
    async def test_a_withdrawn_letter_does_not_come(self, rig: Rig) -> None:
        """TO-20: and nothing happens when it is withdrawn again, or too late."""
        due = rig.world.now() + rig.lease
        one, two = (rig.parcel(packet, queue="shop", due=due) for packet in (b"1", b"2"))
        await rig.commit(Changes(parcels=[one, two]))

        await rig.commit(Changes(withdrawn=[Withdrawn(one.id, due)]))
        await rig.commit(Changes(withdrawn=[Withdrawn(one.id, due)]))
        await rig.pass_time(rig.lease)
        await rig.relay()
        await rig.commit(Changes(withdrawn=[Withdrawn(two.id, due)]))

        assert await rig.waiting("shop") == [b"2"]

    @promise()
    async def test_an_id_that_a_caller_gave_is_sent_once(self, rig: Rig) -> None:
        """P1: a client that crashed after sending may send again."""
        other = rig.open()
        one = rig.parcel(b"1", queue="shop", once=True)
        await rig.commit(Changes(parcels=[one, one]))

        await rig.commit(Changes(parcels=[one, rig.parcel(b"2", queue="shop", once=True)]), engine=other)

        assert await rig.waiting("shop") == [b"1", b"2"]

    @promise()
    async def test_an_id_is_free_again_when_its_transaction_failed(self, rig: Rig) -> None:
        """CP-21"""
        one = rig.parcel(b"1", queue="shop", once=True)
        work = await rig.engine.begin("")
        await work.rollback()

        await rig.commit(Changes(parcels=[one]))

        assert await rig.waiting("shop") == [b"1"]

    @promise()
    async def test_a_dated_id_is_sent_once(self, rig: Rig) -> None:
        due = rig.world.now() + rig.lease
        one = rig.parcel(b"1", queue="shop", due=due, once=True)
        await rig.commit(Changes(parcels=[one]))
        await rig.commit(Changes(parcels=[one]))

        await rig.pass_time(rig.lease)
        await rig.relay()
        await rig.commit(Changes(parcels=[one]))

        assert await rig.waiting("shop") == [b"1"]

    @promise()
    async def test_a_reply_is_given_once(self, rig: Rig) -> None:
        """P15, RR-01: to who asked, and to no other request."""
        other = rig.open()
        await rig.engine.declare("shop", ["paid"])
        assert await rig.engine.reply("request") is None
        reply_to = await self._asked(rig)

        await rig.commit(Changes(parcels=[rig.parcel(b"1", topic="paid", reply_to=reply_to)]), engine=other)
        await rig.arrived()

        assert await rig.engine.reply("another") is None
        assert await rig.engine.reply("request") == b"1"
        assert await rig.engine.reply("request") is None
        assert await rig.waiting("shop") == [b"1"]

    async def _asked(self, rig: Rig) -> str:
        """Where to answer a request that is on its way: whoever asks can be answered from then on."""
        reply_to = rig.engine.reply_to("request")
        await rig.send("bank", b"request")
        await rig.arrived()
        return reply_to

    @promise("notifies")
    async def test_clients_and_the_relay_are_told(self, rig: Rig) -> None:
        other = rig.open()
        replied, dated = asyncio.Event(), asyncio.Event()
        rig.engine.listen(REPLIES, replied.set)
        rig.engine.listen(RELAY, dated.set)
        due = rig.world.now() + rig.lease
        reply_to = await self._asked(rig)

        await rig.commit(Changes(parcels=[rig.parcel(b"1", reply_to=reply_to)]), engine=other)
        await rig.commit(Changes(parcels=[rig.parcel(b"1", queue="shop", due=due)]), engine=other)

        async with asyncio.timeout(1):
            await replied.wait()
            await dated.wait()
