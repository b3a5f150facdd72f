"""Events, and answers to requests."""

from __future__ import annotations

import pytest

from outlast.ports import Parcel
from tests.nats.rig import opened, tags, until, until_nothing_is_kept, world


def event(topic: str, packet: bytes = b"") -> Parcel:
    return Parcel(world.new_id(), packet, topic=topic)


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_an_event_reaches_each_service_that_wants_it(nats_account: str, count: int) -> None:
    """PS-01, PS-15. When the last one has acknowledged it, it is not kept for long."""
    async with opened(nats_account) as (transport, remembered):
        names = [f"service{number}" for number in range(count)]
        for name in names:
            await transport.declare(name, ["paid", f"only.{name}"], [])
        await transport.declare("other", ["refunded"], [])

        await transport.publish([event("paid", b"%d" % number) for number in range(40)])

        for name in names:
            got = await remembered.wait_for(name, 40)
            assert [a.packet for a in got] == [b"%d" % number for number in range(40)]
            await transport.acknowledge(tags(got))
        assert remembered.of("other") == []
        await until_nothing_is_kept(nats_account)


async def test_a_service_that_is_down_gets_its_events_later(nats_account: str) -> None:
    """PS-03."""
    async with opened(nats_account) as (transport, _):
        await transport.declare("mail", ["paid"], [])
    async with opened(nats_account) as (transport, _):
        await transport.publish([event("paid") for _ in range(100)])
        assert await transport.depths(["mail"]) == {"mail": 100}

    async with opened(nats_account) as (transport, remembered):
        await transport.declare("mail", ["paid"], [])
        assert len(await remembered.wait_for("mail", 100)) == 100


async def test_a_service_gets_no_events_of_the_time_before_it_wanted_them(nats_account: str) -> None:
    async with opened(nats_account) as (transport, remembered):
        await transport.declare("slow", ["paid"], [])
        await transport.publish([event("paid", b"before")])

        await transport.declare("mail", ["paid"], [])

        await transport.publish([event("paid", b"after")])
        await remembered.wait_for("slow", 2)
        assert [a.packet for a in await remembered.wait_for("mail", 1)] == [b"after"]


async def test_dropped_topics_come_no_more_and_are_not_kept(nats_account: str) -> None:
    """PS-04. Events of a dropped topic that waited for this service alone go too."""
    async with opened(nats_account) as (transport, _):
        await transport.declare("mail", ["paid", "sent"], [])
        await transport.declare("audit", ["paid"], [])
    async with opened(nats_account) as (transport, remembered):
        await transport.publish([event(topic) for topic in ("paid", "sent") for _ in range(5)])

        await transport.declare("mail", ["sent", "lost"], ["paid"])
        await transport.declare("audit", [], ["paid"])

        await transport.publish([event("paid"), event("sent", b"new"), event("lost", b"new")])
        got = await remembered.wait_for("mail", 7)
        assert [a.packet for a in got[-2:]] == [b"new", b"new"]
        assert len(got) == 7
        await transport.acknowledge(tags(got))
        assert remembered.of("audit") == []
        await until_nothing_is_kept(nats_account)


async def test_topics_can_be_taken_up_again(nats_account: str) -> None:
    async with opened(nats_account) as (transport, remembered):
        await transport.declare("mail", ["paid"], [])
        await transport.declare("mail", [], ["paid"])
        await transport.publish([event("paid", b"unwanted")])

        await transport.declare("mail", ["paid"], [])

        await transport.publish([event("paid", b"wanted")])
        assert [a.packet for a in await remembered.wait_for("mail", 1)] == [b"wanted"]


async def test_an_answer_reaches_the_process_that_asked(nats_account: str) -> None:
    """RR-01, RR-02."""
    async with opened(nats_account) as (one, at_one), opened(nats_account) as (two, at_two):
        await one.declare("payment", [], [])
        await two.declare("payment", [], [])

        await two.publish([Parcel("a", b"yes", reply_to=f"request 7@x@{one.reply_address}")])
        await two.publish([Parcel("b", b"paid", topic="paid", reply_to=f"r8@{one.reply_address}")])

        await until(lambda: len(at_one.answers) == 2, "two answers")
        assert at_one.answers == [("request 7@x", b"yes"), ("r8", b"paid")]
        assert at_two.answers == []


async def test_an_address_leads_nowhere_else(nats_account: str) -> None:
    """RR-04, RR-07. A late answer vanishes, and what pretends to be an address is none of our queues."""
    async with opened(nats_account) as (transport, remembered):
        await transport.declare("payment", [], [])

        for address in ("gone", "outlast.q.payment", "../q.payment", "$JS.API.STREAM.DELETE.outlast", "", "*"):
            await transport.publish([Parcel("x", b"", reply_to=f"r@{address}")])

        assert await transport.depths(["payment"]) == {"payment": 0}
        assert remembered.answers == []
