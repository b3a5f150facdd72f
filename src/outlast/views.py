"""What operations answer with: plain values for people and programs, made of what an engine keeps.

Their fields are what `--json` prints, so they are only ever added to.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from outlast.core.message import Envelope
from outlast.core.naming import encode, open_packet
from outlast.core.workflow import Timer
from outlast.errors import Undecodable
from outlast.ports import (
    DeadLetterStatus,
    Entry,
    InstanceStatus,
    Parcel,
    QueueStatus,
    Unhandled,
    Value,
    WorkflowStatus,
)

NULL = msgspec.Raw(b"null")


class Status(Value, frozen=True, kw_only=True):
    """The whole system at a glance."""

    at: datetime
    services: list[QueueStatus]
    workflows: list[WorkflowStatus]
    problems: list[str]
    """What needs a person, in words; empty when all is well."""


class TimerView(Value, frozen=True, kw_only=True):
    """A timer that is set."""

    name: str
    due: datetime


class InstanceView(Value, frozen=True, kw_only=True):
    """One instance of a workflow."""

    service: str
    workflow: str
    key: str
    status: str
    """`running` or `completed`."""
    conversation: str
    version: int
    """How many turns have changed it."""
    started_at: datetime
    changed_at: datetime
    timers: list[TimerView]
    state: msgspec.Raw


class Line(Value, frozen=True, kw_only=True):
    """What became of one message at one service."""

    number: int
    at: datetime
    outcome: str
    """`handled`, `failed`, `dead letter`, or what a workflow made of it: `started`, `continued`, ..."""
    message: str
    """Its wire name."""
    id: str
    cause: str | None
    conversation: str
    sender: str
    service: str
    workflow: str
    key: str
    attempt: int
    sent_at: datetime | None
    note: str
    body: msgspec.Raw


class Pending(Value, frozen=True, kw_only=True):
    """A message that is on its way."""

    message: str
    id: str
    service: str
    workers: int
    """How many processes of the service are up. With 0 the message waits until one is."""
    state: str
    """`waiting`, `claimed` (a worker is at it), `dated`, `stashed` or `timer`."""
    due: datetime | None
    attempt: int
    sent_at: datetime
    body: msgspec.Raw


class Failure(Value, frozen=True, kw_only=True):
    """A dead letter: a message set aside for a person."""

    id: str
    status: str
    """`open`, `retried` or `archived`."""
    service: str
    message: str
    message_id: str
    key: str
    conversation: str
    reason: str
    error: str
    attempts: int
    at: datetime
    host: str
    version: str


class FailureDetail(Failure, frozen=True, kw_only=True):
    """A dead letter with everything that is known of it."""

    traceback: str
    sender: str
    sent_at: datetime | None
    body: msgspec.Raw


class Story(Value, frozen=True, kw_only=True):
    """All that is known under one business key."""

    key: str
    instances: list[InstanceView]
    timeline: list[Line]
    pending: list[Pending]
    failures: list[Failure]


class Settled(Value, frozen=True, kw_only=True):
    """What a retry or an archiving did."""

    status: str
    settled: list[str]
    """Ids of the dead letters that this call settled."""
    skipped: list[str]
    """Ids of those that had been settled before, so that nothing was done."""


class _Record(msgspec.Struct):
    """What an engine keeps of an instance, its state unread."""

    state: msgspec.Raw = NULL
    timers: dict[str, Timer] = {}


def instance_view(row: InstanceStatus) -> InstanceView:
    record = msgspec.json.decode(row.state, type=_Record)
    return InstanceView(
        service=row.address.service,
        workflow=row.address.workflow,
        key=row.address.key,
        status="completed" if row.done else "running",
        conversation=row.conversation,
        version=row.version,
        started_at=row.started_at,
        changed_at=row.changed_at,
        timers=[TimerView(name=name, due=timer.due) for name, timer in record.timers.items()],
        state=record.state,
    )


def opened(packet: bytes) -> Envelope | None:
    try:
        return open_packet(packet)
    except Undecodable:
        return None


def line_of(number: int, entry: Entry) -> Line:
    envelope = opened(entry.packet)
    return Line(
        number=number,
        at=entry.at,
        outcome=entry.outcome,
        message=envelope.type if envelope else "(unreadable)",
        id=envelope.id if envelope else "",
        cause=envelope.cause if envelope else None,
        conversation=entry.conversation,
        sender=envelope.sender if envelope else "",
        service=entry.service,
        workflow=entry.workflow,
        key=entry.key,
        attempt=envelope.attempt if envelope else 1,
        sent_at=envelope.sent_at if envelope else None,
        note=entry.note,
        body=envelope.body if envelope else NULL,
    )


def pending_of(item: Unhandled, envelope: Envelope, workers: int) -> Pending:
    state = "waiting"
    if item.stashed_for:
        state = "stashed"
    elif item.due is not None:
        state = "timer" if envelope.timer is not None else "dated"
    elif item.is_claimed:
        state = "claimed"
    return Pending(
        message=envelope.type,
        id=envelope.id,
        service=item.service,
        workers=workers,
        state=state,
        due=item.due,
        attempt=envelope.attempt,
        sent_at=envelope.sent_at,
        body=envelope.body,
    )


def _fields(item: DeadLetterStatus) -> dict[str, Any]:
    letter = item.letter
    return {
        "id": letter.id,
        "status": item.status,
        "service": letter.service,
        "message": letter.type or "(unreadable)",
        "message_id": letter.message_id,
        "key": letter.key,
        "conversation": letter.conversation,
        "reason": letter.reason,
        "error": letter.error,
        "attempts": letter.attempts,
        "at": letter.at,
        "host": letter.host,
        "version": letter.version,
    }


def failure_of(item: DeadLetterStatus) -> Failure:
    return Failure(**_fields(item))


def detail_of(item: DeadLetterStatus) -> FailureDetail:
    envelope = opened(item.letter.packet)
    return FailureDetail(
        **_fields(item),
        traceback=item.letter.traceback,
        sender=envelope.sender if envelope else "",
        sent_at=envelope.sent_at if envelope else None,
        body=envelope.body if envelope else NULL,
    )


def parcel_again(item: DeadLetterStatus) -> Parcel:
    """The message as it was first sent; what cannot be read goes as it is, for a new release may read it."""
    letter = item.letter
    envelope = opened(letter.packet)
    packet = letter.packet if envelope is None else encode(msgspec.structs.replace(envelope, attempt=1))
    # Under a new id: that of the message was handled when it was set aside, and an inbox would drop it.
    return Parcel("", packet, queue=letter.service)
