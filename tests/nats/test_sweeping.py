"""What everybody has acknowledged is removed, and nothing else."""

from __future__ import annotations

import asyncio
import random

import pytest

from outlast.adapters.nats import transport as module
from outlast.adapters.nats.names import Names
from outlast.adapters.nats.sweeping import needed_from
from outlast.ports import Parcel
from tests.nats.rig import commands, kept, opened, tags, until_nothing_is_kept, world


@pytest.fixture(autouse=True)
def sweep_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.02)
    monkeypatch.setattr(module, "TICK_SECONDS", 0.02)


def consumer(*filters: str, floor: int, pending: int = 0, unacknowledged: int = 0) -> dict[str, object]:
    config = {"filter_subjects": list(filters)} if len(filters) > 1 else {"filter_subject": filters[0]}
    return {
        "config": config,
        "ack_floor": {"stream_seq": floor},
        "num_pending": pending,
        "num_ack_pending": unacknowledged,
    }


def test_what_somebody_has_not_acknowledged_is_needed() -> None:
    names = Names("p")
    consumers = [
        consumer("p.q.a", floor=3, unacknowledged=1),
        consumer("p.t.x", "p.t.y", floor=5, pending=1),
        consumer("p.t.y", floor=2),
        consumer("p.t.z", "p.t.y", floor=7, unacknowledged=2),
    ]

    def needed(subject: str) -> int:
        return needed_from(subject, consumers, last=20, names=names)

    assert needed("p.q.a") == 4
    assert needed("p.t.x") == 6
    assert needed("p.t.y") == 6
    assert needed("p.t.z") == 8
    assert needed("p.t.nobody") == 21
    assert needed("p.q.never-up") == 0


async def test_what_is_held_or_waits_is_not_removed(nats_account: str) -> None:
    async with opened(nats_account) as (transport, remembered):
        await transport.declare("payment", ["paid"], [])
        await transport.publish([*commands(30), *commands(5, "never-up")])
        await transport.publish([Parcel(world.new_id(), b"", topic="paid") for _ in range(20)])
        await transport.publish([Parcel(world.new_id(), b"", topic="nobody") for _ in range(20)])
        arrivals = await remembered.wait_for("payment", 50)

        await transport.acknowledge(tags(arrivals[10:]))
        await asyncio.sleep(0.5)

        assert await kept(nats_account) >= 10 + 5
        await transport.acknowledge(tags(arrivals))
        while await kept(nats_account) > 5:
            await asyncio.sleep(0.05)
        await transport.declare("never-up", [], [])
        await transport.acknowledge(tags(await remembered.wait_for("never-up", 5)))
        await until_nothing_is_kept(nats_account)


async def test_nothing_is_lost_while_services_come_and_go_and_everything_is_swept(nats_account: str) -> None:
    """P2, P14. Several processes sweep all the time, while messages are published, acknowledged and released."""
    services = {"a": ["x", "y"], "b": ["y", "z"], "c": ["x"], "d": []}
    expected: dict[str, set[str]] = {service: set() for service in services}
    got: dict[str, set[str]] = {service: set() for service in services}
    dice = random.Random(7)
    is_over = False

    async def publish() -> None:
        async with opened(nats_account) as (transport, _):
            for _ in range(150):
                parcels = [
                    Parcel(world.new_id(), bytes(50), queue=dice.choice("abcd"))
                    if dice.random() < 0.5
                    else Parcel(world.new_id(), bytes(50), topic=dice.choice("xyzw"))
                    for _ in range(dice.choice([1, 3, 20, 60]))
                ]
                await transport.publish(parcels)
                for parcel in parcels:
                    for service, topics in services.items():
                        if parcel.queue == service or parcel.topic in topics:
                            expected[service].add(parcel.id)

    async def consume() -> None:
        while not is_over or got != expected:
            # Sweeping makes the server forget to hand over at once what was released.
            async with opened(nats_account, ack_wait=2) as (transport, remembered):
                for service, topics in services.items():
                    await transport.declare(service, topics, [])
                for _ in range(dice.randrange(5, 40)):
                    await asyncio.sleep(0.01)
                    for service in services:
                        arrivals = remembered.take(service)
                        dice.shuffle(arrivals)
                        keep = dice.randrange(len(arrivals) + 1)
                        got[service].update(arrival.id for arrival in arrivals[:keep])
                        await transport.acknowledge(tags(arrivals[:keep]))
                        await transport.release(tags(arrivals[keep:]))

    async with opened(nats_account) as (transport, _):
        for service, topics in services.items():
            await transport.declare(service, topics, [])
    consumers = [asyncio.create_task(consume()) for _ in range(2)]
    await asyncio.gather(*(publish() for _ in range(2)))
    is_over = True
    done, late = await asyncio.wait(consumers, timeout=20)
    for task in late:
        task.cancel()
    await asyncio.wait(consumers)
    assert {service: expected[service] ^ got[service] for service in services} == {
        service: set() for service in services
    }
    assert len(done) == 2
    async with opened(nats_account) as (transport, _):
        for service, topics in services.items():
            await transport.declare(service, topics, [])
        await until_nothing_is_kept(nats_account)
