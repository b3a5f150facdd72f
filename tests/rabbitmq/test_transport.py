"""What goes out comes in: commands, events, answers, acknowledgements."""

from __future__ import annotations

import asyncio

import pika
import pytest

from outlast.errors import Misuse
from outlast.ports import Parcel
from tests.rabbitmq.desk import Desk, desk, foreign, until, with_option


async def test_packets_arrive_as_they_were_sent(rabbitmq_vhost: str) -> None:
    """TR-01, TR-03: no byte, all bytes, and more bytes than fit into a frame."""
    packets = {"none": b"", "all": bytes(range(256)), "large": bytes(range(256)) * 4096, "odd": b"x" * 131_064}
    async with desk(rabbitmq_vhost, "payment") as one:
        await one.transport.publish([Parcel(id, packet, queue="payment") for id, packet in packets.items()])

        await one.has(*packets)
        assert {arrival.id: arrival.packet for _, arrival in one.arrivals} == packets


async def test_each_packet_has_its_own_id(rabbitmq_vhost: str) -> None:
    """TR-02"""
    async with desk(with_option(rabbitmq_vhost, prefetch=10_000), "payment") as one:
        await one.transport.publish([Parcel(f"m{n}é", f"packet {n}".encode(), queue="payment") for n in range(5_000)])

        await until(lambda: len(one.arrivals) == 5_000)
        assert {a.id: a.packet for _, a in one.arrivals} == {f"m{n}é": f"packet {n}".encode() for n in range(5_000)}


async def test_a_command_waits_for_a_service_that_was_never_up(rabbitmq_vhost: str) -> None:
    async with desk(rabbitmq_vhost) as client:
        await client.publish("1", "2", to="warehouse")

    async with desk(rabbitmq_vhost, "warehouse") as one:
        await one.has("1", "2")


async def test_every_subscriber_gets_an_event_once_however_many_processes_it_has(rabbitmq_vhost: str) -> None:
    """PS-01, PS-02, PS-08, PS-11: also when its process has subscribed twice."""
    ids = [str(number) for number in range(100)]
    async with (
        desk(rabbitmq_vhost, "audit", topics=["Paid"]) as audit,
        desk(rabbitmq_vhost, "shipping", topics=["Paid", "Lost"]) as first,
        desk(rabbitmq_vhost, "shipping", topics=["Paid", "Lost"]) as second,
        desk(rabbitmq_vhost) as client,
    ):
        await first.transport.declare("shipping", ["Paid", "Lost"], [])
        audit.acknowledges = first.acknowledges = second.acknowledges = True

        await client.transport.publish([Parcel(id, b"{}", topic="Paid") for id in ids])

        await until(lambda: len(first.arrivals) + len(second.arrivals) >= 100 and len(audit.arrivals) >= 100)
        assert sorted(first.ids + second.ids) == sorted(ids) == sorted(audit.ids)


async def test_a_subscriber_that_is_away_gets_its_events_later(rabbitmq_vhost: str) -> None:
    """PS-03"""
    ids = [str(number) for number in range(100)]
    async with desk(rabbitmq_vhost, "audit", topics=["Paid"]):
        pass
    async with desk(rabbitmq_vhost) as client:
        await client.transport.publish([Parcel(id, b"{}", topic="Paid") for id in ids])

    async with desk(rabbitmq_vhost, "audit", topics=["Paid"]) as audit:
        await audit.has(*ids)


async def test_a_dropped_topic_comes_no_more(rabbitmq_vhost: str) -> None:
    """PS-04, PS-15: an event for nobody is no error."""
    async with desk(rabbitmq_vhost, "audit", "shipping", topics=["Paid"]) as one:
        await one.transport.declare("audit", ["Lost"], ["Paid", "Never"])

        await one.transport.publish([Parcel("1", b"{}", topic="Paid"), Parcel("2", b"{}", topic="Nobody")])
        await one.transport.publish([Parcel("3", b"{}", topic="Lost")])

        await one.has("1", "3")
        assert [(service, arrival.id) for service, arrival in one.arrivals] == [("shipping", "1"), ("audit", "3")]


