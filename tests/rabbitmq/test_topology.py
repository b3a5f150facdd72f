"""What must be there before anything goes, who may make it, and what is said when it is not as it should be."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from servers.rabbitmq import RabbitMQ, quoted

from outlast.adapters.rabbitmq import make, read, topology
from outlast.adapters.rabbitmq.inbound import derived_id
from outlast.adapters.rabbitmq.topology import LIMITS_DELIVERIES, known_version
from outlast.adapters.rabbitmq.wire import Wire
from outlast.errors import BadUrl, Misuse, Unavailable
from outlast.ports import Parcel
from tests.rabbitmq.desk import consumers, desk, foreign, with_option

SERVICES = {"payment": ["Paid", "Lost"], "audit": ["Paid"]}


@pytest.fixture
def limited(rabbitmq_server: RabbitMQ, rabbitmq_vhost: str) -> Iterator[str]:
    """The URL of a user who may read and write in the virtual host, and configure nothing."""
    vhost = rabbitmq_vhost.rpartition("/")[2]
    user = f"limited-{vhost}"
    add = f"rabbit_auth_backend_internal:add_user({quoted(user)}, {quoted('secret')}, {quoted('operator')})"
    may = f"{quoted('^$')}, {quoted('.*')}, {quoted('.*')}, {quoted('operator')}"
    rabbitmq_server.evaluate(add)
    rabbitmq_server.evaluate(f"rabbit_auth_backend_internal:set_permissions({quoted(user)}, {quoted(vhost)}, {may})")
    yield rabbitmq_vhost.replace("guest:guest@", f"{user}:secret@")
    rabbitmq_server.evaluate(f"rabbit_auth_backend_internal:delete_user({quoted(user)}, {quoted('operator')})")


def test_the_topology_can_be_listed() -> None:
    settings = read("amqp://localhost?prefix=shop-")

    assert [tuple(piece) for piece in topology(SERVICES, settings, version=(3, 13))] == [
        ("exchange", "shop-events", {"type": "direct", "durable": True}),
        ("queue", "shop-payment", {"x-queue-type": "quorum"}),
        ("queue", "shop-audit", {"x-queue-type": "quorum"}),
        ("binding", "Paid", {"exchange": "shop-events", "queue": "shop-payment"}),
        ("binding", "Lost", {"exchange": "shop-events", "queue": "shop-payment"}),
        ("binding", "Paid", {"exchange": "shop-events", "queue": "shop-audit"}),
    ]


def test_a_broker_that_would_drop_what_came_often_is_told_not_to() -> None:
    """BR-22: from version 4 on."""
    [_, queue, *_] = topology({"payment": []}, read("amqp://localhost"), version=LIMITS_DELIVERIES)

    assert queue.arguments == {"x-queue-type": "quorum", "x-delivery-limit": -1}


@pytest.mark.parametrize("way", ["passive", "without the right"])
async def test_what_was_made_ahead_of_time_is_enough(way: str, limited: str, rabbitmq_vhost: str) -> None:
    """BR-24"""
    url = with_option(limited, topology="passive") if way == "passive" else limited
    made = await make(SERVICES, read(rabbitmq_vhost))
    assert made == await make(SERVICES, read(rabbitmq_vhost))

    async with desk(url, "payment", "audit", topics=["Paid"]) as one:
        await one.transport.publish([Parcel("1", b"{}", topic="Lost"), Parcel("2", b"{}", queue="audit")])

        await one.has("1", "2")
        assert sorted((service, arrival.id) for service, arrival in one.arrivals) == [("audit", "2"), ("payment", "1")]


@pytest.mark.parametrize("way", ["passive", "without the right"])
async def test_what_is_missing_is_named(way: str, limited: str, rabbitmq_vhost: str) -> None:
    """BR-24"""
    url = with_option(limited, topology="passive") if way == "passive" else limited
    async with desk(url) as one:
        with pytest.raises(Misuse, match=r"the exchange 'outlast\.events' is missing .* outlast migrate"):
            await one.transport.declare("payment", [], [])
        await make({"audit": []}, read(rabbitmq_vhost))
        with pytest.raises(Misuse, match=r"the queue 'outlast\.payment' is missing .* outlast migrate"):
            await one.transport.declare("payment", [], [])
        with pytest.raises(Unavailable, match=r"the queue 'outlast\.payment' is missing"):
            await one.publish("1")

        await make({"payment": []}, read(rabbitmq_vhost))
        await one.publish("1")


async def test_a_queue_that_disappears_for_good_is_told_of(
    limited: str, rabbitmq_vhost: str, rabbitmq_server: RabbitMQ
) -> None:
    """BR-11: what comes back and cannot be put anywhere is not taken for sent."""
    await make({"payment": []}, read(rabbitmq_vhost))
    async with desk(limited) as one:
        await one.publish("1")
        rabbitmq_server.delete_queue("outlast.payment", vhost=rabbitmq_vhost.rpartition("/")[2])

        with pytest.raises(Unavailable, match="payment"):
            await one.publish("2")

        await make({"payment": []}, read(rabbitmq_vhost))
        await one.publish("3")
        assert await one.transport.depths(["payment"]) == {"payment": 1}


@pytest.mark.parametrize(
    ("arguments", "difference"),
    [
        ({}, r"another x-queue-type: .*quorum.*classic|another x-queue-type: .*quorum.*none"),
        ({"x-queue-type": "quorum", "x-message-ttl": 1000}, r"another x-message-ttl"),
        ({"x-queue-type": "quorum", "x-max-length": 7}, r"another x-max-length: .* '7'"),
    ],
)
async def test_a_queue_made_otherwise_is_not_used(
    arguments: dict[str, object], difference: str, rabbitmq_vhost: str
) -> None:
    """BR-23"""
    async with foreign(rabbitmq_vhost) as channel:
        channel.queue_declare("outlast.payment", durable=True, arguments=arguments)
    async with desk(rabbitmq_vhost, "audit") as one:
        with pytest.raises(Misuse, match=rf"the queue 'outlast\.payment' exists with {difference}"):
            await one.transport.declare("payment", [], [])
        with pytest.raises(Misuse, match=difference):
            await make({"payment": []}, read(rabbitmq_vhost))

        await one.publish("1")
        assert await one.transport.depths(["payment"]) == {"payment": 1}
        assert await consumers(rabbitmq_vhost, "outlast.payment") == 0
        assert one.losses == []


async def test_classic_queues_can_be_had(rabbitmq_vhost: str) -> None:
    async with foreign(rabbitmq_vhost) as channel:
        channel.queue_declare("outlast.payment", durable=True)

    async with desk(with_option(rabbitmq_vhost, queue_type="classic"), "payment") as one:
        await one.publish("1")
        await one.has("1")
        findings = {finding.what: finding for finding in await one.transport.examine()}
        assert not findings["queues"].is_good
        assert findings["broker"].is_good
        assert findings["broker"].seen.startswith("RabbitMQ ")


async def test_two_systems_share_a_virtual_host_by_their_prefix(rabbitmq_vhost: str) -> None:
    """TR-36"""
    async with (
        desk(with_option(rabbitmq_vhost, prefix="a."), "payment", topics=["Paid"]) as first,
        desk(with_option(rabbitmq_vhost, prefix="b."), "payment", topics=["Paid"]) as second,
    ):
        await first.transport.publish([Parcel("1", b"{}", queue="payment"), Parcel("2", b"{}", topic="Paid")])
        await first.has("1", "2")

        assert second.ids == []


async def test_who_is_not_let_in_is_told(rabbitmq_vhost: str) -> None:
    """The password is not in it."""
    wrong = with_option(rabbitmq_vhost.replace("guest:guest@", "guest:wrong-secret@"), confirm_timeout=1)
    async with desk(wrong) as one:
        with pytest.raises(Unavailable, match=r"refused") as refused:
            await one.publish("1")
        assert "wrong-secret" not in str(refused.value) + one.transport.name + one.transport.trouble
    async with desk(with_option(rabbitmq_vhost + "-missing", confirm_timeout=1)) as one:
        with pytest.raises(Unavailable, match="vhost"):
            await one.publish("1")


async def test_a_wrong_server_is_no_reason_to_give_up_a_message(
    rabbitmq_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Misuse` would be said of the message; it is said of the service only, which cannot start there."""
    monkeypatch.setattr(sys.modules[known_version.__module__], "OLDEST", (99,))
    async with desk(with_option(rabbitmq_vhost, confirm_timeout=1)) as one:
        with pytest.raises(Unavailable, match="RabbitMQ 99 or newer"):
            await one.publish("1")
        with pytest.raises(Misuse, match="RabbitMQ 99 or newer"):
            await one.transport.declare("payment", [], [])


