"""Several parcels in one message of a broker: how they are put together, opened, and settled one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from msgspec import Raw

from outlast import Service, Worker
from outlast.adapters.broker.bundles import BYTES_MAX, MAGIC, bundled, known_to_broker, members, opened, settled
from outlast.adapters.broker.tray import Tray
from outlast.core.message import Envelope
from outlast.core.naming import encode
from outlast.errors import Misuse
from outlast.ports import OUTBOX_LEASE, Arrival, Changes, Delivery, Parcel
from outlast.testing.broker import Mishap
from outlast.testing.process import EPOCH
from tests.broker.rig import Desk, command, commit, desk, handle, received, until

KINDS = pytest.mark.parametrize("kind", ["rabbitmq", "nats"])
MOST = 4
LARGE = encode(Envelope(id="large", type="print", conversation="c", sent_at=EPOCH, body=Raw(b'"%b"' % (b" " * 200))))


def put_together(*parcels: Parcel, most: int = MOST) -> list[Parcel | list[str]]:
    """What is published: parcels as they are, and of bundles the ids of their members."""
    numbers = count()
    published = bundled(parcels, most, lambda: f"new {next(numbers)}")
    return [[id for id, _ in inside] if (inside := members(one.packet)) else one for one in published]


def commands(count: int, queue: str = "shop") -> list[Parcel]:
    return [command(f"{number}", b"%d" % number, queue) for number in range(count)]


def bundle(*ids: str, tag: str = "tag", count: int = 0) -> Sequence[Arrival]:
    """The arrivals that one bundle becomes."""
    (packed,) = bundled([command(id) for id in ids], 100, lambda: "bundle")
    return opened([Arrival(packed.id, packed.packet, count, tag)])


def deliveries(*ids: str) -> list[Delivery]:
    return [Delivery(id, b"1") for id in ids]


def waits(tray: Tray) -> list[str]:
    return [arrival.id for arrival in tray.waiting(100)]


# How they are put together.


def test_parcels_for_one_destination_travel_together_and_in_order() -> None:
    bank, event = command("b", queue="bank"), Parcel("e", b"", topic="placed")
    one, two, three, four, five = commands(5)

    found = put_together(one, event, two, bank, three, four, Parcel("f", b"", topic="placed"), five)

    assert found == [["0", "1", "2", "3"], ["e", "f"], bank, five]


def test_a_member_keeps_its_id_and_its_bytes() -> None:
    odd = [Parcel("id \U0001f4a5", bytes(range(256)), queue="shop"), Parcel("2", b"", queue="shop")]

    (packed,) = bundled(odd, MOST, lambda: "new")

    assert (packed.id, packed.queue, packed.topic) == ("new", "shop", "")
    assert members(packed.packet) == [("id \U0001f4a5", bytes(range(256))), ("2", b"")]


def test_no_bundle_is_larger_than_it_may_be_and_what_is_large_travels_alone_in_its_place() -> None:
    half, large = bytes(BYTES_MAX // 2), bytes(BYTES_MAX + 1)
    a, b, c, d, e, f = (command(id, half) for id in "abcdef")
    middle = command("large", large)

    assert put_together(a, b, c, middle, d, e, f) == [["a", "b"], c, middle, ["d", "e"], f]


def test_answers_to_requests_and_what_has_no_id_travel_alone() -> None:
    answers = [Parcel(id, b"", reply_to="request@here") for id in "ab"]
    nameless = [Parcel("", b"", queue="shop") for _ in range(2)]
    asked = Parcel("c", b"", topic="placed", reply_to="request@here")

    assert put_together(*answers, *nameless, asked, Parcel("d", b"", topic="placed"))[:5] == [
        *answers,
        *nameless,
        asked,
    ]


def test_nothing_is_put_together_unless_it_is_wished() -> None:
    parcels = commands(9)

    assert list(bundled(parcels, 1, lambda: "new")) == parcels


@pytest.mark.parametrize(
    "rest", [b"", b"\xc1", b"\x90", b"\x91\x92\xa1\xff\xc4\x01a", b"\x91\x92\xa0\xc4\x01a", b"\x91\x92\xa1a\xc4\x01ab"]
)
def test_what_cannot_be_opened_is_a_message_like_any_other(rest: bytes) -> None:
    """A foreign message, half a bundle, one without members, a member without an id, or too much in it."""
    arrival = Arrival("1", MAGIC + rest, 0, "tag")

    assert list(opened([arrival])) == [arrival]


def test_a_bundle_in_a_bundle_stays_closed() -> None:
    (inner,) = bundled(commands(2), MOST, lambda: "inner")

    (outer,) = bundled([inner, command("last")], MOST, lambda: "outer")

    assert [(a.id, a.packet) for a in opened([Arrival("outer", outer.packet, 0, "tag")])] == [
        ("inner", inner.packet),
        ("last", b"1"),
    ]


# How they are settled.


def test_a_bundle_is_acknowledged_with_its_last_member() -> None:
    tray = Tray()
    tray.put([*bundle("1", "2", "3"), Arrival("plain", b"1", 0, "other")])

    told = [settled(tray.settle(deliveries(*ids))) for ids in (["1"], ["plain", "3"], ["1"], ["2"])]

    assert told == [[], ["other"], [], ["tag"]]


def test_a_member_that_is_given_back_waits_here_again() -> None:
    """SD-03: for the broker has only all of them to hand over."""
    tray, told = Tray(), list[str]()
    tray.put([*bundle("1", "2"), Arrival("plain", b"1", 0, "other")])
    tray.claim(deliveries("1", "plain"))
    tray.notify.append(lambda: told.append("waits"))

    assert tray.release(deliveries("1", "plain")) == ["other"]

    assert waits(tray) == ["2", "1"]
    assert told == ["waits"]
    assert settled(tray.settle(deliveries("1", "2"))) == ["tag"]


def test_a_bundle_that_comes_twice_is_settled_twice() -> None:
    """BR-20: what was handled already when it came again is settled once more, as a copy."""
    tray = Tray()
    tray.put(bundle("1", "2", tag="first"))
    settled(tray.settle(deliveries("1")))
    tray.put(bundle("1", "2", tag="second"))
    assert waits(tray) == ["2", "1"]

    assert settled(tray.settle(deliveries("2"))) == ["first"]
    assert settled(tray.settle(deliveries("1"))) == ["second"]


def test_a_message_that_is_in_a_bundle_twice_is_handled_once() -> None:
    tray = Tray()
    tray.put(bundle("1", "1", "2"))
    assert waits(tray) == ["1", "2"]

    assert settled(tray.settle(deliveries("1"))) == []
    assert settled(tray.settle(deliveries("2"))) == ["tag"]


def test_a_lost_bundle_is_forgotten_and_its_claimed_members_stay_claimed() -> None:
    tray = Tray()
    tray.put(bundle("1", "2", tag="lost"))
    tray.claim(deliveries("1"))
    tray.forget()
    tray.put(bundle("1", "2", tag="again", count=1))
    assert [(a.id, a.count) for a in tray.waiting(9)] == [("2", 1)]

    assert settled(tray.settle(deliveries("1", "2"))) == ["again"]


def test_a_bundle_is_renewed_once() -> None:
    tray = Tray()
    tray.put([*bundle("1", "2", "3"), Arrival("plain", b"1", 0, "other")])

    assert known_to_broker(tray.every_tag()) == ["tag", "other"]


# What becomes of it at a broker.


@KINDS
async def test_fewer_messages_than_parcels_travel_and_whoever_has_not_the_option_reads_them(kind: str) -> None:
    """Services are switched one after the other."""
    async with desk(kind) as world:
        sender, receiver = world.process(bundle=64), world.process()
        await commit(sender, Changes(parcels=commands(150)))
        await until(lambda: world.depth("shop") == 3)

        await receiver.declare("shop", [])

        assert sorted(await handle(world, receiver, "shop"), key=int) == [b"%d" % n for n in range(150)]


async def test_what_several_transactions_sent_travels_together() -> None:
    async with desk() as world:
        one = world.process(bundle=64)
        world.broker.down(for_=timedelta(seconds=0.05))
        for parcel in commands(20):
            await commit(one, Changes(parcels=[parcel]))
        world.broker.up()

        async with asyncio.timeout(3):
            while world.outbox:
                world.world.advance(OUTBOX_LEASE)
                await asyncio.sleep(0.01)

        assert world.depth("shop") < 20
        await one.declare("shop", [])
        assert sorted(await handle(world, one, "shop"), key=int) == [b"%d" % n for n in range(20)]


@KINDS
@pytest.mark.parametrize("mishap", list(Mishap))
async def test_a_bundle_with_an_unknown_outcome_is_sent_again_and_handled_once(kind: str, mishap: Mishap) -> None:
    """BR-13, BR-04: then there is more in it, and a broker that knows ids must not take it for the first one."""
    async with desk(kind) as world:
        one, other = world.process(bundle=64), world.process(bundle=64)
        await one.declare("shop", [])
        await until(lambda: world.transport(one).is_connected)
        world.transport(one).mishaps.append(mishap)
        await commit(one, Changes(parcels=commands(4)))
        await asyncio.sleep(0.01)
        other.open()
        world.transport(other).cut()
        await commit(other, Changes(parcels=[command("later", b"4"), command("last", b"5")]))
        world.kill(other)
        assert world.outbox == 2

        world.world.advance(OUTBOX_LEASE)
        await until(lambda: world.outbox == 0)

        assert sorted(await handle(world, one, "shop")) == [b"%d" % n for n in range(6)]


@KINDS
async def test_a_bundle_stays_at_the_broker_until_all_of_it_is_handled(kind: str) -> None:
    """TR-10: the process dies when it has handled a part; another one handles the rest, and only that."""
    async with desk(kind) as world:
        one, other = world.process(bundle=64), world.process()
        await one.declare("shop", [])
        await commit(one, Changes(parcels=commands(4)))
        found = await received(one, "shop", 4)
        await commit(one, Changes(handled=list(found[:3])), "shop")
        await one.acknowledge("shop", found[:3])
        assert world.depth("shop") == 1
        world.kill(one)

        await other.declare("shop", [])

        assert await handle(world, other, "shop") == [b"3"]


@KINDS
async def test_a_member_that_was_given_back_is_handled_by_whoever_comes_after_this_process(kind: str) -> None:
    """SD-03, SD-11"""
    async with desk(kind) as world:
        one, other = world.process(bundle=64), world.process()
        await one.declare("shop", [])
        await commit(one, Changes(parcels=commands(3)))
        found = await received(one, "shop", 3)
        await commit(one, Changes(claimed=list(found)), "shop")
        await commit(one, Changes(handled=list(found[1:])), "shop")
        await one.acknowledge("shop", found[1:])
        await commit(one, Changes(released=[found[0]]), "shop")
        await one.close()

        await other.declare("shop", [])

        assert await handle(world, other, "shop") == [b"0"]


async def test_a_bundle_that_is_being_handled_for_long_is_not_handed_to_another() -> None:
    """BR-17: the broker hears of each once, whatever is in it."""
    async with desk("nats") as world:
        one = world.process(bundle=64)
        await one.declare("shop", [])
        await commit(one, Changes(parcels=commands(3)))
        found = list(await received(one, "shop", 3))
        await commit(one, Changes(claimed=found), "shop")
        renewed: list[int] = []
        transport = world.transport(one)
        renew = transport.renew

        async def counted(tags: Sequence[Any]) -> None:
            renewed.append(len(tags))
            await renew(tags)

        transport.renew = counted  # type: ignore[method-assign]
        for _ in range(10):
            await asyncio.sleep(0.05)  # a quarter of the broker's patience
            await commit(one, Changes(renewed=found), "shop")

        assert set(renewed) == {1}
        assert await one.receive("shop", 9) == []


async def test_one_that_is_too_large_is_set_aside_and_the_others_of_its_transaction_arrive() -> None:
    """PO-06"""
    async with desk() as world:
        one = world.process(bundle=64)
        await one.declare("shop", [])
        await until(lambda: world.transport(one).is_connected)
        narrow(world, one, size_max=200)
        large = command("large", LARGE)

        await commit(one, Changes(parcels=[*commands(3), large]))

        assert sorted(await handle(world, one, "shop")) == [b"0", b"1", b"2"]
        await until(lambda: world.outbox == 0)
        assert [one.letter.packet for one in world.store.dead] == [large.packet]


async def test_a_broker_that_takes_less_than_a_bundle_gets_its_members_one_by_one() -> None:
    async with desk() as world:
        one = world.process(bundle=64)
        await one.declare("shop", [])
        await until(lambda: world.transport(one).is_connected)
        narrow(world, one, size_max=10)

        await commit(one, Changes(parcels=commands(8)))

        assert len(await handle(world, one, "shop")) == 8


async def test_a_bundle_that_cannot_be_read_is_set_aside_whole() -> None:
    """PO-01"""
    async with desk() as world:
        one = world.process()
        broken = Parcel("1", MAGIC + b"\xc1", queue="shop")

        async with Worker([Service("shop")], engine=one, world=world.world):
            world.broker.put([broken])
            await until(lambda: bool(world.store.dead))

        assert [dead.letter.packet for dead in world.store.dead] == [broken.packet]
        assert world.depth("shop") == 0


def narrow(world: Desk, engine: Any, *, size_max: int) -> None:
    """The broker takes no larger messages any more."""
    transport = world.transport(engine)
    publish = transport.publish

    async def picky(parcels: Sequence[Parcel]) -> None:
        if any(len(parcel.packet) > size_max for parcel in parcels):
            raise Misuse(f"a message has more than {size_max} bytes")
        await publish(parcels)

    transport.publish = picky  # type: ignore[method-assign]
