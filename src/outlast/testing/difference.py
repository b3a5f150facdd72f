"""What was expected, what there is, and in what the two differ."""

from __future__ import annotations

from collections.abc import Sequence

from outlast.core.message import Message


def fits(expected: Message | type[Message], actual: Message) -> bool:
    """Whether this is the expected message; a class stands for any message of it."""
    return isinstance(actual, expected) if isinstance(expected, type) else actual == expected


def show(message: object) -> str:
    """A message, or a class of them, for people."""
    return f"{message.__name__}(...)" if isinstance(message, type) else repr(message)


def listed(items: Sequence[object]) -> str:
    """One a line, indented to stand after `expected: `."""
    texts = [item if isinstance(item, str) else show(item) for item in items]
    return f"\n{' ' * 10}".join(texts) if texts else "nothing"


def differences(expected: Sequence[object], actual: Sequence[object]) -> list[str]:
    """Field by field, for messages that are of the expected type and yet not as expected."""
    return [
        f"{type(want).__name__}.{name}: expected {getattr(want, name)!r}, got {getattr(got, name)!r}"
        for want, got in zip(expected, actual, strict=False)
        if isinstance(want, Message) and type(want) is type(got)
        for name in want.__struct_fields__
        if getattr(want, name) != getattr(got, name)
    ]
