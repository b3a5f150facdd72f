"""Messages as users write them, and the envelope that carries one from service to service.

A message is a frozen, keyword-only value. Its wire name is derived from the class name (`MakePayment`
is `make-payment`) or given; it never contains the module path, so that moving a class orphans nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeGuard, TypeVar, dataclass_transform

import msgspec

from outlast.errors import BadMessage

AnswerT = TypeVar("AnswerT")
CommandT = TypeVar("CommandT", bound="Command[Any]")

# A frozen value that can be written as JSON is in no cycle, so the collector need not look at it.
_OWN = {"frozen": True, "kw_only": True, "gc": False}
_NAME = re.compile(r"[a-z0-9][a-z0-9.:_-]*")


def kebab(class_name: str) -> str:
    """`MakePayment` → `make-payment`, `HTTPCallFailed` → `http-call-failed`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", class_name).lower()


if TYPE_CHECKING:
    # What type checkers are to know of a message class. They would not check the class keywords of a metaclass.
    @dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
    class Message:
        """What is sent: a `Command` or an `Event`."""

        __wire_name__: ClassVar[str]
        __version__: ClassVar[int]
        __owner__: ClassVar[str | None]
        __struct_fields__: ClassVar[tuple[str, ...]]

        def __init_subclass__(cls, *, to: str | None = None, name: str | None = None, version: int = 1) -> None: ...

else:

    class MessageMeta(msgspec.StructMeta):
        """Makes a message class: a frozen struct with a wire name, a version and, for a command, an owner."""

        def __new__(mcls, class_name, bases, namespace, *, to=None, name=None, version=1, **options):
            refused = set(options) & set(_OWN)
            if refused:
                raise BadMessage(
                    f"class {class_name} sets {', '.join(sorted(refused))}, which every message has. Leave it out."
                )
            cls = super().__new__(mcls, class_name, bases, namespace, **_OWN, **options)
            wire_name = name if name is not None else kebab(class_name)
            if not _NAME.fullmatch(wire_name):
                raise BadMessage(
                    f"class {class_name} has the wire name {wire_name!r}, which has other characters than "
                    f"a-z 0-9 . : _ -. Give it name='{kebab(class_name)}' or the like."
                )
            if not isinstance(version, int) or version < 1:
                raise BadMessage(f"class {class_name} has version={version!r}. Versions are whole numbers from 1.")
            cls.__wire_name__ = wire_name if version == 1 else f"{wire_name}@{version}"
            cls.__version__ = version
            cls.__owner__ = to if to is not None else getattr(cls, "__owner__", None)
            return cls

    class Message(msgspec.Struct, metaclass=MessageMeta):
        """What is sent: a `Command` or an `Event`."""


class Event(Message):
    """This happened. Goes to every service that handles it; publishing is fine when there is none.

    Subclass it with annotated fields; `name=` fixes the wire name, `version=` its version (1 by default).
    """

    if TYPE_CHECKING:

        def __init_subclass__(cls, *, name: str | None = None, version: int = 1) -> None: ...


class Command(Message, Generic[AnswerT]):
    """Do this. Goes to exactly one service, named by `to=`.

    The type parameter says what answers it: `class MakePayment(Command[PaymentCompleted |
    PaymentDeclined], to="payment")`; `Command[None]` for a command that is not answered.
    """


class Failed(Event, Generic[CommandT]):
    """A command that a workflow sent has become a dead letter.

    A workflow that handles `Failed[MakePayment]` is told in the transaction that sets the command aside. It says that
    nobody tries any more, not that nothing was done: the last attempt may have died after its effect, so compensate
    for what may have happened. Should an operator retry the dead letter and it then succeed, its answer comes as well.
    """

    command: CommandT
    """As it was sent; if no broker would take it, without the ends of long texts and lists."""
    reason: str
    """Why it was set aside, in one sentence."""
    error: str = ""
    """Type and text of the last error, empty if there was none."""
    attempts: int
    """How many attempts had been made."""


MessageType = type[Message]


def is_failure(message: Message) -> TypeGuard[Failed[Any]]:
    """Whether it tells of a command that became a dead letter."""
    return isinstance(message, Failed)


def is_command(message: Message) -> TypeGuard[Command[Any]]:
    """Whether it goes to one owner. (`isinstance` leaves type checkers with a command of unknown answers.)"""
    return isinstance(message, Command)


class Origin(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The workflow instance that sent a command, so that answers find it without any field."""

    service: str
    workflow: str
    key: str


class Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A message with what its journey added. Its JSON is the packet that engines store and carry."""

    id: str
    type: str
    """Wire name of the message, with `@version` from version 2 on."""
    conversation: str
    """Id shared by every message that one first message led to."""
    sent_at: Annotated[datetime, msgspec.Meta(tz=True)]
    """UTC."""
    body: msgspec.Raw
    sender: str = ""
    """The service that sent it, or the name of the client."""
    cause: str | None = None
    """Id of the message whose turn sent this one."""
    attempt: Annotated[int, msgspec.Meta(ge=1)] = 1
    """1 on the first try; one more after each counted failure."""
    origin: Origin | None = None
    """Set on a command that a workflow instance sent."""
    answers: Origin | None = None
    """Set on what answers such a command, on its `Failed`, and on timers: the instance to wake."""
    reply_to: str | None = None
    """Set on a request by a client: where its answer goes as well."""
    tells_failure: bool = False
    """The sender wants `Failed` when this command becomes a dead letter."""
    timer: tuple[str, str] | None = None
    """Name and token of the timer that this letter is."""
    only: str | None = None
    """Set on what was kept for an instance of this workflow, when others of the service have had it already."""
    headers: Mapping[str, str] = {}
    """The user's own, and trace context; handed on to everything this message causes."""
