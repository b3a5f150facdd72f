"""OB, BR: a crash, a lost connection or a purge at every place between a commit and the broker's acknowledgement."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from msgspec import Raw

from outlast.adapters.memory import MemoryEngine, MemoryWork
from outlast.adapters.memory_inspector import MemoryInspector
from outlast.core.message import Envelope
from outlast.core.naming import encode
from outlast.core.recovery import Patience
from outlast.engines import inspector_of
from outlast.errors import Conflict, Misuse, Unavailable
from outlast.operations import Operations
from outlast.ports import OUTBOX_LEASE, REPLIES, Changes, DeadLetter, Parcel, pack
from outlast.testing.broker import Mishap
from tests.broker.rig import Desk, command, commit, desk, handle, received, tried, until

KINDS = pytest.mark.parametrize("kind", ["rabbitmq", "nats"])


def silenced(world: Desk, engine: Any) -> None:
    """Nothing of this process reaches the broker any more."""

    async def publish(parcels: Sequence[Parcel]) -> None:
        raise Unavailable("it is about to die")

    world.transport(engine).publish = publish  # type: ignore[method-assign]


@KINDS
async def test_what_a_dead_process_had_committed_is_sent_by_another(kind: str) -> None:
    """OB-24, OB-14: it dies after the commit, before it publishes, and nobody hands over its message again."""
    async with desk(kind) as world:
        one, other = world.process(), world.process()
        await other.declare("shop", [])
        silenced(world, one)
        await commit(one, Changes(parcels=[command("1", b"packet")]))
        world.kill(one)
        await asyncio.sleep(0.03)
        assert world.depth("shop") == 0, "it was taken although it may still be on its way"

        world.world.advance(OUTBOX_LEASE)

        assert [d.packet for d in await received(other, "shop", 1)] == [b"packet"]
        await until(lambda: world.outbox == 0)


async def test_what_a_turn_sent_arrives_although_its_own_message_was_purged() -> None:
    """OB-14: the outbox waits for no second delivery of what led to it."""
    async with desk() as world:
        one, other = world.process(), world.process()
        await one.declare("shop", [])
        await commit(other, Changes(parcels=[command("cause")]))
        cause = await received(one, "shop", 1)
        silenced(world, one)
        await commit(one, Changes(handled=list(cause), parcels=[command("effect", queue="bank")]), "shop")
        world.kill(one)
        world.broker.purge("shop")

        world.world.advance(OUTBOX_LEASE)

        await until(lambda: world.depth("bank") == 1)


@KINDS
@pytest.mark.parametrize("mishap", list(Mishap))
async def test_an_unknown_outcome_means_copies_and_one_effect(kind: str, mishap: Mishap) -> None:
    """BR-13, BR-04, BR-11: whatever of it was in, all of it arrives, and the inbox lets one of each through."""
    async with desk(kind) as world:
        one = world.process()
        await one.declare("shop", [])
        await until(lambda: world.transport(one).is_connected)
        world.transport(one).mishaps.append(mishap)
        await commit(one, Changes(parcels=[command(str(n), b"%d" % n) for n in range(4)]))
        await asyncio.sleep(0.01)
        assert world.outbox == 1

        world.world.advance(OUTBOX_LEASE)
        await until(lambda: world.outbox == 0)
        taken = await handle(world, one, "shop")

        assert sorted(taken) == [b"0", b"1", b"2", b"3"]


async def test_a_row_that_was_published_and_not_deleted_is_published_again_without_effect() -> None:
    """BR-13: the process dies between the confirm and the deletion."""
    async with desk() as world:
        one, other = world.process(), world.process(look=timedelta(hours=1))
        await other.declare("shop", [])

        async def delete(rows: Any) -> None:
            await asyncio.Event().wait()

        one.postman._delete = delete  # type: ignore[method-assign]
        await commit(one, Changes(parcels=[command("1")]))
        assert await handle(world, other, "shop") == [b"1"]
        world.kill(one)

        world.world.advance(OUTBOX_LEASE)
        other.postman.look()

        assert await handle(world, other, "shop") == []
        await until(lambda: world.outbox == world.depth("shop") == 0)


@KINDS
async def test_an_outage_is_waited_for_and_everything_sent_when_it_is_over(kind: str) -> None:
    """OB-13, BR-01: every attempt fails until the broker is back; then no operator is needed."""
    async with desk(kind) as world:
        one = world.process()
        await one.declare("shop", [])
        world.broker.down(for_=timedelta(seconds=0.3))
        for number in range(20):
            await commit(one, Changes(parcels=[command(str(number), b"%02d" % number)]))
        assert one.trouble
        assert world.outbox == 20

        async def time_passes() -> None:
            while world.outbox:
                world.world.advance(OUTBOX_LEASE)
                await asyncio.sleep(0.05)

        await asyncio.wait_for(time_passes(), 10)

        assert sorted(await handle(world, one, "shop")) == [b"%02d" % n for n in range(20)]
        assert not one.transport.trouble


async def test_more_than_memory_may_hold_is_sent_all_the_same() -> None:
    """OB-13: during an outage the outbox grows, and not the process."""
    async with desk() as world:
        one = world.process()
        await one.declare("shop", [])
        world.broker.down(for_=timedelta(seconds=0.05))
        for number in range(1100):
            await commit(one, Changes(parcels=[command(f"{number:04}", b"%04d" % number)]))
        assert len(one.postman._posted) <= 1000
        world.world.advance(OUTBOX_LEASE)

        async with asyncio.timeout(10):
            while world.outbox:
                world.world.advance(timedelta(seconds=1))
                await asyncio.sleep(0.02)

        taken = await handle(world, one, "shop")
        assert sorted(taken) == [b"%04d" % number for number in range(1100)]


async def test_a_broker_that_takes_nothing_in_still_hands_over() -> None:
    """BR-10: the alarm for memory; what was handed over before goes on, and the trouble is told."""
    async with desk() as world:
        one = world.process()
        await one.declare("shop", [])
        await commit(one, Changes(parcels=[command("1", b"before")]))
        await received(one, "shop", 1)
        world.broker.block(for_=timedelta(seconds=0.2))
        await commit(one, Changes(parcels=[command("2", b"during")]))

        assert await handle(world, one, "shop") == [b"before"]
        assert world.depth("shop") == 0
        assert one.trouble
        await until(lambda: world.depth("shop") == 1)


@KINDS
async def test_a_message_is_handled_once_however_often_it_is_handed_over(kind: str) -> None:
    """OB-03, OB-05, OB-06: also at two processes at the same instant."""
    async with desk(kind) as world:
        one, other = world.process(), world.process()
        await one.declare("shop", [])
        await commit(one, Changes(parcels=[command("1")]))
        first = (await received(one, "shop", 1))[0]
        world.transport(one).cut(is_restart=True)
        await other.declare("shop", [])
        again = (await received(other, "shop", 1))[0]
        assert first.receipt == again.receipt
        works = [await one.begin("shop"), await other.begin("shop")]
        assert [await work.first_sight([first]) for work in works] == [{"1"}, {"1"}]

        await works[0].commit(Changes(handled=[first], parcels=[command("2", queue="bank")]))
        with pytest.raises(Conflict):
            await works[1].commit(Changes(handled=[again], parcels=[command("3", queue="bank")]))
        await other.acknowledge("shop", [again])

        await until(lambda: world.depth("shop") == 0)
        await until(lambda: world.depth("bank") == 1)


async def test_a_copy_is_new_when_the_inbox_has_forgotten() -> None:
    """OB-15: the inbox remembers as long as history is kept, and not longer."""
    async with desk() as world:
        one = world.process()
        await one.declare("shop", [])
        inspector = inspector_of(one)
        world.broker.put([command("1")])
        assert await handle(world, one, "shop") == [b"1"]
        day = timedelta(days=1)
        world.world.advance(day)

        await inspector.clean(world.world.now(), world.world.now() - 2 * day, 100)
        world.broker.put([command("1")])
        assert await handle(world, one, "shop") == []
        await inspector.clean(world.world.now(), world.world.now() - day, 100)
        world.broker.put([command("1")])
        assert await handle(world, one, "shop") == [b"1"]


async def test_everything_that_a_parcel_says_is_as_it_was_after_a_recovery() -> None:
    """OB-01, OB-08, OB-09: ids, bytes, headers, addresses, and the address of who waits for the answer."""
    async with desk() as world:
        one, other = world.process(), world.process()
        await other.declare("shop", ["placed"])
        odd = json.dumps({"headers": '"quotes"\r\nlines \U0001f4a5 \u202e\0'}).encode()
        answered = asyncio.Event()
        other.listen(REPLIES, answered.set)
        silenced(world, one)
        await commit(
            one,
            Changes(
                parcels=[
                    Parcel("id \U0001f4a5", odd, queue="shop"),
                    Parcel("event", bytes(range(256)), topic="placed", reply_to=other.reply_to("request")),
                ]
            ),
        )
        world.kill(one)
        world.world.advance(OUTBOX_LEASE)

        found = {d.receipt: d.packet for d in await received(other, "shop", 2)}

        assert found == {"id \U0001f4a5": odd, "event": bytes(range(256))}
        await answered.wait()
        assert await other.reply("request") == bytes(range(256))
        assert await other.reply("request") is None


async def test_a_row_that_the_broker_refuses_does_not_hold_up_the_others() -> None:
    """BR-11: it stays in the outbox, with the trouble told; what comes before and after it is sent."""
    async with desk() as world:
        one = world.process()
        await one.declare("shop", [])
        transport = world.transport(one)
        publish = transport.publish

        async def picky(parcels: Sequence[Parcel]) -> None:
            if any(parcel.id == "too large" for parcel in parcels):
                raise Unavailable("a message of 17 MB is more than the broker takes")
            await publish(parcels)

        transport.publish = picky  # type: ignore[method-assign]
        for id in ("1", "too large", "2"):
            await commit(one, Changes(parcels=[command(id)]))

        await until(lambda: world.depth("shop") == 2)
        await until(lambda: world.outbox == 1)
        assert "17 MB" in one.trouble


async def test_who_is_always_busy_also_sends_what_others_left() -> None:
    """OB-24: seconds, and not when it is calm at last."""
    async with desk() as world:
        one = world.process()
        await one.declare("shop", [])
        work = await one.begin("shop")
        await work.rollback()
        left = MemoryEngine(world.store, world.world)
        left.posted = lambda row: None
        left.post([command("left", b"left")], world.world.now())
        world.world.advance(OUTBOX_LEASE)

        async def busy() -> None:
            while True:
                one.store.posted(world_row)  # type: ignore[misc]
                await asyncio.sleep(0)

        from outlast.ports import Delivery

        world_row = Delivery(10_000, pack([command("mine", queue="bank")]), 1)
        task = asyncio.create_task(busy())

        await until(lambda: world.depth("shop") == 1)
        task.cancel()


async def test_a_commit_is_a_commit_although_the_broker_cannot_be_told() -> None:
    """The store has it; a broker that is not told hands over again what is given back."""
    async with desk() as world:
        one = world.process()
        await one.declare("shop", [])
        await commit(one, Changes(parcels=[command("1")]))
        found = await received(one, "shop", 1)
        await commit(one, Changes(claimed=list(found)), "shop")

        async def fails(tags: Any) -> None:
            raise Unavailable("no connection")

        transport = world.transport(one)
        transport.release = transport.renew = fails  # type: ignore[method-assign]

        await commit(one, Changes(renewed=list(found)), "shop")
        await commit(one, Changes(released=list(found)), "shop")


async def test_a_topic_is_dropped_by_whoever_starts_after_one_who_died_at_it() -> None:
    """PS-11: the broker is told before the store forgets what was wanted."""
    async with desk() as world:
        one = world.process()
        await one.declare("shop", ["placed", "paid"])
        transport = world.transport(one)
        transport.cut()
        world.broker.is_down = True

        async def fails(service: str, topics: Sequence[str], dropped: Sequence[str]) -> None:
            raise Unavailable("no connection in time")

        whole, transport.declare = transport.declare, fails  # type: ignore[method-assign]
        with pytest.raises(Unavailable):
            await one.declare("shop", ["paid"])
        transport.declare = whole  # type: ignore[method-assign]
        world.broker.up()
        await one.declare("shop", ["paid"])

        assert world.broker.queues["shop"].topics == {"paid"}


async def test_a_dead_letter_that_is_sent_again_arrives() -> None:
    """RC-08: the inbox knows its first id, for it was handled when it was set aside."""
    async with desk() as world:
        one = world.process()
        await one.declare("shop", [])
        await commit(one, Changes(parcels=[command("1", b"not json")]))
        (delivery,) = await received(one, "shop", 1)
        letter = DeadLetter(
            id="d", service="shop", packet=b"not json", reason="it failed", message_id="1", at=world.world.now()
        )
        await commit(one, Changes(handled=[delivery], dead=[letter]), "shop")
        await one.acknowledge("shop", [delivery])

        await Operations(inspector_of(one), world.world).retry(["d"])

        assert await handle(world, one, "shop") == [b"not json"]


async def test_answers_that_nobody_waits_for_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """P17: a client that gives up leaves nothing behind."""
    monkeypatch.setattr("outlast.adapters.broker.engine.ASKED_AT_ONCE", 3)
    async with desk() as world:
        one = world.process()
        for number in range(10):
            one.reply_to(str(number))
            one.answered(str(number), b"answer")

        assert len(one._asked) == len(one._answers) == 3


@KINDS
async def test_a_queue_that_somebody_deleted_is_made_again(kind: str) -> None:
    """BR-07"""
    async with desk(kind) as world:
        one = world.process()
        await one.declare("shop", ["placed"])
        await until(lambda: world.transport(one).is_connected)
        world.broker.delete("shop")
        await until(lambda: "shop" in world.broker.queues)

        await commit(one, Changes(parcels=[command("1"), Parcel("2", b"2", topic="placed")]))

        await until(lambda: world.depth("shop") == 2)
        assert len(await handle(world, one, "shop")) == 2


async def test_a_message_is_a_suspect_only_after_it_came_often() -> None:
    """RC-22: lost connections are no crashes; and what came often is counted by the store from then on."""
    async with desk() as world:
        one = world.process()
        await one.declare("shop", [])
        await commit(one, Changes(parcels=[command("1")]))
        counts: list[int] = []
        for _ in range(8):
            (delivery,) = await received(one, "shop", 1)
            counts.append(delivery.count)
            await tried(one, "shop", [delivery])
            world.kill(one)
            one = world.process()
            await one.declare("shop", [])

        assert counts == [0, 0, 0, 0, 1, 2, 3, 4]


async def test_a_backlog_is_not_set_aside_because_its_process_is_killed_again_and_again() -> None:
    """RC-22: only one message is tried alone at a time, so only that one may be what kills the process."""
    async with desk() as world:
        one = world.process()
        await one.declare("shop", [])
        await commit(one, Changes(parcels=[command(f"{number}") for number in range(20)]))
        for _ in range(20):
            waiting = [d for d in await received(one, "shop", 20) if not Patience().refuses(d.count)]
            alone = [d for d in waiting if d.count >= Patience().alone_after]
            await tried(one, "shop", alone[:1] or waiting)
            world.kill(one)
            one = world.process()
            await one.declare("shop", [])

        found = await received(one, "shop", 20)

        refused = [delivery for delivery in found if Patience().refuses(delivery.count)]
        assert len(refused) <= 7, f"{len(refused)} of {len(found)} messages are given up"
        assert {d.count for d in found if d not in refused} <= {3, 4}


async def test_closing_waits_for_what_was_sent() -> None:
    """SD-04: a client that sends and ends has sent."""
    async with desk() as world:
        one = world.process()
        await commit(one, Changes(parcels=[command("1")]))

        await one.close()
        world.engines.remove(one)

        assert world.depth("shop") == 1
        assert world.outbox in (0, 1)


async def test_what_the_store_knows_can_be_seen_without_the_broker() -> None:
    async with desk() as world:
        one = world.process()
        await one.declare("shop", [])
        world.broker.down(for_=timedelta(seconds=1))
        inspector = inspector_of(one)
        await commit(one, Changes(parcels=[command("1")]))

        assert isinstance(inspector_of(one.store), MemoryInspector)
        one.transport.depths = _never  # type: ignore[method-assign]
        assert {status.service for status in await inspector.queues()} == {"@outbox", "shop"}


async def _never(services: Sequence[str]) -> dict[str, int]:
    raise Unavailable("no connection")


async def test_what_is_set_aside_leaves_the_outbox_in_the_same_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """RC-05: a process that dies in between would set it aside twice."""
    async with desk() as world:
        one = world.process()
        await one.declare("shop", [])
        rows: list[Changes] = []

        async def refuses(parcels: Sequence[Parcel]) -> None:
            raise Misuse("it is too large")

        async def commit_noted(self: MemoryWork, changes: Changes) -> None:
            rows.append(changes)
            await whole(self, changes)

        whole = MemoryWork.commit
        world.transport(one).publish = refuses  # type: ignore[method-assign]
        now = world.world.now()
        packet = encode(Envelope(id="m", type="t", conversation="c", sent_at=now, body=Raw(b"{}")))
        await commit(one, Changes(parcels=[command("1", packet)]))
        monkeypatch.setattr(MemoryWork, "commit", commit_noted)

        await until(lambda: world.outbox == 0)

        assert [(len(changes.dead), len(changes.handled)) for changes in rows if changes.dead] == [(1, 1)]
