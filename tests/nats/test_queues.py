"""Commands: published, kept, handed over, acknowledged or released."""

from __future__ import annotations

import asyncio

import pytest

from outlast.errors import Misuse
from outlast.ports import Parcel
from tests.nats.rig import commands, opened, tags, until, world


@pytest.mark.parametrize("count", [1, 15, 16, 1000, 2500])
async def test_every_message_of_one_call_arrives_once(nats_account: str, count: int) -> None:
    """TR-02. Below 16 one by one, above in atomic batches of at most 1000."""
    parcels = commands(count)
    async with opened(nats_account) as (transport, remembered):
        await transport.declare("payment", [], [])

        await transport.publish(parcels)

        got = []
        while len(got) < count:
            await until(lambda: bool(remembered.of("payment")), "more")
            some = remembered.take("payment")
            await transport.acknowledge(tags(some))
            got += some
        assert [(a.id, a.packet) for a in got] == [(p.id, p.packet) for p in parcels]
        assert {a.count for a in got} == {0}
        assert await transport.depths(["payment"]) == {"payment": 0}


async def test_the_bytes_are_what_was_sent(nats_account: str) -> None:
    """TR-03. Empty, of every byte, and nearly as large as the server takes."""
    packets = [b"", bytes(range(256)), b"\r\nHMSG a 1 5 5\r\n" * 9, b"x" * 1_000_000]
    async with opened(nats_account) as (transport, remembered):
        await transport.declare("payment", [], [])

        await transport.publish([Parcel(world.new_id(), packet, queue="payment") for packet in packets])

        assert [a.packet for a in await remembered.wait_for("payment", 4)] == packets


async def test_any_id_and_any_name_travels(nats_account: str) -> None:
    """TR-04. Dots, spaces, wildcards and line ends stay what they are, and do not become protocol."""
    ids = ["a b", "x\r\nNats-Batch-Id: y", "naïve ♥", "50%", " padded "]
    for service in ["shop.payment", "a > *", "zahlung-für@7:x", "..", "%2E"]:
        async with opened(nats_account) as (transport, remembered):
            await transport.declare(service, [f"{service}.paid"], [])

            await transport.publish([Parcel(id, b"", queue=service) for id in ids])
            await transport.publish([Parcel("the event", b"", topic=f"{service}.paid")])

            arrivals = await remembered.wait_for(service, len(ids) + 1)
            assert {a.id for a in arrivals} == {*ids, "the event"}
            await transport.acknowledge(tags(arrivals))


async def test_a_queue_of_a_service_that_was_never_up_keeps_its_messages(nats_account: str) -> None:
    async with opened(nats_account) as (transport, _):
        await transport.publish(commands(20))

        assert await transport.depths(["payment", "nobody"]) == {"payment": 20, "nobody": 0}

    async with opened(nats_account) as (transport, remembered):
        await transport.declare("payment", [], [])
        assert len(await remembered.wait_for("payment", 20)) == 20


async def test_what_was_released_comes_again_at_once_and_counted(nats_account: str) -> None:
    """TR-26, in small."""
    async with opened(nats_account) as (transport, remembered):
        await transport.declare("payment", [], [])
        await transport.publish(commands(1))
        [first] = await remembered.wait_for("payment", 1)
        remembered.take("payment")

        await transport.release([first.tag])

        [again] = await remembered.wait_for("payment", 1, seconds=2)
        assert (again.id, again.packet, again.count) == (first.id, first.packet, 1)


async def test_what_was_not_acknowledged_goes_to_another_when_the_process_stops(nats_account: str) -> None:
    """TR-10."""
    async with opened(nats_account) as (transport, remembered):
        await transport.declare("payment", [], [])
        await transport.publish(commands(30))
        arrivals = await remembered.wait_for("payment", 30)
        await transport.acknowledge(tags(arrivals[:10]))

    async with opened(nats_account) as (transport, remembered):
        await transport.declare("payment", [], [])
        again = await remembered.wait_for("payment", 20, seconds=3)
        assert {a.id for a in again} == {a.id for a in arrivals[10:]}


