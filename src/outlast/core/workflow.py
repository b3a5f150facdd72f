"""Workflows: durable state found by a business key, and pure methods from a message to messages.

`Workflow` is what users subclass. `plan_of` reads such a class once; `Instance.decide` takes one message
to the instance of one key and says what follows. Nothing here waits, reads a clock or throws dice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast, dataclass_transform, overload

import msgspec

from outlast.core import foreign
from outlast.core.annotations import hints_of, incoming, name_of_function, outgoing, parameters_of
from outlast.core.message import Envelope, Event, Message, kebab
from outlast.core.naming import encode, name_of, name_of_type
from outlast.errors import BadWorkflow, KeyMissing, Misuse

WorkflowT = TypeVar("WorkflowT", bound="Workflow")
EventT = TypeVar("EventT", bound=Event)
MessageT = TypeVar("MessageT", bound=Message)
ReturnT = TypeVar("ReturnT", bound="Message | Iterable[Message] | None")

KeyOf = str | Callable[[Any], object] | None

KEEP_DEFAULT = timedelta(days=7)
STASH_DEFAULT = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the class statement of a workflow says."""

    key: str
    name: str
    keep: timedelta
    stash: timedelta


if TYPE_CHECKING:
    # What type checkers are to know of a workflow class. They would not check the class keywords of a metaclass.
    @dataclass_transform(kw_only_default=True, field_specifiers=(msgspec.field,))
    class _State:
        __options__: ClassVar[Options]
        __struct_fields__: ClassVar[tuple[str, ...]]

        def __init_subclass__(
            cls,
            *,
            key: str = "",
            name: str | None = None,
            keep: timedelta = KEEP_DEFAULT,
            stash: timedelta = STASH_DEFAULT,
        ) -> None: ...

else:

    class WorkflowMeta(msgspec.StructMeta):
        """Makes a workflow class: a mutable struct whose fields are the state of one instance."""

        def __new__(mcls, class_name, bases, namespace, *, key="", name=None, keep=KEEP_DEFAULT, stash=STASH_DEFAULT):
            cls = super().__new__(mcls, class_name, bases, namespace, kw_only=True, dict=True)
            cls.__options__ = Options(key=key, name=name or kebab(class_name), keep=keep, stash=stash)
            return cls

    class _State(msgspec.Struct, metaclass=WorkflowMeta):
        pass


class Workflow(_State):
    """A conversation that outlives any one message; subclass it, and its fields are the state.

    `class Fulfilment(Workflow, key="order_id")`: `key` names the message field by which the instance is
    found. `name=` fixes the name under which state is stored (renaming it orphans running instances),
    `keep=` is how long a completed instance is kept so that late messages are recognised (7 days), and
    `stash=` how long a message waits for an instance that does not exist yet (1 hour) before it becomes a
    dead letter. Every field needs a default.

    Methods marked `@starts` or `@on` are called with one message and must be pure: no I/O, no clock, no
    dice; `self.now` and `self.id()` are given. What they return is sent, in the transaction that stores the
    state. A method may run more than once for one message; only one run takes effect.
    """

    @property
    def key(self) -> str:
        """The business key of this instance, as text."""
        return self._moment.key

    @property
    def now(self) -> datetime:
        """The time of this turn, in UTC; the same for every call within the turn."""
        return self._moment.now

    @property
    def timers(self) -> Mapping[str, datetime]:
        """The timers that are set, by name, with their due times in UTC."""
        return MappingProxyType({name: timer.due for name, timer in self._moment.timers.items()})

    def id(self) -> str:
        """A new unique id (a time-ordered UUID). Another one if the turn has to be repeated."""
        return self._moment.new_id()

    def after(self, delay: timedelta, message: Message, *, name: str | None = None) -> str:
        """Sends `message` to this instance after `delay`, and returns the timer's name.

        The name is the message's wire name unless given; setting a timer that is already set moves it.
        It fires once and never early. Completing the instance cancels it.
        """
        return self.at(self._moment.now + delay, message, name=name)

    def at(self, due: datetime, message: Message, *, name: str | None = None) -> str:
        """Like `after`, at a point in time; `due` must know its time zone."""
        if due.tzinfo is None:
            raise Misuse(
                f"the timer {name or name_of(message)!r} is set to {due!r}, which has no time zone. "
                "Use self.now + timedelta(...), or a datetime with tzinfo."
            )
        return self._moment.set_timer(name or name_of(message), due.astimezone(UTC), message)

    def cancel(self, name: str | type[Message]) -> bool:
        """Cancels the timer of this name (or message class); False if it is not set."""
        return self._moment.cancel_timer(name if isinstance(name, str) else name_of_type(name))

    def complete(self) -> None:
        """Ends the instance: its timers are cancelled, and later messages are noted as late."""
        self._moment.completed = True

    @property
    def _moment(self) -> Moment:
        try:
            return self.__dict__["moment"]  # type: ignore[no-any-return]
        except KeyError:
            raise Misuse(
                f"{type(self).__name__} was used outside a turn. Its methods are called by outlast; to try them "
                "out, use outlast.testing.Scenario."
            ) from None


