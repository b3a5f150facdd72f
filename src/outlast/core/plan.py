"""A workflow class, read once: its steps, how each finds its instance, and how state is read and written."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import msgspec

from outlast.core import foreign
from outlast.core.annotations import hints_of, incoming, name_of_function, outgoing, parameters_of
from outlast.core.message import Envelope, Message
from outlast.core.naming import name_of_type
from outlast.core.workflow import KeyOf, Timer, Workflow
from outlast.errors import BadWorkflow, KeyMissing


@dataclass(frozen=True, slots=True)
class Step:
    """One method of a workflow and the messages that it is for."""

    method: Callable[[Any, Any], Any]
    starts: bool
    key_of: Callable[[Any], object] | None
    returns: tuple[Any, ...]

    @property
    def name(self) -> str:
        return self.method.__name__


class Record(msgspec.Struct):
    """What is stored of an instance. `plan_of` derives one whose `state` has the workflow's type."""

    state: Any
    started_by: list[str]
    conversation: str
    timers: dict[str, Timer]


@dataclass(frozen=True, slots=True)
class Plan:
    """A workflow class, read once: its name, steps and codec."""

    cls: type[Workflow]
    name: str
    keep: timedelta
    stash: timedelta
    steps: Mapping[str, Step]
    kinds: Mapping[str, Any]
    listens_to_failures: frozenset[str]
    record: type[Record]
    decode: Callable[[bytes], Record]

    def key_for(self, service: str, envelope: Envelope, message: Message) -> str:
        """The key of the instance that this message is for. Raises `KeyMissing`."""
        answers = envelope.answers
        if answers is not None and answers.workflow == self.name and answers.service == service:
            return answers.key
        key_of = self.steps[envelope.type].key_of
        value = None if key_of is None else key_of(message)
        if value is None:
            raise KeyMissing(
                f"{self.cls.__name__} cannot find the instance for {envelope.type!r} {envelope.id}: "
                f"it has no value for the key {self.cls.__options__.key!r}, and it answers no command of an "
                "instance. Fill the field, or say where the key is with @on(key=...)."
            )
        key = str(value)
        if not key.isascii():
            key.encode()  # half of a surrogate pair cannot be stored: it fails here, and alone
        return key


def plan_of(cls: type[Workflow]) -> Plan:
    """Reads a workflow class. Raises `BadWorkflow` when it could not be decided."""
    options = cls.__options__
    where = f"{cls.__module__}.{cls.__qualname__}"
    if not options.key:
        raise BadWorkflow(
            f"{where} does not say how an instance is found. Name the field that holds its key: "
            f'class {cls.__name__}(Workflow, key="order_id").'
        )
    fields = msgspec.structs.fields(cast(type[msgspec.Struct], cls))
    required = [info.name for info in fields if info.required]
    if required:
        raise BadWorkflow(
            f"{where} has fields without a default: {', '.join(required)}. An instance begins empty, so give "
            f"each a default, as in `{required[0]}: str | None = None`."
        )
    steps: dict[str, Step] = {}
    kinds: dict[str, Any] = {}
    for attribute in _methods(cls):
        for kind, step in _steps(cls, attribute):
            name = name_of_type(kind)
            if name in steps:
                raise BadWorkflow(
                    f"{where} has two methods for {name!r}: {steps[name].name} and {step.name}. Keep one."
                )
            steps[name], kinds[name] = step, kind
    if not any(step.starts for step in steps.values()):
        raise BadWorkflow(f"{where} has no method marked @starts, so no instance could ever begin. Mark one.")
    struct = msgspec.defstruct(
        f"{cls.__name__}Record",
        [("state", cls), ("started_by", list[str]), ("conversation", str), ("timers", dict[str, Timer])],
        bases=(Record,),
        gc=False,
    )
    record = cast(type[Record], struct)
    return Plan(
        cls=cls,
        name=options.name,
        keep=options.keep,
        stash=options.stash,
        steps=steps,
        kinds=kinds,
        listens_to_failures=frozenset(name for name in steps if name.startswith("failed:")),
        record=record,
        decode=msgspec.json.Decoder(record, dec_hook=foreign.read).decode,
    )


def _methods(cls: type[Workflow]) -> list[Callable[..., Any]]:
    """The marked methods, those of base classes first, each in the order of its class."""
    found: dict[str, Callable[..., Any]] = {}
    for base in reversed(cls.__mro__):
        for name, attribute in vars(base).items():
            if hasattr(attribute, "__outlast__"):
                found[name] = attribute
    return list(found.values())


def _steps(cls: type[Workflow], method: Callable[..., Any]) -> list[tuple[Any, Step]]:
    where = name_of_function(method)
    is_start, key = method.__outlast__  # type: ignore[attr-defined]
    parameters = parameters_of(method)
    hints = hints_of(method, BadWorkflow)
    if method.__code__.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
        raise BadWorkflow(
            f"{where} is an async def. A workflow decides and does not wait: make it a plain def, and let a "
            "handler of a service do the waiting."
        )
    kinds = incoming(hints.get(parameters[1].name)) if len(parameters) == 2 else []
    if not kinds:
        raise BadWorkflow(
            f"{where} must take exactly one message, annotated with its type: "
            "def paid(self, event: PaymentCompleted) -> CreateShippingLabel."
        )
    if "return" not in hints:
        raise BadWorkflow(
            f"{where} does not say what it sends. Annotate what it returns (-> None when nothing), "
            "so that the message flow can be checked and drawn."
        )
    returns = tuple(outgoing(hints["return"]))
    return [(kind, Step(method, is_start, _key_of(cls, kind, key, is_start, where), returns)) for kind in kinds]


def _key_of(cls: type[Workflow], kind: Any, key: KeyOf, is_start: bool, where: str) -> Callable[[Any], object] | None:
    if callable(key):
        return key
    fields = getattr(kind, "__struct_fields__", ())
    name = key or cls.__options__.key
    if name in fields:
        return lambda message: getattr(message, name)
    if key is not None or is_start:
        raise BadWorkflow(
            f"{where} finds its instance by the field {name!r}, which {name_of_type(kind)!r} does not have "
            f"(it has {', '.join(fields) or 'none'}). Name the right one: "
            f"@{'starts' if is_start else 'on'}(key=...)."
        )
    return None
