"""`outlast send`: a message from the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast

import click
import msgspec

from outlast.cli.loading import find_message, load_services
from outlast.cli.output import clock, next_steps, print_json
from outlast.cli.settings import Given, apps_of, options, url_of
from outlast.client import Client, Sent
from outlast.core.message import Command, Event, Message
from outlast.core.naming import name_of, name_of_type
from outlast.engines import inspector_of
from outlast.errors import Misuse, Refused
from outlast.runtime.service import Service


@click.command("send")
@click.argument("message")
@click.argument("fields", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--id", help="Sent once, however often it is repeated with this id.")
@click.option("--to", help="Another service than the owner of the command.")
@click.option("--after", type=click.FloatRange(0), help="Seconds to wait before it is delivered.")
@click.option("--anyway", is_flag=True, help="Publish an event even if no service would get it.")
@options(apps=True)
def send_command(given: Given, message: str, fields: Sequence[str], anyway: bool, **how: Any) -> None:
    """Send a command, or publish an event: outlast send PlaceOrder order_id=1 total=84.90.

    MESSAGE is the name of a class or of the message on the wire, or module:Class. FIELD=VALUE is converted
    to the field's type; FIELD:=JSON takes any JSON.
    """
    apps = apps_of(given.apps) if given.apps or ":" not in message else []
    services = load_services(apps)
    value = build(find_message(message, services, apps), fields)
    sent, receivers = asyncio.run(_send(url_of(given.url), value, anyway=anyway, **how))
    key = key_in(value, services)
    if given.as_json:
        print_json(
            {
                "id": sent.id,
                "message": name_of(value),
                "conversation": sent.id,
                "receivers": receivers,
                "due": sent.due,
                "key": key,
            }
        )
        return
    verb = "published" if isinstance(value, Event) else "sent"
    later = f", due {clock(sent.due)}" if sent.due is not None else ""
    click.echo(f"{verb} {name_of(value)} to {', '.join(receivers) or 'nobody'}{later}, conversation {sent.id}")
    next_steps(f"outlast follow {key or sent.id}", quiet=given.quiet)


def build(kind: type[Message], fields: Sequence[str]) -> Message:
    """The message with these fields. Raises `Misuse` that says what fields it has."""
    values: dict[str, Any] = {}
    for field in fields:
        name, equals, text = field.partition("=")
        if not equals or not name:
            raise Misuse(f"{field!r} is no field of a message. Write FIELD=VALUE, or FIELD:=JSON.")
        if name.endswith(":"):
            try:
                values[name[:-1]] = json.loads(text)
            except ValueError as error:
                raise Misuse(f"{field!r} is no JSON after the `:=`: {error}. Use `=` for plain text.") from error
        else:
            values[name] = text
    known = {info.name: info for info in _fields(kind)}
    unknown = [name for name in values if name not in known]
    if unknown:
        raise Misuse(f"{kind.__name__} has no field {unknown[0]!r}. It has {_described(kind)}.")
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Misuse(f"{kind.__name__} cannot be made of this: {error}. It has {_described(kind)}.") from error


def _fields(kind: type[Message]) -> Sequence[msgspec.structs.FieldInfo]:
    # At run time every message class is a struct; type checkers are told something simpler.
    return msgspec.structs.fields(cast(Any, kind))


def _described(kind: type[Message]) -> str:
    parts = [
        f"{info.name}: {getattr(info.type, '__name__', info.type)}" + ("" if info.required else " (optional)")
        for info in _fields(kind)
    ]
    return ", ".join(parts) or "no fields"


def key_in(message: Message, services: Sequence[Service]) -> str | None:
    """The business key that this message has for a workflow of these services, if there is one."""
    name = name_of_type(type(message))
    for service in services:
        for plan in service.routes.plans.values():
            step = plan.steps.get(name)
            if step is not None and step.key_of is not None:
                key = step.key_of(message)
            else:
                key = getattr(message, plan.cls.__options__.key, None)
            if key is not None:
                return str(key)
    return None


async def _send(
    url: str, message: Message, *, id: str | None, to: str | None, after: float | None, anyway: bool
) -> tuple[Sent, list[str]]:
    delay = timedelta(seconds=after) if after is not None else None
    async with Client(url, name="outlast send") as client:
        parcel = client.parcel(message, to=to)
        queues = await inspector_of(client.engine).queues()
        receivers = [queue.service for queue in queues if parcel.topic in queue.topics] or [parcel.queue]
        if not isinstance(message, Event):
            return await client.send(cast("Command[Any]", message), id=id, to=to, after=delay), receivers
        receivers = [receiver for receiver in receivers if receiver]
        if not receivers and not anyway:
            raise Refused(
                f"{name_of(message)!r} was not published: no service that has run on {url} subscribes to it, so "
                "nobody would ever get it. Start the services once (outlast dev), or add --anyway."
            )
        return await client.publish(message, id=id, after=delay), receivers
