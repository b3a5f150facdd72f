"""What a system needs on a RabbitMQ: a durable queue for each service, one direct exchange for events, and bindings.

A topic is a routing key. Commands need no exchange of ours: the broker's default one reaches each queue by its name.

All of it can be made ahead of time, with credentials that may configure, for processes that may only read and write:
`topology` lists it, `make` makes it. Making it again changes nothing. A worker needs the right to read its own queue;
whoever sends needs the right to write to the default exchange and to the exchange for events; a process that makes
requests needs the right to configure and read queues called `<prefix>replies.*`.

From version 4 on a quorum queue drops a message that was handed over 20 times, unless it is told not to. How often
something is tried is ours to decide, so there the queues are made with `x-delivery-limit: -1`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from outlast.adapters.rabbitmq.settings import Settings
from outlast.adapters.rabbitmq.wire import ChannelLost, Wire, channel_on, connect
from outlast.errors import Misuse, Unavailable

REFUSED, MISSING, LOCKED, OTHERWISE = 403, 404, 405, 406
OLDEST = (3, 8)
LIMITS_DELIVERIES = (4,)
REPLIES_KEPT_MILLISECONDS = 60_000

Arguments = dict[str, Any]


class Piece(NamedTuple):
    """One thing that is to be there: an `exchange`, a `queue`, or a `binding` called by its topic."""

    kind: str
    name: str
    arguments: Arguments


def topology(services: Mapping[str, Sequence[str]], settings: Settings, *, version: tuple[int, ...]) -> list[Piece]:
    """What these services need with their topics, in the order in which it is to be made."""
    pieces = [Piece("exchange", settings.exchange, {"type": "direct", "durable": True})]
    for service in services:
        pieces.append(Piece("queue", settings.queue(service), queue_arguments(settings, version)))
    for service, topics in services.items():
        ends = {"exchange": settings.exchange, "queue": settings.queue(service)}
        pieces += [Piece("binding", topic, dict(ends)) for topic in topics]
    return pieces


async def make(services: Mapping[str, Sequence[str]], settings: Settings) -> list[Piece]:
    """Makes it, and returns what it made sure of. Raises `Unavailable`, or `Misuse` if something is there otherwise."""
    wire = await _connect_to_any(settings)
    try:
        pieces = topology(services, settings, version=known_version(wire))
        for piece in pieces:
            await _make(wire, piece)
    except ChannelLost as error:
        raise Unavailable(f"{settings} cannot be prepared: {error.text}.") from error
    finally:
        await wire.end()
    return pieces


def known_version(wire: Wire) -> tuple[int, ...]:
    """The broker's version. Raises `Misuse` if it is none that we can use."""
    if wire.version < OLDEST:
        raise Misuse(
            f"the server says that it is {wire.product}. Quorum queues and their counting of deliveries need "
            f"RabbitMQ {'.'.join(map(str, OLDEST))} or newer."
        )
    return wire.version


def queue_arguments(settings: Settings, version: tuple[int, ...]) -> Arguments:
    """How the queue of a service is made."""
    if settings.queue_type == "classic":
        return {}
    arguments: Arguments = {"x-queue-type": "quorum"}
    if version >= LIMITS_DELIVERIES:
        arguments["x-delivery-limit"] = -1
    return arguments


async def ensure_exchange(wire: Wire, settings: Settings) -> None:
    """The exchange for events is there. Raises `Misuse` if it cannot be."""
    await _ensure(wire, settings, Piece("exchange", settings.exchange, {"type": "direct", "durable": True}))


async def ensure_queue(wire: Wire, settings: Settings, service: str) -> None:
    """The queue of the service is there, and is as it should be if we may know. Raises `Misuse` if it cannot be."""
    arguments = queue_arguments(settings, wire.version)
    await _ensure(wire, settings, Piece("queue", settings.queue(service), arguments))