class Timer(msgspec.Struct, frozen=True, array_like=True):
    """A timer that is set: the id of its letter, which is also the token that a firing must show."""

    id: str
    due: datetime


class Moment(msgspec.Struct):
    """What one call of a workflow method is given, and what it asked for besides its return value."""

    key: str
    now: datetime
    new_id: Callable[[], str]
    timers: dict[str, Timer]
    letters: list[tuple[str, Timer, Message]] = []
    withdrawn: list[Timer] = []
    completed: bool = False

    def set_timer(self, name: str, due: datetime, message: Message) -> str:
        self.cancel_timer(name)
        timer = Timer(self.new_id(), due)
        self.timers[name] = timer
        self.letters.append((name, timer, message))
        return name

    def cancel_timer(self, name: str) -> bool:
        timer = self.timers.pop(name, None)
        if timer is not None:
            self.withdrawn.append(timer)
        return timer is not None


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


_Mark = tuple[bool, KeyOf]


@overload
def starts(method: Callable[[WorkflowT, EventT], ReturnT], /) -> Callable[[WorkflowT, EventT], ReturnT]: ...
@overload
def starts(
    *, key: KeyOf = None
) -> Callable[[Callable[[WorkflowT, EventT], ReturnT]], Callable[[WorkflowT, EventT], ReturnT]]: ...
def starts(method: Any = None, /, *, key: KeyOf = None) -> Any:
    """Marks the method for an event that starts an instance, if there is none for its key.

    When the instance exists already: an event of a type that it has had is a second start, which is noted
    and ignored; one of another type (a workflow may have several) is handled like any other message.
    `key` names another field that holds the key, or computes it from the message.
    """
    return _marked(method, (True, key))


@overload
def on(method: Callable[[WorkflowT, MessageT], ReturnT], /) -> Callable[[WorkflowT, MessageT], ReturnT]: ...
@overload
def on(
    *, key: KeyOf = None
) -> Callable[[Callable[[WorkflowT, MessageT], ReturnT]], Callable[[WorkflowT, MessageT], ReturnT]]: ...
def on(method: Any = None, /, *, key: KeyOf = None) -> Any:
    """Marks the method for a message to an instance that exists.

    The instance is found, in this order: answers to a command that it sent find it by themselves; else by
    `key` (another field, or a function of the message); else by the workflow's own key field.
    """
    return _marked(method, (False, key))


def _marked(method: Any, mark: _Mark) -> Any:
    def put(function: Any) -> Any:
        function.__outlast__ = mark
        return function

    return put if method is None else put(method)


