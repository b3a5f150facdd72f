"""What connections, networks and servers can do to the transport, and what it makes of that."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import AsyncExitStack, suppress

import pytest
from servers.proxy import Direction, Proxy
from servers.rabbitmq import RabbitMQ

from outlast.errors import Misuse, Unavailable
from outlast.ports import Parcel
from tests.rabbitmq.desk import Desk, consumers, desk, foreign, until, with_option


async def test_a_closed_connection_comes_back_with_everything(mortal_rabbitmq: RabbitMQ, mortal_vhost: str) -> None:
    """BR-01: by an operator, in good order."""
    async with desk(mortal_vhost, "payment", "audit", topics=["Paid"]) as one:
        address = one.transport.reply_address
        await one.publish("before")
        await one.has("before")

        await asyncio.to_thread(mortal_rabbitmq.close_connections)
        await until(lambda: sorted(one.losses) == ["audit", "payment"])
        await one.publish("after")
        await one.transport.publish([Parcel("event", b"{}", topic="Paid")])
        await one.transport.publish([Parcel("answer", b"{}", reply_to=f"request@{address}")])

        await until(lambda: one.ids.count("event") == 2 and one.answers)
        await one.has("after")
        assert one.ids.count("before") == 2
        assert one.transport.trouble == ""
        assert await consumers(mortal_vhost, "outlast.payment") == 1
        await one.transport.acknowledge(one.tags)
        assert await one.transport.depths(["payment"]) == {"payment": 0}


async def test_nothing_that_was_confirmed_is_lost_when_the_server_is_killed(
    mortal_rabbitmq: RabbitMQ, mortal_vhost: str
) -> None:
    """BR-02, BR-03: twice, while many publish and one consumes."""
    kept: set[str] = set()

    async def publish(client: Desk, task: int) -> None:
        for number in range(30):
            ids = [f"{task}:{number}:{n}" for n in range(10)]
            while True:
                try:
                    await client.publish(*ids)
                except Unavailable:
                    await asyncio.sleep(0.1)
                else:
                    break
            kept.update(ids)
            await asyncio.sleep(0.05)

    async with desk(mortal_vhost, "payment") as one, desk(mortal_vhost) as client:
        one.acknowledges = True
        # RabbitMQ 3.10 may come up without a leader for a quorum queue that was made a moment before it was killed.
        await asyncio.sleep(3)
        publishing = [asyncio.create_task(publish(client, task)) for task in range(20)]
        for share in (1 / 3, 1 / 2):
            await until(lambda share=share: len(kept) >= 6_000 * share, lambda: (len(kept), client.transport.trouble))
            await asyncio.to_thread(mortal_rabbitmq.kill)
            await asyncio.to_thread(mortal_rabbitmq.start)
        await asyncio.gather(*publishing)

        await until(lambda: kept <= set(one.ids), lambda: len(kept - set(one.ids)))
        assert len(kept) == 6_000


@pytest.mark.parametrize("at", [1, 10, 300, 5_000, 40_000])
async def test_a_reset_in_the_middle_of_publishing(at: int, mortal_vhost: str) -> None:
    """BR-04: published again under the same ids, nothing is missing and nothing is mixed up."""
    ids = [str(number) for number in range(500)]
    async with Proxy(mortal_vhost) as network, desk(mortal_vhost, "payment") as one, desk(network.url) as client:
        await client.publish("first")
        cut = network.cut_after(at)

        with pytest.raises(Unavailable, match="publishing to RabbitMQ"):
            await client.publish(*ids, packet=b"x" * 100)
        await client.publish(*ids, packet=b"x" * 100)

        await one.has("first", *ids)
        assert {arrival.packet for _, arrival in one.arrivals if arrival.id != "first"} == {b"x" * 100}
        assert cut is not None


@pytest.mark.parametrize("at", [1, 300, 5_000, 40_000])
async def test_a_reset_in_the_middle_of_consuming(at: int, mortal_vhost: str) -> None:
    """BR-04"""
    ids = [str(number) for number in range(500)]
    async with Proxy(mortal_vhost) as network, desk(network.url, "payment") as one, desk(mortal_vhost) as client:
        network.cut_after(at, Direction.TO_CLIENT)
        await client.publish(*ids, packet=b"x" * 100)

        await until(lambda: one.losses == ["payment"])
        await one.has(*ids)
        assert {arrival.packet for _, arrival in one.arrivals} == {b"x" * 100}
        await one.transport.acknowledge(one.tags)
        await until(lambda: len(one.ids) >= 500)
        assert await one.transport.depths(["payment"]) == {"payment": 0}


async def test_a_lost_confirm_means_a_second_copy_under_the_same_id(mortal_vhost: str) -> None:
    """BR-13: the broker has it, and the publisher cannot know."""
    async with Proxy(mortal_vhost) as network, desk(mortal_vhost, "payment") as one, desk(network.url) as client:
        await client.publish("first")
        network.cut_after(b"a-packet-like-no-other\xce")

        with pytest.raises(Unavailable):
            await client.publish("twice", packet=b"a-packet-like-no-other")
        await one.has("twice")
        await client.publish("twice", packet=b"a-packet-like-no-other")

        await until(lambda: one.ids == ["first", "twice", "twice"])


async def test_a_silent_connection_is_given_up_after_two_heartbeats(mortal_vhost: str) -> None:
    """BR-05"""
    async with Proxy(mortal_vhost) as network:
        url = with_option(network.url, heartbeat=2, confirm_timeout=3)
        async with desk(url, "payment") as one, desk(mortal_vhost) as other:
            one.transport.reply_address  # noqa: B018
            await one.publish("before")
            await one.has("before")
            await asyncio.sleep(5)
            assert one.losses == []

            network.black_hole(True)
            began_at = time.monotonic()
            with pytest.raises(Unavailable, match=r"confirmed nothing for 3 s|was lost"):
                await one.publish("during")
            await until(lambda: one.losses == ["payment"])
            assert time.monotonic() - began_at < 4.5
            await until(lambda: "no connection to 127.0.0.1" in one.transport.trouble)
            network.black_hole(False)
            await other.publish("after")

            await one.has("after")
            await until(lambda: not one.transport.trouble)
            await one.publish("again")
            await one.has("again")


@pytest.mark.parametrize("code", [404, 406])
async def test_a_channel_that_the_broker_closes_comes_back(code: int, mortal_vhost: str) -> None:
    """BR-07: while the connection lives. To acknowledge nothing costs a channel, and so does a missing exchange."""
    async with desk(mortal_vhost, "payment", "audit") as one:
        await one.publish("before")
        await one.has("before")

        if code == 406:
            consumer, _ = one.tags[0]
            consumer.channel._channel.basic_ack(999)
            await until(lambda: one.losses == ["payment"])
        else:
            line = one.transport._outbound._line
            assert line is not None
            line.channel._channel.basic_publish("outlast.nowhere", "x", b"{}")
            await until(line.channel.ended.done)
        await one.publish("after")

        await one.has("after")
        await one.transport.acknowledge(one.tags)
        assert await one.transport.depths(["payment"]) == {"payment": 0}
        assert await consumers(mortal_vhost, "outlast.payment") == 1
        assert one.losses == (["payment"] if code == 406 else [])
        await until(lambda: not one.transport.trouble)


async def test_a_deleted_queue_is_made_again(mortal_rabbitmq: RabbitMQ, mortal_vhost: str) -> None:
    """BR-11: under its consumer, with its bindings; and one that nobody consumes from, at the next publish."""
    vhost = mortal_vhost.rpartition("/")[2]
    async with desk(mortal_vhost, "payment", topics=["Paid"]) as one:
        await one.publish("1", to="warehouse")
        await asyncio.to_thread(mortal_rabbitmq.delete_queue, "outlast.payment", vhost=vhost)
        await asyncio.to_thread(mortal_rabbitmq.delete_queue, "outlast.warehouse", vhost=vhost)

        await one.publish("2", "3", to="warehouse")
        await until(lambda: one.losses == ["payment"])
        await until(lambda: not one.transport.trouble and "outlast.payment" in one.transport._inbound._consumers)
        await one.transport.publish([Parcel("event", b"{}", topic="Paid"), Parcel("command", b"{}", queue="payment")])

        await one.has("event", "command")
        assert await one.transport.depths(["warehouse"]) == {"warehouse": 2}
        assert await consumers(mortal_vhost, "outlast.payment") == 1


async def test_a_deleted_exchange_is_made_again(mortal_vhost: str) -> None:
    async with desk(mortal_vhost, "payment", topics=["Paid"]) as one:
        await one.transport.publish([Parcel("1", b"{}", topic="Paid")])
        async with foreign(mortal_vhost) as channel:
            channel.exchange_delete("outlast.events")

        with suppress(Unavailable):
            await one.transport.publish([Parcel("2", b"{}", topic="Paid")])
        await one.transport.publish([Parcel("3", b"{}", topic="Paid")])


async def test_a_broker_short_of_memory_takes_nothing_and_hands_out_what_it_has(
    mortal_rabbitmq: RabbitMQ, mortal_vhost: str
) -> None:
    """BR-10"""
    url = with_option(mortal_vhost, confirm_timeout=1.5)
    async with desk(url) as client:
        await client.publish("1", "2", "3")
        await asyncio.to_thread(mortal_rabbitmq.alarm, True)
        try:
            async with desk(url, "payment") as one:
                for _ in range(2):
                    with pytest.raises(Unavailable, match=r"has taken no messages for 1\.5 s: low on memory"):
                        await client.publish("blocked")
                assert "low on memory" in client.transport.trouble

                await one.has("1", "2", "3")
                await one.transport.acknowledge(one.tags)
                assert await one.transport.depths(["payment"]) == {"payment": 0}

                waiting = asyncio.create_task(client.publish("waited"))
                await asyncio.to_thread(mortal_rabbitmq.alarm, False)
                await waiting
                await one.has("blocked", "waited")
                assert one.ids.count("blocked") == 1
                await until(lambda: not client.transport.trouble)
        finally:
            await asyncio.to_thread(mortal_rabbitmq.alarm, False)


async def test_a_message_that_is_too_large_harms_nobody_else(mortal_vhost: str) -> None:
    """The broker says so by closing the channel; from then on it is known how much it takes."""
    async with desk(mortal_vhost, "payment") as one:
        with pytest.raises(Misuse, match=r"has 4000000 bytes.*takes at most 3000000"):
            await one.publish("large", packet=b"x" * 4_000_000)
        others = [asyncio.create_task(one.publish(f"{n}")) for n in range(20)]
        with pytest.raises(Misuse, match="has 4000000 bytes"):
            await one.publish("larger", packet=b"x" * 4_000_000)
        await asyncio.gather(*others)

        await one.has(*(f"{n}" for n in range(20)))


async def test_a_slow_network_holds_up_who_publishes(mortal_vhost: str) -> None:
    """BR-26: what is on its way is bounded, and arrives."""
    async with Proxy(mortal_vhost) as network, desk(network.url) as client:
        await client.publish("first")
        network.limit(100_000)
        publishing = [asyncio.create_task(client.publish(f"{n}", packet=b"x" * 100_000)) for n in range(300)]
        await asyncio.sleep(1)
        line = client.transport._outbound._line
        assert line is not None

        assert line.unconfirmed_bytes < 9 << 20
        network.limit(None)
        await asyncio.gather(*publishing)
        assert line.unconfirmed_bytes == 0
    async with desk(mortal_vhost, "payment") as one:
        await one.has(*(f"{n}" for n in range(300)))


async def test_an_outage_is_borne_quietly(
    mortal_vhost: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """BR-28: few attempts, no flood of logs, no descriptors lost."""
    async with Proxy(mortal_vhost) as network, desk(network.url, "payment") as one:
        await one.publish("before")
        await one.has("before")
        descriptors = len(os.listdir("/proc/self/fd"))

        network.refuse(True)
        network.cut()
        await asyncio.sleep(6)
        assert "no connection to 127.0.0.1" in one.transport.trouble
        assert "Connection refused" in one.transport.trouble
        assert "since 2" in one.transport.trouble
        network.refuse(False)
        accepted = network.accepted
        for _ in range(300):
            network.cut()
            await asyncio.sleep(0.02)
        assert network.accepted - accepted <= 2 * 6
        one.arrivals.clear()
        await one.has("before")
        await until(lambda: not one.transport.trouble)

        await until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors + 2, "no more descriptors than before")
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
        assert capfd.readouterr().err == ""


async def test_a_transport_without_a_broker_says_so_and_closes(mortal_vhost: str) -> None:
    async with Proxy(mortal_vhost) as network:
        network.refuse(True)
        url = with_option(network.url, confirm_timeout=1)
        async with desk(url) as one:
            for attempt in (one.publish("1"), one.transport.declare("payment", [], []), one.transport.depths(["a"])):
                with pytest.raises(Unavailable, match="Connection refused"):
                    await attempt
        network.refuse(False)
        network.black_hole(True)
        async with desk(url) as one:
            with pytest.raises(Unavailable):
                await one.publish("1")


async def test_another_host_is_tried(mortal_vhost: str) -> None:
    async with Proxy(mortal_vhost) as network:
        network.refuse(True)
        url = mortal_vhost.replace("@", f"@127.0.0.1:{network.port},")

        async with desk(url, "payment") as one:
            await one.publish("1")
            await one.has("1")


async def test_a_broker_that_loses_patience_costs_a_second_copy(mortal_rabbitmq: RabbitMQ, mortal_vhost: str) -> None:
    """BR-16: the channel is closed, and comes back; what was finished too late cannot be acknowledged."""
    impatient = (
        "application:set_env(rabbit, consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, {})"
    )
    await asyncio.to_thread(mortal_rabbitmq.evaluate, impatient.format(1_000, 1_000))
    try:
        async with desk(mortal_vhost, "payment", "audit") as one:
            await one.publish("slow")
            await one.has("slow")
            await until(lambda: one.losses == ["payment"])
            await one.transport.acknowledge(one.tags)

            await until(lambda: one.ids == ["slow", "slow"])
            await one.transport.acknowledge(one.tags)
            assert await one.transport.depths(["payment"]) == {"payment": 0}
    finally:
        await asyncio.to_thread(mortal_rabbitmq.evaluate, impatient.format(1_800_000, 60_000))


async def test_one_message_that_is_held_does_not_hold_up_the_others(mortal_vhost: str) -> None:
    """What is settled is forgotten here too, however much comes after what is held."""
    async with desk(with_option(mortal_vhost, prefetch=20), "payment") as one:
        await one.publish("held")
        await one.has("held")
        held = one.tags
        one.acknowledges = True
        for turn in range(20):
            await one.publish(*(f"{turn}:{n}" for n in range(100)))

        await until(lambda: len(one.ids) == 2_001)
        assert await one.transport.depths(["payment"]) == {"payment": 1}
        await one.transport.acknowledge(held)
        assert await one.transport.depths(["payment"]) == {"payment": 0}
        assert one.losses == []


async def test_many_processes_share_a_queue(mortal_vhost: str) -> None:
    """TR-24: and each message goes to one of them."""
    async with AsyncExitStack() as stack:
        url = with_option(mortal_vhost, prefetch=20)
        desks = [await stack.enter_async_context(desk(url, "payment")) for _ in range(10)]
        for one in desks:
            one.acknowledges = True

        await asyncio.gather(*(desks[n].publish(*(f"{n}:{i}" for i in range(500))) for n in range(10)))

        await until(lambda: sum(len(one.ids) for one in desks) >= 5_000)
        assert len({id for one in desks for id in one.ids}) == 5_000 == sum(len(one.ids) for one in desks)


async def test_a_queue_that_does_not_answer_holds_up_no_other(mortal_rabbitmq: RabbitMQ, mortal_vhost: str) -> None:
    """As one without a leader: what is published to it fails, and the rest goes on, here and after a reconnect."""
    leader = f"whereis('{mortal_vhost.rpartition('/')[2]}_outlast.payment')"
    async with desk(with_option(mortal_vhost, confirm_timeout=1), "payment", "audit") as one:
        await one.publish("before")
        await one.has("before")
        await asyncio.to_thread(mortal_rabbitmq.evaluate, f"sys:suspend({leader})")
        try:
            with pytest.raises(Unavailable, match="confirmed nothing for 1 s"):
                await one.publish("stuck")
            await asyncio.to_thread(mortal_rabbitmq.close_connections)
            await until(lambda: "nothing is consumed from 'outlast.payment' since" in one.transport.trouble)
            await one.publish("other", to="audit")
            await one.has("other")
        finally:
            await asyncio.to_thread(mortal_rabbitmq.evaluate, f"sys:resume({leader})")

        await one.publish("stuck")
        await one.has("stuck")
        await until(lambda: not one.transport.trouble)
