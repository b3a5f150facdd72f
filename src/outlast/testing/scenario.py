"""Given, when, then for one workflow: no engine, no event loop, and time that passes when it is told to.

Every message goes through its wire format, so what a test sees is what a receiver would see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, NoReturn, Self, TypeVar, cast

import msgspec

from outlast.core.annotations import answers_of
from outlast.core.instance import Decision, Instance, Outcome
from outlast.core.message import Command, Envelope, Message, Origin, is_command
from outlast.core.naming import Catalogue, name_of, name_of_type, open_packet, type_of
from outlast.core.plan import Plan, Record, plan_of
from outlast.core.workflow import Workflow
from outlast.errors import Misuse
from outlast.runtime.post import failure_parcel, first_parcel, next_parcel, timer_parcel
from outlast.testing.difference import differences, fits, listed, show
from outlast.testing.story import Story
from outlast.testing.world import START, StillWorld

WorkflowT = TypeVar("WorkflowT", bound=Workflow)

SERVICE = "scenario"
FAILED_ATTEMPTS = 8


@dataclass(slots=True)
class SentCommand:
    """A command that the workflow sent, and whether it was answered."""

    envelope: Envelope
    command: Command[Any]
    key: str
    is_answered: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """An envelope with a date: a timer's letter, or a stashed message."""

    due: datetime
    envelope: Envelope
    stashed_for: str | None = None