class Outcome(StrEnum):
    """What became of a message at a workflow; the words of `outlast show`."""

    STARTED = "started"
    CONTINUED = "continued"
    COMPLETED = "completed"
    SECOND_START = "second start"
    LATE = "late"
    STALE_TIMER = "stale timer"
    STASHED = "stashed"


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What one message leads to at one instance."""

    outcome: Outcome
    messages: Sequence[Message] = ()
    timers: Sequence[tuple[str, Timer, Message]] = ()
    withdrawn: Sequence[Timer] = ()


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


Snapshot = tuple[bytes | None, bool, bool]


class Instance(msgspec.Struct):
    """The instance of one key within one turn. `version` 0 means that it does not exist yet."""

    plan: Plan
    key: str
    stored: bytes | None = None
    version: int = 0
    done: bool = False
    changed: bool = False
    record: Record | None = None

    def snapshot(self) -> Snapshot:
        """What `restore` needs to undo the decisions made since."""
        return self.stored, self.done, self.changed

    def restore(self, snapshot: Snapshot) -> None:
        """Undoes the decisions made since the snapshot."""
        self.stored, self.done, self.changed = snapshot
        self.record = None

    def decide(self, envelope: Envelope, message: Message, now: datetime, new_id: Callable[[], str]) -> Decision:
        """Takes one message to this instance. An exception of the method leaves the instance as it was."""
        step = self.plan.steps[envelope.type]
        if self.done:
            return Decision(Outcome.STALE_TIMER if envelope.timer else Outcome.LATE)
        record = self.record
        if record is None:
            if self.stored is not None:
                record = self.record = self.plan.decode(self.stored)
            elif envelope.timer is not None:
                return Decision(Outcome.STALE_TIMER)
            elif not step.starts:
                return Decision(Outcome.STASHED)
            else:
                record = self.plan.record(self.plan.cls(), [], envelope.conversation, {})
        outcome = Outcome.CONTINUED
        if step.starts:
            if envelope.type in record.started_by:
                return Decision(Outcome.SECOND_START)
            if not record.started_by:
                outcome = Outcome.STARTED
        elif envelope.timer is not None:
            name, token = envelope.timer
            timer = record.timers.get(name)
            if timer is None or timer.id != token:
                return Decision(Outcome.STALE_TIMER)
        return self._apply(step, outcome, record, envelope, message, now, new_id)

    def _apply(
        self,
        step: Step,
        outcome: Outcome,
        record: Record,
        envelope: Envelope,
        message: Message,
        now: datetime,
        new_id: Callable[[], str],
    ) -> Decision:
        moment = Moment(self.key, now, new_id, record.timers)
        workflow = record.state
        workflow.__dict__["moment"] = moment
        try:
            if envelope.timer is not None:
                del record.timers[envelope.timer[0]]
            messages = listed(step.method(workflow, message), step.method)
            if len(workflow.__dict__) > 1:
                raise _not_stored(workflow, step)
            if moment.completed:
                outcome = Outcome.COMPLETED
                for name in list(record.timers):
                    moment.cancel_timer(name)
            if step.starts:
                record.started_by.append(envelope.type)
            stored = encode(record)
        except BaseException:
            self.record = None
            raise
        self.record, self.stored = record, stored
        self.done, self.changed = moment.completed, True
        return Decision(outcome, messages, moment.letters, moment.withdrawn)


def _not_stored(workflow: Workflow, step: Step) -> Misuse:
    strange = ", ".join(name for name in workflow.__dict__ if name != "moment")
    return Misuse(
        f"{name_of_function(step.method)} set {strange}, which is no field of {type(workflow).__name__} and would "
        "be lost at the end of the turn. Declare it with a type and a default, or use a local variable."
    )


def listed(returned: object, function: Callable[..., Any]) -> list[Message]:
    """What a handler or a workflow method returned, as a list of messages."""
    if returned is None:
        return []
    if isinstance(returned, Message):
        return [returned]
    if isinstance(returned, Iterable) and not isinstance(returned, str | bytes | Mapping):
        messages: list[Any] = [item for item in returned if item is not None]  # pyright: ignore[reportUnknownVariableType]
        if all(isinstance(item, Message) for item in messages):
            return messages
    raise Misuse(
        f"{name_of_function(function)} returned {returned!r}, which is no message. Return a command or an event, "
        "several of them in a tuple or a generator, or None."
    )


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
    if method.__code__.co_flags & 0x80:
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
