"""From messages to parcels: what is written on the envelope of everything that leaves a service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec

from outlast.core.failure import failure_of
from outlast.core.message import Envelope, Message, Origin, is_command
from outlast.core.naming import FAILED, encode, name_of
from outlast.core.routing import owner_of
from outlast.ports import Parcel

NO_FAILURES: frozenset[str] = frozenset()


def first_parcel(
    message: Message,
    *,
    id: str,
    sender: str,
    now: datetime,
    to: str | None = None,
    due: datetime | None = None,
    reply_to: str | None = None,
    headers: Mapping[str, str] | None = None,
    once: bool = False,
) -> Parcel:
    """A parcel that begins a conversation. `to` overrides the owner of a command. Raises `Unroutable`."""
    name = name_of(message)
    envelope = Envelope(
        id=id,
        type=name,
        conversation=id,
        sent_at=now,
        body=msgspec.Raw(encode(message)),
        sender=sender,
        reply_to=reply_to,
        headers=headers or {},
    )
    if is_command(message):
        return Parcel(id, encode(envelope), queue=owner_of(message, to), due=due, once=once)
    return Parcel(id, encode(envelope), topic=name, due=due, once=once)


def next_parcel(
    message: Message,
    cause: Envelope,
    *,
    id: str,
    sender: str,
    now: datetime,
    origin: Origin | None = None,
    listens_to_failures: frozenset[str] = NO_FAILURES,
) -> Parcel:
    """A parcel that `cause` led to. `origin` is the instance that sends it, if one does.

    An event in answer to a command goes to its subscribers, finds the asking instance without any field, and
    goes to the client that waits for it, if one does.
    """
    name = name_of(message)
    owner = owner_of(message) if is_command(message) else ""
    envelope = Envelope(
        id=id,
        type=name,
        conversation=cause.conversation,
        sent_at=now,
        body=msgspec.Raw(encode(message)),
        sender=sender,
        cause=cause.id,
        origin=origin if owner else None,
        answers=None if owner or origin is not None else cause.origin,
        tells_failure=FAILED + name in listens_to_failures,
        headers=cause.headers,
    )
    if owner:
        return Parcel(id, encode(envelope), queue=owner)
    return Parcel(id, encode(envelope), topic=name, reply_to=cause.reply_to or "")


def timer_parcel(
    message: Message, cause: Envelope, *, name: str, id: str, due: datetime, origin: Origin, now: datetime
) -> Parcel:
    """A letter with a date, from an instance to itself. Its id is the token by which it is known."""
    envelope = Envelope(
        id=id,
        type=name_of(message),
        conversation=cause.conversation,
        sent_at=now,
        body=msgspec.Raw(encode(message)),
        sender=origin.service,
        cause=cause.id,
        answers=origin,
        timer=(name, id),
        headers=cause.headers,
    )
    return Parcel(id, encode(envelope), queue=origin.service, due=due)


def again_parcel(envelope: Envelope, *, id: str, queue: str, due: datetime | None) -> Parcel:
    """The same message, one attempt older.

    The message's id stays: it is the handler's idempotency key. The parcel needs one of its own, for an event that
    failed in several services is on its way several times.
    """
    again = msgspec.structs.replace(envelope, attempt=envelope.attempt + 1)
    return Parcel(id, encode(again), queue=queue, due=due)


def failure_parcel(
    command: Envelope, *, reason: str, error: str, new_id: Callable[[], str], sender: str, now: datetime
) -> Parcel | None:
    """`Failed[...]` for whoever wants to know of the end of this command; `None` if nobody does."""
    envelope = failure_of(command, reason=reason, error=error, new_id=new_id, sender=sender, now=now)
    if envelope is None:
        return None
    asker = envelope.answers
    return Parcel(envelope.id, encode(envelope), queue=asker.service if asker else "", reply_to=command.reply_to or "")
