"""What the network, the server and operators do to a transport, and how it comes back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest
from nats.js.api import StreamConfig
from servers.nats import Nats
from servers.proxy import Direction, Proxy

from outlast.adapters.nats.session import HEARTBEAT_SECONDS
from outlast.errors import Unavailable
from outlast.ports import Parcel
from tests.nats.rig import commands, opened, tags, until, until_nothing_is_kept, world


@pytest.fixture
def server() -> Iterator[Nats]:
    with Nats() as started:
        yield started


async def test_after_a_restart_with_an_open_pull_messages_come_again(server: Nats) -> None:
    """BR-01, BR-09. The pull that was outstanding is forgotten by the server; a new one is there at once."""
    async with opened(server.url) as (transport, remembered):
        await transport.declare("payment", ["paid"], [])
        await asyncio.to_thread(server.stop)
        await until(lambda: transport.trouble != "", "trouble")
        assert "since 20" in transport.trouble
        assert str(server.port) in transport.trouble
        await asyncio.to_thread(server.start)
        await until(lambda: transport.trouble == "", "an end of the trouble")

        await transport.publish([*commands(50), Parcel("event", b"", topic="paid")])

        await remembered.wait_for("payment", 51, seconds=2 * HEARTBEAT_SECONDS)


async def test_after_a_kill_what_was_held_comes_again_at_once(server: Nats) -> None:
    """BR-03. All that was confirmed is there, and the receiver is told that what it holds is void."""
    async with opened(server.url) as (transport, remembered):
        await transport.declare("payment", [], [])
        parcels = commands(300)
        await transport.publish(parcels)
        first = await remembered.wait_for("payment", 300)
        await transport.acknowledge(tags(first[:100]))
        remembered.take("payment")

        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)

        again = await remembered.wait_for("payment", 200, seconds=10)
        assert "payment" in remembered.losses
        assert {a.id for a in again} >= {p.id for p in parcels[100:]}
        # The server syncs messages and not what was acknowledged: some of that may come again too.
        while await transport.depths(["payment"]) != {"payment": 0}:
            await transport.acknowledge(tags(remembered.of("payment")))
        assert set(remembered.ids("payment")) <= {p.id for p in parcels}


async def test_a_restarted_server_does_not_wait_for_us(server: Nats) -> None:
    """BR-01. It remembers what it handed over, and would keep it from everybody for half a minute."""
    async with opened(server.url) as (transport, remembered):
        await transport.declare("payment", [], [])
        await transport.publish(commands(50))
        await remembered.wait_for("payment", 50)
        remembered.take("payment")
        await asyncio.sleep(1)

        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)

        again = await remembered.wait_for("payment", 50, seconds=10)
        assert {a.count for a in again} == {1}


async def test_every_confirmed_message_survives_restarts_in_mid_publish(server: Nats) -> None:
    """BR-02."""
    confirmed: list[str] = []
    is_over = False

    # What was on its way to us at the end of a connection comes again when the server has lost patience.
    async with opened(server.url, ack_wait=2) as (transport, remembered):
        await transport.declare("payment", [], [])

        async def publish(size: int) -> None:
            while not is_over:
                parcels = commands(size)
                for _ in range(100):
                    try:
                        await transport.publish(parcels)
                    except Unavailable:
                        await asyncio.sleep(0.05)
                        continue
                    confirmed.extend(p.id for p in parcels)
                    break

        async def consume() -> None:
            while not is_over or await transport.depths(["payment"]) != {"payment": 0}:
                await asyncio.sleep(0.02)
                await transport.acknowledge(tags(remembered.of("payment")))

        tasks = [asyncio.create_task(publish(size)) for size in (1, 7, 100)]
        consumer = asyncio.create_task(consume())
        for end in (server.kill, server.stop, server.kill):
            await asyncio.sleep(0.7)
            await asyncio.to_thread(end)
            await asyncio.to_thread(server.start)
        await asyncio.sleep(1)
        is_over = True
        await asyncio.gather(*tasks, consumer)

        assert len(confirmed) > 100
        assert set(confirmed) - set(remembered.ids("payment")) == set()


async def test_a_reset_connection_takes_nothing_away(nats_account: str) -> None:
    """BR-04. What was handed over stays ours: it is not handed over again, and can still be acknowledged."""
    async with Proxy(nats_account) as proxy, opened(proxy.url) as (transport, remembered):
        await transport.declare("payment", [], [])
        await transport.publish(commands(200))
        held = await remembered.wait_for("payment", 200)

        for _ in range(5):
            proxy.cut()
            await until(lambda: transport.trouble != "", "trouble")
            await until(lambda: transport.trouble == "", "an end of the trouble")
        await transport.publish(commands(10))

        await remembered.wait_for("payment", 210)
        assert remembered.losses == []
        assert len(remembered.of("payment")) == 210
        await transport.acknowledge(tags(remembered.of("payment")))
        assert held[0] in remembered.of("payment")
        assert await transport.depths(["payment"]) == {"payment": 0}
        assert proxy.connections == 1


@pytest.mark.parametrize("count", [3, 100])
async def test_a_lost_confirmation_is_told_and_repeating_is_harmless(nats_account: str, count: int) -> None:
    """BR-13."""
    async with Proxy(nats_account) as proxy, opened(proxy.url) as (transport, _):
        await transport.publish(commands(1))
        parcels = commands(count)
        trigger = proxy.cut_answer(parcels[-1].id.encode())

        with pytest.raises(Unavailable, match="lost"):
            await transport.publish(parcels)
        await transport.publish(parcels)

        assert trigger.fired
        assert await transport.depths(["payment"]) == {"payment": count + 1}


async def test_a_connection_that_ends_within_a_message_leaves_no_half(nats_account: str) -> None:
    """BR-04. Of an atomic batch that did not come through whole, nothing is kept."""
    async with Proxy(nats_account) as proxy, opened(proxy.url) as (transport, _):
        await transport.publish(commands(1))
        parcels = commands(100)
        proxy.cut_after(parcels[60].id.encode())

        with pytest.raises(Unavailable):
            await transport.publish(parcels)
        assert await transport.depths(["payment"]) == {"payment": 1}

        await transport.publish(parcels)
        assert await transport.depths(["payment"]) == {"payment": 101}


async def test_a_delivery_that_is_cut_off_comes_again(nats_account: str) -> None:
    """BR-04, for consuming; and through a network that hands over a few bytes at a time."""
    async with Proxy(nats_account) as proxy, opened(proxy.url, ack_wait=2) as (transport, remembered):
        await transport.declare("payment", [], [])
        parcels = [Parcel(world.new_id(), b"%04d" % n + bytes(3000), queue="payment") for n in range(100)]
        proxy.cut_after(parcels[50].id.encode(), Direction.TO_CLIENT)
        await transport.publish(parcels[:1])

        async with opened(nats_account) as (publisher, _):
            await publisher.publish(parcels[1:])
        await remembered.wait_for("payment", 100)

        proxy.slice()
        await transport.acknowledge(tags(remembered.take("payment")))
        await transport.publish(commands(20, size=500))
        assert {len(a.packet) for a in await remembered.wait_for("payment", 20)} == {506}


async def test_a_black_hole_is_noticed_and_told_and_passes(nats_account: str) -> None:
    """BR-05. Within two heartbeats; a publisher has its answer at its deadline."""
    async with (
        Proxy(nats_account) as proxy,
        opened(proxy.url, publish_timeout=1, ack_wait=8) as (transport, remembered),
    ):
        await transport.declare("payment", [], [])
        await transport.publish(commands(10))
        await remembered.wait_for("payment", 10)
        proxy.black_hole(True)
        began = time.monotonic()

        with pytest.raises(Unavailable, match="no answer"):
            await transport.publish(commands(1))
        assert time.monotonic() - began < 2
        await until(lambda: "not said a word" in transport.trouble, "trouble", seconds=2 * HEARTBEAT_SECONDS + 2)
        await until(lambda: remembered.losses == ["payment"], "loss")
        remembered.take("payment")

        proxy.black_hole(False)
        await until(lambda: transport.trouble == "", "an end of the trouble")
        await transport.publish(commands(5))
        await remembered.wait_for("payment", 15)


async def test_what_is_being_handled_is_not_handed_over_again(nats_account: str) -> None:
    """BR-17. AckWait is 2 s, the handler takes 5 s: the server is told in time that it is still at it."""
    async with opened(nats_account, ack_wait=2) as (transport, remembered):
        await transport.declare("payment", ["paid"], [])
        await transport.publish([*commands(100), Parcel("event", b"", topic="paid")])
        await remembered.wait_for("payment", 101)

        await asyncio.sleep(5)

        assert len(remembered.of("payment")) == 101
        await transport.acknowledge(tags(remembered.of("payment")))
        assert await transport.depths(["payment"]) == {"payment": 0}


async def test_a_loop_that_is_blocked_gets_its_messages_again_under_the_same_ids(nats_account: str) -> None:
    """BR-17. Nothing can tell the server then; the inbox saves the effect. The connection is not to blame."""
    async with opened(nats_account, ack_wait=2) as (transport, remembered):
        await transport.declare("payment", [], [])
        await transport.publish(commands(3))
        first = await remembered.wait_for("payment", 3)

        time.sleep(3)

        await until(lambda: len(remembered.of("payment")) == 6, "the second time")
        assert set(remembered.ids("payment")) == {a.id for a in first}
        assert [a.count for a in remembered.of("payment")[3:]] == [1, 1, 1]
        await transport.acknowledge(tags(remembered.of("payment")))
        assert await transport.depths(["payment"]) == {"payment": 0}
        assert transport.trouble == ""


async def test_an_acknowledgement_that_comes_late_counts(nats_account: str) -> None:
    """BR-17. AckWait is over and the message has come again: a word about the first time ends it all the same."""
    async with opened(nats_account, ack_wait=2) as (transport, remembered):
        await transport.declare("payment", [], [])
        await transport.publish(commands(3))
        first = list(await remembered.wait_for("payment", 3))
        time.sleep(3)
        await until(lambda: len(remembered.of("payment")) == 6, "the second time")

        await transport.acknowledge(tags(first))

        await asyncio.sleep(5)
        assert len(remembered.of("payment")) == 6
        assert await transport.depths(["payment"]) == {"payment": 0}


async def test_a_loop_that_is_blocked_longer_than_two_heartbeats_keeps_its_connection(nats_account: str) -> None:
    async with Proxy(nats_account) as unused, opened(nats_account) as (transport, remembered):
        assert unused.accepted == 0
        await transport.declare("payment", [], [])

        time.sleep(2 * HEARTBEAT_SECONDS + 1)

        await transport.publish(commands(1))
        await remembered.wait_for("payment", 1)
        assert transport.trouble == ""
        assert remembered.losses == []


async def test_a_deleted_stream_is_made_again(nats_account: str) -> None:
    """BR-07. What it kept is gone; what comes after is not."""
    async with opened(nats_account) as (transport, remembered):
        await transport.declare("payment", ["paid"], [])
        connection = await nats.connect(nats_account)
        await connection.jetstream().delete_stream("outlast")
        await connection.close()

        await transport.publish(commands(20))
        await until(lambda: "payment" in remembered.losses, "loss")
        await transport.publish([Parcel("event", b"", topic="paid")])

        await remembered.wait_for("payment", 21)


@pytest.mark.parametrize("consumer", ["q-payment", "t-payment"])
async def test_a_deleted_consumer_is_made_again(nats_account: str, consumer: str) -> None:
    """BR-07. Commands that wait are handed over by the new one."""
    async with opened(nats_account) as (transport, remembered):
        await transport.declare("payment", ["paid"], [])
        connection = await nats.connect(nats_account)
        await connection.jetstream().delete_consumer("outlast", consumer)
        await connection.close()
        await transport.publish(commands(20))
        await until(lambda: "payment" in remembered.losses, "loss")

        await transport.publish([Parcel("event", b"", topic="paid")])

        await remembered.wait_for("payment", 21)


async def test_an_old_version_that_reconnects_leaves_the_topics_of_the_new_one(nats_account: str) -> None:
    async with Proxy(nats_account) as proxy, opened(proxy.url) as (old, at_old), opened(nats_account) as (new, at_new):
        await old.declare("mail", ["paid"], [])
        await new.declare("mail", ["paid", "sent"], [])

        proxy.cut()
        await until(lambda: old.trouble != "", "trouble")
        await until(lambda: old.trouble == "", "an end of the trouble")

        await new.publish([Parcel("event", b"", topic="sent")])
        await until(lambda: bool(at_old.of("mail") or at_new.of("mail")), "the event")


async def test_without_a_server_a_publisher_is_told_soon(server: Nats) -> None:
    """P17. Nothing is buffered for later behind its back."""
    await asyncio.to_thread(server.stop)
    async with opened(server.url) as (transport, _):
        began = time.monotonic()
        with pytest.raises(Unavailable, match=r"since 20.*refused|since 20.*Connect call failed"):
            await transport.publish(commands(1))
        assert time.monotonic() - began < 4

        await asyncio.to_thread(server.start)
        await until(lambda: transport.trouble == "", "an end of the trouble")
        assert await transport.depths(["payment"]) == {"payment": 0}


async def test_an_outage_costs_no_descriptors_and_no_log(server: Nats, caplog: pytest.LogCaptureFixture) -> None:
    """BR-28."""
    caplog.set_level(logging.INFO)
    async with opened(server.url) as (transport, _):
        await transport.declare("payment", [], [])
        before = len(list(Path("/proc/self/fd").iterdir()))
        await asyncio.to_thread(server.kill)

        await asyncio.sleep(6)

        assert len(list(Path("/proc/self/fd").iterdir())) <= before
        assert transport.trouble
        assert [record for record in caplog.records if record.name != "asyncio"] == []


async def test_a_silent_server_is_left_at_close(server: Nats) -> None:
    """SD-16. A peer that never answers does not hold up the end."""
    async with opened(server.url, publish_timeout=1) as (transport, _):
        await transport.declare("payment", [], [])
        server.pause()
        began = time.monotonic()

    assert time.monotonic() - began < 6
    server.go_on()


async def test_a_full_stream_refuses_and_is_told(nats_account: str) -> None:
    """BR-10. It loses nothing that it has, and goes on when there is room."""
    connection = await nats.connect(nats_account)
    jetstream = connection.jetstream()
    config = StreamConfig(name="outlast", subjects=["outlast.q.*", "outlast.t.*"], max_msgs=30, discard="new")
    await jetstream.add_stream(config)
    await connection.close()
    async with opened(nats_account) as (transport, remembered):
        await transport.declare("payment", [], [])
        await transport.publish(commands(30))

        for count in (1, 20):
            with pytest.raises(Unavailable, match=r"maximum messages exceeded.*raise the limit"):
                await transport.publish(commands(count))

        await transport.acknowledge(tags(await remembered.wait_for("payment", 30)))
        await until_nothing_is_kept(nats_account)
        await transport.publish(commands(20))
        assert await transport.depths(["payment"]) == {"payment": 20}


async def test_no_number_of_deliveries_makes_a_message_vanish(nats_account: str) -> None:
    """BR-21."""
    async with opened(nats_account) as (transport, remembered):
        await transport.declare("payment", [], [])
        await transport.publish(commands(1))
        for count in range(60):
            [arrival] = await remembered.wait_for("payment", 1)
            assert arrival.count == count
            remembered.take("payment")
            await transport.release([arrival.tag])