async def test_topics_do_not_mix(rabbitmq_vhost: str) -> None:
    """TR-25"""
    async with desk(rabbitmq_vhost) as one:
        for number in range(20):
            await one.transport.declare(f"service{number}", [f"Topic{number}"], [])

        await asyncio.gather(
            *(
                one.transport.publish([Parcel(f"{n}:{i}", b"{}", topic=f"Topic{n}") for i in range(100)])
                for n in range(20)
            )
        )

        await until(lambda: len(one.arrivals) == 2_000)
        assert all(service == f"service{arrival.id.partition(':')[0]}" for service, arrival in one.arrivals)


async def test_what_is_acknowledged_is_gone_and_the_rest_comes_again(rabbitmq_vhost: str) -> None:
    """TR-10: in any order, twice, and after the connection is gone."""
    ids = [str(number) for number in range(20)]
    async with desk(rabbitmq_vhost, "payment") as one:
        await one.publish(*ids)
        await one.has(*ids)
        for some in (one.tags[3:5], one.tags[4:8], one.tags[:2], [*one.tags[:9], one.tags[0]], one.tags[11:13]):
            await one.transport.acknowledge(some)
        assert await one.transport.depths(["payment"]) == {"payment": 9}
    await one.transport.acknowledge(one.tags)

    async with desk(rabbitmq_vhost, "payment") as two:
        await two.has(*ids[9:11], *ids[13:])
        assert sorted(two.ids) == sorted([*ids[9:11], *ids[13:]])
        assert {arrival.count for _, arrival in two.arrivals} == {1}


async def test_what_is_released_comes_again_at_once(rabbitmq_vhost: str) -> None:
    """TR-26"""
    async with desk(rabbitmq_vhost, "payment") as one:
        await one.publish("1", "2", "3")
        await one.has("1", "2", "3")
        kept = {arrival.id: arrival.tag for _, arrival in one.arrivals}
        one.arrivals.clear()

        await one.transport.release([kept["2"]])

        await one.has("2")
        assert [arrival.count for _, arrival in one.arrivals] == [1]
        await one.transport.acknowledge([kept["1"], kept["2"], kept["3"], *one.tags])
        assert await one.transport.depths(["payment"]) == {"payment": 0}
        assert one.losses == []


async def test_no_more_is_held_than_allowed(rabbitmq_vhost: str) -> None:
    """TR-17"""
    async with desk(with_option(rabbitmq_vhost, prefetch=10), "payment") as one:
        await one.publish(*(str(number) for number in range(30)))
        await until(lambda: len(one.arrivals) == 10)
        await asyncio.sleep(0.1)
        assert len(one.arrivals) == 10
        assert await one.transport.depths(["payment", "nobody"]) == {"payment": 30, "nobody": 0}

        await one.transport.acknowledge(one.tags[:4])

        await until(lambda: len(one.arrivals) == 14)


async def test_an_answer_reaches_who_asked(rabbitmq_vhost: str) -> None:
    """RR-02: and nobody else of the same service."""
    async with (
        desk(rabbitmq_vhost, "shop") as asker,
        desk(rabbitmq_vhost, "shop") as other,
        desk(rabbitmq_vhost) as answerer,
    ):
        address = asker.transport.reply_address
        assert address == asker.transport.reply_address != other.transport.reply_address
        await asker.publish("question")

        await answerer.transport.publish([Parcel("1", b"yes", reply_to=f"request@{address}")])

        await until(lambda: asker.answers == [("request", b"yes")])
        assert other.answers == []


async def test_an_answer_that_is_an_event_reaches_its_subscribers_too(rabbitmq_vhost: str) -> None:
    """RR-01, PS-01"""
    async with desk(rabbitmq_vhost, "audit", topics=["Paid"]) as audit, desk(rabbitmq_vhost) as asker:
        address = asker.transport.reply_address
        await asker.publish("question")

        await audit.transport.publish([Parcel("1", b"yes", topic="Paid", reply_to=f"request@{address}")])

        await until(lambda: asker.answers and audit.ids)
        assert asker.answers == [("request", b"yes")]
        assert audit.ids == ["1"]


