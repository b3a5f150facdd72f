"""What is written to whoever asked, when a command has become a dead letter."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeAlias

import msgspec

from outlast.core.message import Envelope
from outlast.core.naming import FAILED, encode

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

LONGEST_TEXT = 1_000
LONGEST_LIST = 100


def failure_of(
    command: Envelope, *, reason: str, error: str, new_id: Callable[[], str], sender: str, now: datetime
) -> Envelope | None:
    """`Failed[...]` for whoever wants to know of the end of this command; `None` if nobody does."""
    origin = command.origin if command.tells_failure else None
    if origin is None and command.reply_to is None:
        return None
    # The body is put together from the command's own bytes, so that an unreadable one can be reported too.
    body = encode({"command": command.body, "reason": reason, "error": error, "attempts": command.attempt})
    return Envelope(
        id=new_id(),
        type=FAILED + command.type,
        conversation=command.conversation,
        sent_at=now,
        body=msgspec.Raw(body),
        sender=sender,
        cause=command.id,
        answers=origin,
        headers=command.headers,
    )


def shortened(command: Envelope) -> Envelope:
    """The same without the ends of long texts and lists. What was bytes can still be read as bytes."""
    return msgspec.structs.replace(command, body=msgspec.Raw(encode(_cut(msgspec.json.decode(command.body)))))


def _cut(value: Json) -> Json:
    if isinstance(value, str):
        return value[:LONGEST_TEXT]
    if isinstance(value, list):
        return [_cut(item) for item in value[:LONGEST_LIST]]
    if isinstance(value, dict):
        return {name: _cut(inner) for name, inner in value.items()}
    return value