async def test_two_processes_share_one_queue(nats_account: str) -> None:
    """TR-24, PS-02."""
    parcels = [*commands(1500), *(Parcel(world.new_id(), b"", topic="paid") for _ in range(500))]
    async with opened(nats_account) as (one, at_one), opened(nats_account) as (two, at_two):
        for transport in (one, two):
            await transport.declare("payment", ["paid"], [])
        got: list[str] = []

        async def consume(transport, remembered) -> None:
            while len(got) < len(parcels):
                await asyncio.sleep(0.005)
                some = remembered.take("payment")[:100]
                got.extend(a.id for a in some)
                await transport.acknowledge(tags(some))
                remembered.arrivals.setdefault("payment", [])

        await one.publish(parcels)
        await until(lambda: len(at_one.of("payment")) + len(at_two.of("payment")) == len(parcels), "all")

        assert at_one.of("payment")
        assert at_two.of("payment")
        assert sorted(at_one.ids("payment") + at_two.ids("payment")) == sorted(p.id for p in parcels)


async def test_one_process_holds_a_thousand_messages_at_most(nats_account: str) -> None:
    """P17. What it has not acknowledged is bounded, and acknowledging makes room."""
    async with opened(nats_account) as (transport, remembered):
        await transport.declare("payment", [], [])
        await transport.publish(commands(2500))
        await remembered.wait_for("payment", 1000)
        await asyncio.sleep(0.3)
        assert len(remembered.of("payment")) == 1000
        assert await transport.depths(["payment"]) == {"payment": 2500}

        await transport.acknowledge(tags(remembered.of("payment")[:400]))

        await remembered.wait_for("payment", 1400)
        await asyncio.sleep(0.3)
        assert len(remembered.of("payment")) == 1400


async def test_a_message_that_is_too_large_is_refused_in_words(nats_account: str) -> None:
    async with opened(nats_account) as (transport, _):
        large = Parcel("large", bytes(1_048_576), queue="payment")

        with pytest.raises(Misuse, match=r"1048576 bytes.*max_payload"):
            await transport.publish([*commands(3), large])

        assert await transport.depths(["payment"]) == {"payment": 0}


async def test_a_message_published_again_within_the_window_is_there_once(nats_account: str) -> None:
    """BR-13. A batch with one id that the stream has already is refused as a whole, and then published singly."""
    async with opened(nats_account) as (transport, _):
        first, second = commands(20), commands(20)
        await transport.publish(first)

        await transport.publish(first)
        await transport.publish([*second[:10], *first, *second[10:]])
        await transport.publish(first[:3])

        assert await transport.depths(["payment"]) == {"payment": 40}


async def test_a_message_published_again_after_the_window_comes_twice_with_one_id(nats_account: str) -> None:
    """BR-20. The inbox is what drops the second."""
    import nats

    async with opened(nats_account) as (transport, remembered):
        await transport.declare("payment", [], [])
        connection = await nats.connect(nats_account)
        config = (await connection.jetstream().stream_info("outlast")).config
        await connection.jetstream().update_stream(config.evolve(duplicate_window=0.1))
        await connection.close()
        parcels = commands(1)
        await transport.publish(parcels)
        await asyncio.sleep(0.5)

        await transport.publish(parcels)

        await until(lambda: len(remembered.of("payment")) == 2, "the second")
        assert remembered.ids("payment") == [parcels[0].id] * 2


async def test_a_foreign_message_without_an_id_gets_one_that_stays(nats_account: str) -> None:
    """TR-35."""
    import nats

    async with opened(nats_account) as (transport, remembered):
        await transport.declare("payment", [], [])
        connection = await nats.connect(nats_account)
        await connection.jetstream().publish("outlast.q.payment", b"bare")
        await connection.jetstream().publish("outlast.q.payment", b"headed", headers={"X": "Nats-Msg-Id: no"})
        await connection.close()
        first = await remembered.wait_for("payment", 2)
        remembered.take("payment")

        await transport.release(tags(first))

        again = await remembered.wait_for("payment", 2)
        assert [a.packet for a in first] == [b"bare", b"headed"]
        assert {a.id for a in again} == {a.id for a in first}
        assert [a.count for a in again] == [1, 1]


async def test_the_same_id_to_several_receivers_reaches_each(nats_account: str) -> None:
    async with opened(nats_account) as (transport, remembered):
        for service in ("payment", "shipping"):
            await transport.declare(service, ["paid"], [])

        await transport.publish(
            [
                Parcel("one", b"a", queue="payment"),
                Parcel("one", b"b", queue="shipping"),
                Parcel("one", b"c", topic="paid"),
            ]
        )

        await until(lambda: len(remembered.of("payment")) == len(remembered.of("shipping")) == 2, "two each")
        assert sorted(a.packet for a in remembered.of("payment")) == [b"a", b"c"]
        assert sorted(a.packet for a in remembered.of("shipping")) == [b"b", b"c"]
