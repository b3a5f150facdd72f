"""Quorum queues that somebody else is just making: they are listed, and nobody answers for them yet."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from servers.rabbitmq import RabbitMQ

from outlast.errors import Unavailable
from outlast.ports import Parcel
from tests.rabbitmq.desk import desk, foreign, until


async def test_a_service_is_declared_though_its_queue_is_just_being_made(
    mortal_rabbitmq: RabbitMQ, mortal_vhost: str
) -> None:
    """RabbitMQ ends the connection of who consumes from such a queue."""
    member = f"{{'{mortal_vhost.rpartition('/')[2]}_outlast.payment', node()}}"
    async with desk(mortal_vhost, "payment"):
        pass
    await asyncio.to_thread(mortal_rabbitmq.evaluate, f"ra:stop_server(quorum_queues, {member})")
    async with desk(mortal_vhost, "audit") as one:
        declaring = asyncio.create_task(one.transport.declare("payment", [], []))
        await until(lambda: "INTERNAL_ERROR" in one.transport.trouble)

        await asyncio.to_thread(mortal_rabbitmq.evaluate, f"ra:restart_server(quorum_queues, {member})")

        await declaring
        await one.publish("1")
        await one.has("1")


async def test_a_queue_that_refuses_what_it_is_given_first_gets_it_again(rabbitmq_vhost: str) -> None:
    """And nothing else comes twice for that."""
    async with desk(rabbitmq_vhost, "audit") as one, foreign(rabbitmq_vhost) as channel:
        _make_full(channel)
        parcels = [Parcel("1", b"{}", queue="audit"), Parcel("2", b"{}", queue="payment")]
        publishing = asyncio.create_task(one.transport.publish(parcels))
        await one.has("1")

        channel.queue_purge("outlast.payment")

        await publishing
        assert channel.basic_get("outlast.payment", auto_ack=True)[1].message_id == "2"
        assert one.ids == ["1"]


async def test_a_queue_that_goes_on_refusing_holds_up_the_others_once(rabbitmq_vhost: str) -> None:
    async with desk(rabbitmq_vhost) as one, foreign(rabbitmq_vhost) as channel:
        _make_full(channel)
        with pytest.raises(Unavailable, match="refused 1 of 1"):
            await one.publish("1")

        with pytest.raises(Unavailable, match="refused 1 of 1"):
            async with asyncio.timeout(1):
                await one.publish("1")


def _make_full(channel: Any) -> None:
    """A queue for payment that takes no more."""
    limits = {"x-max-length": 1, "x-overflow": "reject-publish"}
    channel.queue_declare("outlast.payment", durable=True, arguments=limits)
    channel.confirm_delivery()
    channel.basic_publish("", "outlast.payment", b"{}")