async def ensure_target(wire: Wire, settings: Settings, service: str) -> None:
    """There is a queue of this name. How it was made is the business of the service that reads it."""
    name = settings.queue(service)
    if not await _is_there(wire, Piece("queue", name, {})):
        await ensure_queue(wire, settings, service)


async def ensure_bindings(
    wire: Wire, settings: Settings, service: str, *, topics: Sequence[str], dropped: Sequence[str]
) -> None:
    """The queue gets these topics and not the dropped ones. Whoever may not bind finds them bound, or not."""
    if settings.topology == "passive":
        return
    ends = {"queue": settings.queue(service), "exchange": settings.exchange}
    try:
        async with channel_on(wire) as channel:
            for topic in topics:
                await channel.call("queue_bind", routing_key=topic, **ends)
            for topic in dropped:
                await channel.call("queue_unbind", routing_key=topic, **ends)
    except ChannelLost as error:
        if error.code != REFUSED:
            raise


async def count(wire: Wire, name: str) -> int:
    """How many messages are ready in the queue; 0 if there is none."""
    try:
        async with channel_on(wire) as channel:
            said = await channel.call("queue_declare", queue=name, passive=True)
    except ChannelLost as error:
        if error.code != MISSING:
            raise
        return 0
    return int(said.method.message_count)


async def _ensure(wire: Wire, settings: Settings, piece: Piece) -> None:
    refused = ""
    if settings.topology == "declare":
        try:
            await _make(wire, piece)
        except ChannelLost as error:
            if error.code != REFUSED:
                raise
            refused = f" ({error.text})"
        else:
            return
    if not await _is_there(wire, piece):
        raise Misuse(
            f"the {piece.kind} {piece.name!r} is missing at {settings}, and this process does not make it{refused}. "
            "Make it ahead of time, with credentials that may: outlast migrate."
        )


async def _make(wire: Wire, piece: Piece) -> None:
    try:
        async with channel_on(wire) as channel:
            match piece.kind:
                case "exchange":
                    await channel.call("exchange_declare", exchange=piece.name, exchange_type="direct", durable=True)
                case "queue":
                    await channel.call("queue_declare", queue=piece.name, durable=True, arguments=piece.arguments)
                case _:
                    await channel.call("queue_bind", routing_key=piece.name, **piece.arguments)
    except ChannelLost as error:
        if error.code != OTHERWISE:
            raise
        raise Misuse(_difference(piece, error.text)) from error


async def _is_there(wire: Wire, piece: Piece) -> bool:
    try:
        async with channel_on(wire) as channel:
            if piece.kind == "exchange":
                await channel.call("exchange_declare", exchange=piece.name, passive=True)
            else:
                await channel.call("queue_declare", queue=piece.name, passive=True)
    except ChannelLost as error:
        if error.code == MISSING:
            return False
        # To look needs no right in most versions; where it does, what is missing shows when a message comes back.
        if error.code != REFUSED:
            raise
    return True


def _difference(piece: Piece, text: str) -> str:
    """What the broker said about something that exists with other arguments, as advice."""
    found = re.search(r"inequivalent arg '([^']*)'.*: (received .*)", text)
    argument, values = found.groups() if found else ("arguments", text)
    advice = "Let it drain and delete it, or give the URL the options that it was made with."
    if argument == "x-queue-type":
        advice = "Let it drain and delete it, or add ?queue_type= to the URL."
    if argument == "x-delivery-limit":
        advice = (
            "It would drop what was handed over too often. Let it drain and delete it; or set a policy with "
            "delivery-limit -1 and add ?topology=passive to the URL."
        )
    return f"the {piece.kind} {piece.name!r} exists with another {argument}: {values}. {advice}"


async def _connect_to_any(settings: Settings) -> Wire:
    failures: list[str] = []
    for host in settings.hosts:
        try:
            return await connect(settings, host)
        except ChannelLost as error:
            failures.append(f"{host}: {error.text}")
    raise Unavailable(f"{settings} cannot be reached. {'; '.join(failures)}.")
