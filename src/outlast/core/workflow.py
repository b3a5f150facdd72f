"""What users write: workflows, durable state found by a business key, and pure methods from message to messages.

Nothing here waits, reads a clock or throws dice: a `Moment` brings what a method needs from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform, overload

import msgspec

from outlast.core.message import Event, Message, kebab
from outlast.core.naming import name_of, name_of_type
from outlast.errors import Misuse

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


class Moment(msgspec.Struct, gc=False):
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
