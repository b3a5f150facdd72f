"""One instance within one turn: takes a message and says what follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from outlast.core.annotations import name_of_function
from outlast.core.message import Envelope, Message
from outlast.core.naming import encode
from outlast.core.plan import Plan, Record, Step
from outlast.core.workflow import Moment, Timer, Workflow
from outlast.errors import Misuse, UnreadableState


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


Snapshot = tuple[bytes | None, bool, bool]


class Instance(msgspec.Struct, gc=False):
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
                record = self.record = self._read(self.stored)
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

    def _read(self, stored: bytes) -> Record:
        try:
            return self.plan.decode(stored)
        except (msgspec.DecodeError, RecursionError) as error:
            raise UnreadableState(
                f"reading the state of {self.plan.name} {self.key!r} failed: {error}. A field was given a value of "
                "another type than its own, or the class has changed; deploy one that can read it, and retry the "
                "dead letter."
            ) from error

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
