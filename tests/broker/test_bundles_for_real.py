"""Bundles on the real brokers: fewer messages travel than parcels, and each parcel has its effect once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from servers.proxy import Proxy

from outlast.adapters.broker import BrokerEngine
from outlast.engines import open_engine
from outlast.ports import Changes
from tests.broker.rig import command, commit

PARCELS = 500
LONGEST = 30.0
"""Seconds; NATS waits for two of them before it hands a message over again."""


@asynccontextmanager
async def process(url: str, path: Path, options: str) -> AsyncGenerator[BrokerEngine]:
    """One process at this broker, with a store that all of a test share."""
    engine, _ = open_engine(f"{url}?{options}store=sqlite:///{path}/shop.db?synchronous=normal")
    assert isinstance(engine, BrokerEngine)
    try:
        yield engine
    finally:
        await engine.close()


async def depth(engine: BrokerEngine) -> int:
    return (await engine.depths(["shop"])).get("shop", -1)


async def turn(engine: BrokerEngine) -> list[bytes]:
    """Consumes up to 50 deliveries, and returns what was not a copy."""
    found = await engine.receive("shop", 50)
    work = await engine.begin("shop")
    fresh = await work.first_sight(found)
    handled = [delivery for delivery in found if delivery.receipt in fresh]
    await work.commit(Changes(handled=handled))
    await engine.acknowledge("shop", found)
    await asyncio.sleep(0.01)
    return [delivery.packet for delivery in handled]


@pytest.mark.parametrize(
    ("broker", "patience"), [("rabbitmq_vhost", ""), ("nats_account", "ack_wait=2&")], ids=["rabbitmq", "nats"]
)
async def test_less_travels_than_was_sent_and_all_of_it_is_handled_once(
    request: pytest.FixtureRequest, tmp_path: Path, broker: str, patience: str
) -> None:
    """BR-01: also over a connection that is lost in between, to a process that has not the option."""
    url = request.getfixturevalue(broker)
    packets = [b"%03d" % number for number in range(PARCELS)]
    async with (
        asyncio.timeout(LONGEST),
        Proxy(url) as proxy,
        process(url, tmp_path, f"{patience}bundle=64&") as sender,
        process(proxy.url, tmp_path, patience) as receiver,
    ):
        await commit(sender, Changes(parcels=[command(f"id {n}", packet) for n, packet in enumerate(packets)]))
        while (count := await depth(sender)) < PARCELS / 64:
            await asyncio.sleep(0.01)
        assert count == 8

        await receiver.declare("shop", [])
        handled: list[bytes] = []
        while len(handled) < 150:
            handled += await turn(receiver)
        proxy.cut()  # within a bundle: the broker must not have heard that it is done with
        while not receiver.trouble:
            await asyncio.sleep(0.001)
        while len(handled) < PARCELS or await depth(receiver) != 0:
            handled += await turn(receiver)

        assert sorted(handled) == packets