class Scenario(Generic[WorkflowT]):
    """A conversation with one workflow, told step by step; every step returns the scenario.

    `given`, `when`, `fails` and `advance` make something happen. The other steps say what came of it, that is
    of everything since the last of those four, and raise `AssertionError` with the messages so far otherwise.
    An exception of the workflow's own comes out of the step that led to it.
    """

    def __init__(self, workflow: type[WorkflowT], *, now: datetime = START) -> None:
        self._plan: Plan = plan_of(workflow)
        self._world = StillWorld(now)
        self._incoming = Catalogue(self._plan.kinds.values())
        self._instances: dict[str, Instance] = {}
        self._commands: list[SentCommand] = []
        self._waiting: list[Waiting] = []
        self._story = Story()
        self._act = "nothing has happened yet"
        self._key = ""
        self._sent: list[Message] = []
        self._outcomes: list[Outcome] = []

    # What happens.

    def given(self, *messages: Message) -> Self:
        """Like `when`, for what went before the part that is tested."""
        return self.when(*messages)

    def when(self, *messages: Message, answers: Command[Any] | None = None) -> Self:
        """These messages arrive, one after the other.

        A message that answers a command which the workflow sent finds its instance by that, as it would in a
        running system: the oldest such command without an answer, or the one given as `answers`.
        """
        self._begin(", ".join(map(show, messages)))
        for message in messages:
            self._receive(message, answers)
        return self

    def fails(
        self,
        command: type[Command[Any]] | Command[Any],
        *,
        reason: str = "RuntimeError after 8 attempts",
        error: str = "RuntimeError: it was not to be",
        attempts: int = FAILED_ATTEMPTS,
    ) -> Self:
        """A command of this type that the workflow sent becomes a dead letter: its `Failed` arrives, if the
        workflow listens to it. The oldest one without an answer, or the very command that is given.
        """
        wanted = name_of_type(command) if isinstance(command, type) else name_of(command)
        self._begin(f"{wanted} fails: {reason}")
        sent = self._command_for(
            [
                s
                for s in self._commands
                if s.envelope.type == wanted and (isinstance(command, type) or s.command == command)
            ]
        )
        if sent is None:
            self._fail(f"{self._name} sent no {wanted!r} that could fail.")
        sent.is_answered = True
        envelope = msgspec.structs.replace(sent.envelope, attempt=attempts)
        self._story.end(envelope.id, f"dead letter ({reason})")
        parcel = failure_parcel(
            envelope,
            reason=reason,
            error=error,
            new_id=self._world.new_id,
            sender=sent.command.__owner__ or "",
            now=self.now,
        )
        if parcel is not None:
            self._arrive(open_packet(parcel.packet))
        return self

    def advance(
        self,
        delay: timedelta = timedelta(),
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> Self:
        """Time passes; timers that become due fire in the order of their dates."""
        delay += timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if delay < timedelta():
            raise Misuse(f"advance was told to go back by {-delay}. Time only passes: give a positive delay.")
        self._begin(f"{delay} passed")
        end = self.now + delay
        while due := [letter for letter in self._waiting if letter.due <= end]:
            letter = min(due, key=lambda letter: (letter.due, letter.envelope.id))
            self._waiting.remove(letter)
            self._world.advance(letter.due - self.now)
            if letter.stashed_for is None:
                self._arrive(letter.envelope)
            else:
                self._story.end(letter.envelope.id, "dead letter (no instance came)")
        self._world.advance(end - self.now)
        return self

    # What came of it.

    def sends(self, *expected: Message | type[Message]) -> Self:
        """It sent exactly these, in this order; a class stands for any message of it."""
        __tracebackhide__ = True
        if len(expected) != len(self._sent) or not all(map(fits, expected, self._sent)):
            self._fail(f"{self._name} did not send what was expected.", expected, self._sent)
        return self

    def sends_nothing(self) -> Self:
        """It sent no message. (Timers are no messages yet: see `waits`.)"""
        __tracebackhide__ = True
        return self.sends()

    def completes(self) -> Self:
        """The instance completed."""
        return self._had(Outcome.COMPLETED)

    def is_late(self) -> Self:
        """The message came to a completed instance: it is noted, and has no effect."""
        return self._had(Outcome.LATE)

    def is_ignored(self) -> Self:
        """The message was a second start, or the letter of a timer that is not set any more: it has no effect."""
        return self._had(Outcome.SECOND_START, Outcome.STALE_TIMER)

    def is_stashed(self) -> Self:
        """The message is kept until its instance exists."""
        return self._had(Outcome.STASHED)

    def state(self, **fields: object) -> Self:
        """These fields of the instance have these values (compared after a trip through storage)."""
        __tracebackhide__ = True
        state = self.workflow
        missing = [name for name in fields if name not in state.__struct_fields__]
        if missing:
            raise Misuse(f"{self._name} has no field {', '.join(map(repr, missing))}. Name fields of its state.")
        wrong = {name: getattr(state, name) for name, value in fields.items() if getattr(state, name) != value}
        if wrong:
            expected = [f"{name} = {fields[name]!r}" for name in wrong]
            self._fail(
                f"The state of {self._name} is not what was expected.",
                expected,
                [f"{name} = {value!r}" for name, value in wrong.items()],
            )
        return self

    def waits(self, timer: str | type[Message], delay: timedelta | None = None) -> Self:
        """A timer of this name (or message class) is set, to fire in exactly `delay` from now if that is given."""
        __tracebackhide__ = True
        name = timer if isinstance(timer, str) else name_of_type(timer)
        timers = {name: due - self.now for name, due in self.timers.items()}
        if name not in timers or (delay is not None and timers[name] != delay):
            self._fail(
                f"{self._name} does not wait as was expected.",
                [f"{name} in {delay}" if delay is not None else name],
                [f"{name} in {rest}" for name, rest in timers.items()],
            )
        return self

    def waits_for_nothing(self) -> Self:
        """No timer is set."""
        __tracebackhide__ = True
        if self.timers:
            self._fail(f"{self._name} has timers set.", [], list(self.timers))
        return self

    # What there is to look at.

    @property
    def workflow(self) -> WorkflowT:
        """The state of the instance that had the last message, as it is stored."""
        record = self._record()
        if record is None:
            self._fail(f"There is no {self._name} with the key {self._key!r} to look at.")
        return cast(WorkflowT, record.state)

    @property
    def timers(self) -> Mapping[str, datetime]:
        """The timers of that instance that are set, by name, with their due times."""
        record = self._record()
        return {name: timer.due for name, timer in record.timers.items()} if record is not None else {}

    @property
    def sent(self) -> Sequence[Message]:
        """What was sent since the last thing that happened."""
        return tuple(self._sent)

    @property
    def outcomes(self) -> Sequence[Outcome]:
        """What became of each message since the last thing that happened."""
        return tuple(self._outcomes)

    @property
    def now(self) -> datetime:
        """The time in the scenario; `self.now` to the workflow."""
        return self._world.now()

    def __str__(self) -> str:
        return str(self._story)

    # How it happens.

    @property
    def _name(self) -> str:
        return self._plan.cls.__name__

    def _begin(self, act: str) -> None:
        self._act, self._sent, self._outcomes = act, [], []

    def _receive(self, message: Message, answers: Command[Any] | None) -> None:
        name = name_of(message)
        if name not in self._plan.steps:
            raise Misuse(
                f"{self._name} was given {show(message)}, and has no method for {name!r}. Its service would not "
                f"be subscribed to it. It takes: {', '.join(sorted(self._plan.steps))}."
            )
        id = self._world.new_id()
        command = self._command_answered_by(message, answers)
        if command is None:
            parcel = first_parcel(message, id=id, sender="test", now=self.now, to=SERVICE)
        else:
            command.is_answered = True
            owner = command.command.__owner__ or ""
            parcel = next_parcel(message, command.envelope, id=id, sender=owner, now=self.now)
        self._arrive(open_packet(parcel.packet))

    def _command_answered_by(self, message: Message, answers: Command[Any] | None) -> SentCommand | None:
        if answers is not None:
            found = self._command_for([sent for sent in self._commands if sent.command == answers])
            if found is None:
                self._fail(f"{self._name} did not send {show(answers)}, so nothing can answer it.")
            return found
        if is_command(message):
            return None
        kind = type_of(message)
        return self._command_for([sent for sent in self._commands if kind in answers_of(type(sent.command))], message)

    def _command_for(self, candidates: Sequence[SentCommand], message: Message | None = None) -> SentCommand | None:
        """The first without an answer, if there is one; of the instance that the message names."""
        step = self._plan.steps.get(name_of(message)) if message is not None else None
        if step is not None and step.key_of is not None:
            key = str(step.key_of(message))
            candidates = [sent for sent in candidates if sent.key == key] or candidates
        return next((sent for sent in candidates if not sent.is_answered), next(iter(candidates), None))

    def _arrive(self, envelope: Envelope) -> None:
        """One envelope is decided by its instance, and then whatever was stashed for that instance."""
        message = self._incoming.decode(envelope)
        self._story.tell(envelope.id, show(message), cause=envelope.cause)
        try:
            key = self._plan.key_for(SERVICE, envelope, message)
            instance = self._instance(key)
            decision = instance.decide(envelope, message, self.now, self._world.new_id)
            self._check_stored(instance, envelope)
        except Exception as error:
            self._story.end(envelope.id, f"{type(error).__name__}: {error}")
            error.add_note(f"\nThe messages so far:\n\n{self._story}")
            raise
        self._key = key
        self._outcomes.append(decision.outcome)
        self._story.end(envelope.id, decision.outcome.value)
        if instance.changed:
            self._instances[key] = Instance(self._plan, key, instance.stored, instance.version + 1, instance.done)
        if decision.outcome is Outcome.STASHED:
            self._waiting.append(Waiting(self.now + self._plan.stash, envelope, stashed_for=key))
        self._post(key, decision, envelope)
        if instance.version == 0 and instance.changed:
            self._unstash(key)

    def _check_stored(self, instance: Instance, envelope: Envelope) -> None:
        """What was stored can be read again; or the next message of a running system could not be handled."""
        if not instance.changed or instance.stored is None:
            return
        try:
            self._plan.decode(instance.stored)
        except msgspec.ValidationError as error:
            raise Misuse(
                f"{self._name}.{self._plan.steps[envelope.type].name} left a state that cannot be read "
                f"again: {error}. Give each field a value of the type that its class says."
            ) from error

    def _instance(self, key: str) -> Instance:
        stored = self._instances.get(key)
        if stored is None:
            return Instance(self._plan, key)
        return Instance(self._plan, key, stored.stored, stored.version, stored.done)

    def _post(self, key: str, decision: Decision, cause: Envelope) -> None:
        """Sends what was decided: messages to the test, timers to the letters that wait."""
        origin = Origin(SERVICE, self._plan.name, key)
        for message in decision.messages:
            parcel = next_parcel(
                message,
                cause,
                id=self._world.new_id(),
                sender=SERVICE,
                now=self.now,
                origin=origin,
                listens_to_failures=self._plan.listens_to_failures,
            )
            envelope = open_packet(parcel.packet)
            read = Catalogue([type_of(message)]).decode(envelope)
            self._sent.append(read)
            self._story.tell(envelope.id, show(read), cause=cause.id)
            if is_command(read):
                self._commands.append(SentCommand(envelope, read, key))
        withdrawn = {timer.id for timer in decision.withdrawn}
        for id in withdrawn & {letter.envelope.id for letter in self._waiting}:
            self._story.end(id, "cancelled")
        self._waiting = [letter for letter in self._waiting if letter.envelope.id not in withdrawn]
        for name, timer, message in decision.timers:
            if timer.id not in withdrawn:
                parcel = timer_parcel(
                    message, cause, name=name, id=timer.id, due=timer.due, origin=origin, now=self.now
                )
                self._waiting.append(Waiting(timer.due, open_packet(parcel.packet)))
                self._story.tell(timer.id, f"{show(message)} in {timer.due - self.now}", cause=cause.id)

    def _unstash(self, key: str) -> None:
        stashed = [letter for letter in self._waiting if letter.stashed_for == key]
        self._waiting = [letter for letter in self._waiting if letter.stashed_for != key]
        for letter in stashed:
            self._arrive(letter.envelope)

    def _record(self) -> Record | None:
        instance = self._instances.get(self._key)
        return self._plan.decode(instance.stored) if instance is not None and instance.stored is not None else None

    def _had(self, *outcomes: Outcome) -> Self:
        __tracebackhide__ = True
        if not set(outcomes) & set(self._outcomes):
            self._fail(
                f"{self._name} did not come to the expected outcome.",
                [" or ".join(outcomes)],
                [outcome.value for outcome in self._outcomes],
            )
        return self

    def _fail(
        self, what: str, expected: Sequence[object] | None = None, actual: Sequence[object] | None = None
    ) -> NoReturn:
        __tracebackhide__ = True
        text = f"{what}\n\nThe last step: {self._act}\n\nThe messages so far:\n\n{self._story}"
        if expected is not None and actual is not None:
            text += f"\n\nexpected: {listed(expected)}\nactual:   {listed(actual)}"
            text += "".join(f"\n  {line}" for line in differences(expected, actual))
        raise AssertionError(text)
