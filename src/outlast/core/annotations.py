"""What signatures say: which messages come in and which go out. The message flow is read from here."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable
from typing import Annotated, Any, ForwardRef, Union, get_args, get_origin, get_type_hints

from outlast.core.message import Command, Event, Failed, Message
from outlast.errors import BadMessage, Misuse


def hints_of(function: Callable[..., Any], error: type[Misuse]) -> dict[str, Any]:
    """The resolved annotations of a function, or `error` with what to do about it."""
    try:
        return get_type_hints(function)
    except NameError as cause:
        raise error(
            f"{name_of_function(function)} has an annotation that does not resolve: {cause}. Import the name at "
            "run time (not under `if TYPE_CHECKING`) and define it at the top level of a module."
        ) from cause


def name_of_function(function: Callable[..., Any]) -> str:
    """Module and qualified name, for error messages."""
    return f"{function.__module__}.{getattr(function, '__qualname__', function)}"


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a function, in order."""
    return list(inspect.signature(function).parameters.values())


def incoming(annotation: Any) -> list[Any]:
    """The message types that a parameter annotated like this accepts; empty when it accepts none."""
    kinds = [unaliased(kind) for kind in members(annotation)]
    return kinds if kinds and all(is_message_type(kind) for kind in kinds) else []


def outgoing(annotation: Any) -> list[Any]:
    """The message types named in a return annotation: in unions, tuples, lists, iterators."""
    found: list[Any] = []
    for kind in members(annotation):
        if is_message_type(kind):
            found.append(kind)
        else:
            for argument in get_args(kind):
                found += [inner for inner in outgoing(argument) if inner not in found]
    return found


def answers_of(command: type[Command[Any]]) -> list[Any]:
    """The message types that answer a command, from `Command[...]` in its bases."""
    for cls in command.__mro__:
        for base in getattr(cls, "__orig_bases__", ()):
            if get_origin(base) is Command:
                return outgoing(_named(get_args(base)[0], cls))
    return []


def _named(annotation: Any, cls: type[Any]) -> Any:
    """The type that `Command["TheAnswer"]` names, which may be defined further down in the module of the class."""
    if not isinstance(annotation, ForwardRef):
        return annotation
    holder = type("Holder", (), {"__annotations__": {"answer": annotation}})
    try:
        return get_type_hints(holder, vars(sys.modules[cls.__module__]))["answer"]
    except (NameError, KeyError) as error:
        raise BadMessage(
            f"class {cls.__name__} says that {annotation.__forward_arg__!r} answers it, and there is no such name in "
            f"module {cls.__module__}. Import it there, or define it."
        ) from error


def members(annotation: Any) -> list[Any]:
    """The members of a union, or the annotation itself; `None` left out."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        return [inner for member in get_args(annotation) for inner in members(member)]
    return [] if annotation in (None, type(None)) else [annotation]


def unaliased(annotation: Any) -> Any:
    """`Annotated[X, ...]` without its notes."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def is_message_type(kind: Any) -> bool:
    """Whether this is a concrete message class, or `Failed[SomeCommand]`."""
    if get_origin(kind) is Failed:
        return True
    return isinstance(kind, type) and issubclass(kind, Message) and kind not in (Message, Event, Command, Failed)
