"""The private RabbitMQ, its every way of ending, and what an operator does to it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPConnectionError, AMQPError
from servers.rabbitmq import RabbitMQ
from servers.server import NotInstalled

from tests.processes import wait_for
from tests.real_servers import started

QUORUM = {"x-queue-type": "quorum"}


@pytest.fixture(scope="module")
def own() -> Iterator[RabbitMQ]:
    """A server that these tests may kill; each leaves it running."""
    yield from started(RabbitMQ())


def connected(server: RabbitMQ) -> BlockingChannel:
    return pika.BlockingConnection(pika.URLParameters(server.url)).channel()


def put(channel: BlockingChannel, queue: str) -> None:
    channel.confirm_delivery()
    channel.queue_declare(queue, durable=True, arguments=QUORUM)
    channel.basic_publish("", queue, b"kept", pika.BasicProperties(delivery_mode=2))


def taken(server: RabbitMQ, queue: str) -> list[bytes]:
    """What is in the queue, once it has a leader again after a start."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with connected(server).connection as connection:
                channel = connection.channel()
                bodies: list[bytes] = []
                while (body := channel.basic_get(queue, auto_ack=True)[2]) is not None:
                    bodies.append(body)
            if bodies or time.monotonic() > deadline:
                return bodies
        except AMQPError:
            assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_comes_back_from_being_killed_with_what_was_confirmed(own: RabbitMQ) -> None:
    channel = connected(own)
    put(channel, "killed")
    own.sync()

    own.kill()

    assert not own.is_up()
    with pytest.raises(AMQPError):
        channel.basic_get("killed")
    own.start()
    assert taken(own, "killed") == [b"kept"]


def test_it_comes_back_from_an_orderly_stop(own: RabbitMQ) -> None:
    channel = connected(own)
    put(channel, "stopped")

    own.stop()

    assert not own.is_up()
    with pytest.raises(AMQPError):
        channel.basic_get("stopped")
    own.start()
    assert taken(own, "stopped") == [b"kept"]


def test_a_paused_server_is_silent_and_then_goes_on(own: RabbitMQ) -> None:
    own.pause()
    try:
        assert not own.is_up()
    finally:
        own.go_on()
    assert own.is_up()


def test_an_alarm_blocks_who_publishes_until_it_is_over(own: RabbitMQ) -> None:
    channel = connected(own)
    heard: list[str] = []
    channel.connection.add_on_connection_blocked_callback(lambda *_: heard.append("blocked"))
    channel.connection.add_on_connection_unblocked_callback(lambda *_: heard.append("unblocked"))
    channel.basic_publish("", "nowhere", b"")

    own.alarm(True)
    try:
        channel.basic_publish("", "nowhere", b"")
        wait_for(lambda: channel.connection.process_data_events(0.01) or heard == ["blocked"])
    finally:
        own.alarm(False)

    wait_for(lambda: channel.connection.process_data_events(0.01) or heard == ["blocked", "unblocked"])
    channel.connection.close()


def test_a_deleted_queue_is_gone(own: RabbitMQ) -> None:
    channel = connected(own)
    put(channel, "deleted")

    own.delete_queue("deleted")

    with pytest.raises(AMQPError, match="NOT_FOUND"):
        channel.queue_declare("deleted", passive=True)
    channel.connection.close()


def test_a_closed_connection_is_told_so(own: RabbitMQ) -> None:
    channel = connected(own)

    own.close_connections()

    with pytest.raises(AMQPConnectionError, match="by an operator"):
        channel.connection.process_data_events(5)


def test_virtual_hosts_come_and_go(own: RabbitMQ) -> None:
    url = own.add_vhost("a-b")
    pika.BlockingConnection(pika.URLParameters(url)).close()

    own.delete_vhost("a-b")

    with pytest.raises(AMQPError):
        pika.BlockingConnection(pika.URLParameters(url))


def test_its_own_tool_works_too(own: RabbitMQ) -> None:
    assert own.control("eval", "1 + 1.").strip() == own.evaluate("1 + 1") == "2"


def test_a_missing_one_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr("servers.rabbitmq.DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NotInstalled, match="make services"):
        RabbitMQ().start()