@pytest.mark.parametrize(
    ("product", "version"), [("RabbitMQ", "3.7.28"), ("LavinMQ", "2.0.0"), ("RabbitMQ", "unknown"), ("", "")]
)
def test_a_server_that_is_too_old_or_another_is_refused(product: str, version: str) -> None:
    wire = Wire.__new__(Wire)
    wire.server_properties = {"product": product, "version": version}
    with pytest.raises(Misuse, match=r"RabbitMQ 3\.8 or newer"):
        known_version(wire)
    wire.server_properties = {"product": "RabbitMQ", "version": "4.1.0-rc.1"}
    assert known_version(wire) == (4, 1, 0)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://localhost", "begins with amqp"),
        ("amqp://localhost?colour=red", "'colour' in a RabbitMQ URL is not known"),
        ("amqp://localhost?queue_type=stream", "cannot be used"),
        ("amqp://localhost?prefetch=0", "out of range"),
        ("amqp://localhost?prefetch=many", "cannot be used"),
        ("amqp://localhost?bundle=0", "bundle goes from 1 to 1000"),
        ("amqp://localhost?bundle=1001", "bundle goes from 1 to 1000"),
        ("amqp://me:secret@localhost:port", "'localhost:port'"),
        ("amqps://localhost?cafile=/nowhere", "cannot be read"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, said: str) -> None:
    with pytest.raises(BadUrl, match=said) as refused:
        read(url).context()
    assert "secret" not in str(refused.value)


def test_a_url_says_where_and_who() -> None:
    settings = read("amqps://m%40e:p%2Fw@one,[::1]:5673,three:1/my%2Fhost?heartbeat=3&confirm_timeout=0.5")

    assert [str(host) for host in settings.hosts] == ["one:5671", "[::1]:5673", "three:1"]
    assert (settings.user, settings.password, settings.vhost, settings.tls) == ("m@e", "p/w", "my/host", True)
    assert (settings.heartbeat, settings.confirm_timeout) == (3, 0.5)
    assert (settings.bundle, settings.held_max) == (1, 1000)
    assert str(settings) == "RabbitMQ at one:5671, [::1]:5673, three:1, virtual host 'my/host'"
    assert [read(f"amqp://h{path}").vhost for path in ("", "/", "/%2F", "/v")] == ["/", "/", "/", "v"]


def test_fewer_messages_are_held_where_each_may_be_many_unless_it_is_said_how_many() -> None:
    assert read("amqp://localhost?bundle=64").held_max == 100
    assert read("amqp://localhost?bundle=64&prefetch=1000").held_max == 1000


def test_a_derived_id_depends_on_the_body_alone() -> None:
    assert derived_id(b"a") == derived_id(b"a") != derived_id(b"b")
