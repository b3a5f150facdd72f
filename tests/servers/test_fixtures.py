"""What a test gets that asks for a server: one that answers, and a part of it that shows nothing of other tests."""

from __future__ import annotations

import asyncpg
import nats
import pika
import pytest

TWICE = pytest.mark.parametrize("turn", [1, 2])


@TWICE
async def test_a_database_is_empty_and_durable(turn: int, postgres_database: str) -> None:
    connection = await asyncpg.connect(postgres_database)
    try:
        await connection.execute("CREATE TABLE seen (turn INT)")

        assert await connection.fetchval("SHOW fsync") == "on"
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
    finally:
        await connection.close()


@TWICE
def test_a_virtual_host_is_empty(turn: int, rabbitmq_vhost: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq_vhost))
    channel = connection.channel()

    declared = channel.queue_declare("seen", durable=True, arguments={"x-queue-type": "quorum"})
    channel.basic_publish("", "seen", b"one")

    assert declared.method.message_count == 0
    connection.close()


@TWICE
async def test_an_account_is_empty(turn: int, nats_account: str) -> None:
    connection = await nats.connect(nats_account)
    jetstream = connection.jetstream()

    assert await jetstream.streams_info() == []

    await jetstream.add_stream(name="seen", subjects=["seen"])
    acknowledged = await jetstream.publish("seen", b"one")
    assert acknowledged.seq == 1
    await connection.close()