async def test_a_late_answer_vanishes(rabbitmq_vhost: str) -> None:
    """RR-04"""
    async with desk(rabbitmq_vhost) as asker:
        address = asker.transport.reply_address
        await asker.publish("question")
    async with desk(rabbitmq_vhost) as answerer:
        await answerer.transport.publish([Parcel("1", b"yes", reply_to=f"request@{address}")])


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_each_handing_over_is_counted(queue_type: str, rabbitmq_vhost: str) -> None:
    """A classic queue knows of one only."""
    url = with_option(rabbitmq_vhost, queue_type=queue_type)
    counts: list[int] = []
    for _ in range(4):
        async with desk(url, "payment") as one:
            if not counts:
                await one.publish("1")
            await one.has("1")
            counts.append(one.arrivals[0][1].count)
    assert counts == ([0, 1, 2, 3] if queue_type == "quorum" else [0, 1, 1, 1])


async def test_foreign_messages_arrive_whatever_they_carry(rabbitmq_vhost: str) -> None:
    """TR-35: without an id they have the same one each time; a header that Python cannot hold does no harm."""
    strange = b"\x04when" + b"T" + (2**62).to_bytes(8)
    async with desk(rabbitmq_vhost, "payment") as one, foreign(rabbitmq_vhost) as channel:
        channel.basic_publish("", "outlast.payment", b"plain")
        everything = pika.BasicProperties(
            content_type="text/plain",
            content_encoding="gzip",
            headers={"x": [1, {"y": None}]},
            priority=3,
            correlation_id="c",
            reply_to="r",
            expiration="60000",
            message_id="given",
            timestamp=1,
            type="t",
            app_id="a",
        )
        channel.basic_publish("", "outlast.payment", b"full", everything)
        Strange = type(
            "Strange", (), {"INDEX": 60, "encode": lambda self: [b"\x20\x00", len(strange).to_bytes(4), strange]}
        )
        channel.connection._impl._send_message(
            channel.channel_number, pika.spec.Basic.Publish(routing_key="outlast.payment"), (Strange(), b"strange")
        )
        channel.basic_publish("", "outlast.payment", b"last")
        await until(lambda: len(one.arrivals) >= 4 or one.losses)
        first = {arrival.packet: arrival.id for _, arrival in one.arrivals}
    async with desk(rabbitmq_vhost, "payment") as two:
        await until(lambda: len(two.arrivals) >= 4)

        assert {arrival.packet: arrival.id for _, arrival in two.arrivals} == first
        assert first[b"full"] == "given"
        assert len({*first.values()}) == len(first) == 4


async def test_what_does_not_fit_is_refused_before_anything_is_sent(rabbitmq_vhost: str) -> None:
    async with desk(rabbitmq_vhost, "payment") as one:
        with pytest.raises(Misuse, match="longer than the 255 bytes"):
            await one.publish("fits", "x" * 256)

        await one.publish("after")

        await one.has("after")
        assert one.ids == ["after"]


async def test_closing_twice_and_before_opening_is_harmless(rabbitmq_vhost: str) -> None:
    """TR-21"""
    unopened = Desk(rabbitmq_vhost)
    await unopened.transport.close()

    async with desk(rabbitmq_vhost, "payment") as one:
        await asyncio.gather(one.transport.close(), one.transport.close())


async def test_what_publish_returned_for_is_kept_though_the_publisher_ends(rabbitmq_vhost: str) -> None:
    """TR-31"""
    async with desk(rabbitmq_vhost) as client:
        await asyncio.gather(*(client.publish(*(f"{task}:{n}" for n in range(500))) for task in range(20)))

    async with desk(with_option(rabbitmq_vhost, prefetch=10_000), "payment") as one:
        await until(lambda: len(one.arrivals) >= 10_000)
        assert len(set(one.ids)) == 10_000


async def test_stopping_and_starting_loses_nothing(rabbitmq_vhost: str) -> None:
    """TR-20, TR-23"""
    seen: set[str] = set()
    async with desk(rabbitmq_vhost) as client:
        for turn in range(20):
            async with desk(rabbitmq_vhost, "payment") as one:
                one.acknowledges = True
                await client.publish(f"{turn}")
                await until(lambda one=one: one.arrivals)
                seen.update(one.ids)
    assert seen == {f"{turn}" for turn in range(20)}
