"""Classes of other libraries inside messages and state.

msgspec reads and writes dataclasses, attrs classes, enums, dates, decimals and UUIDs by itself. What it does not know
is asked for two methods by name, those of pydantic's models, so that nothing need be imported here.
"""

from __future__ import annotations

from typing import Any

import msgspec


def write(value: Any) -> Any:
    """What stands for `value` in JSON. Raises `TypeError` for a class that says nothing about it."""
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(
            f"{type(value).__name__} cannot be written into a message. Use a dataclass, an attrs or msgspec class, or "
            "a pydantic model."
        )
    return dump(mode="json")


def read(kind: type[Any], value: Any) -> Any:
    """The instance of `kind` that was written as `value`."""
    validate = getattr(kind, "model_validate", None)
    if validate is None:
        raise TypeError(f"{kind.__name__} cannot be read from a message.")
    try:
        return validate(value)
    except ValueError as error:
        raise msgspec.ValidationError(f"{kind.__name__}: {error}") from error
