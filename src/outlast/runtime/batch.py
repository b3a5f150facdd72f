"""What one batch of letters leads to, gathered as one `Changes`. A letter that fails changes nothing else."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from outlast.core.instance import Decision, Instance, Outcome, Snapshot
from outlast.core.message import Envelope, Message, Origin
from outlast.core.naming import encode
from outlast.core.plan import Plan
from outlast.core.recovery import RetryAt, SetAside
from outlast.errors import Rejected
from outlast.ports import Address, Changes, DeadLetter, Entry, Parcel, Saved, Stash, Statements, Stored, Withdrawn, Work
from outlast.runtime.host import Host, Letter
from outlast.runtime.post import again_parcel, failure_parcel, next_parcel, timer_parcel
from outlast.signals import GaveUp, Retrying, Signal

TEXT_MAX = 8_000
"""Longest error text and traceback that is kept, in characters."""


def addresses(letters: Sequence[Letter]) -> list[Address]:
    """The instances that these letters are for, each once."""
    return list({address: None for letter in letters for _, address in letter.targets})


class Batch:
    """One turn's worth of decisions. `take` letters one by one; then `changes` says what to commit."""

    def __init__(self, host: Host, states: Mapping[Address, Stored]) -> None:
        self.host = host
        self.states = states
        self.now: datetime = host.world.now()
        self.changes = Changes()
        self.instances: dict[Address, Instance] = {}
        self.claimed: list[Letter] = []
        self.signals: list[Signal] = []

    async def take(self, letter: Letter, work: Work) -> None:
        """Decides one letter: its outcome, or its failure, is in the changes afterwards."""
        if not letter.is_claimed:
            handed_over, patience = letter.delivery.count, self.host.patience
            refusal = patience.refuses(handed_over) if handed_over else None
            if refusal is not None:
                self._set_aside(letter, refusal, None)
                return
            if letter.error is None and (letter.runs_outside or handed_over >= patience.alone_after):
                self.changes.claimed.append(letter.delivery)
                self.claimed.append(letter)
                return
        if letter.error is not None:
            self._recover(letter, letter.error)
            return
        failure: BaseException | None = None
        if letter.handler is not None and letter.returned is None:
            with suppress(_Undo):
                async with work.savepoint() as statements:
                    failure = await self._attempt_inside(letter, statements)
                    if failure is not None:
                        raise _Undo from failure
        else:
            failure = self._attempt(letter, letter.returned or [])
        if failure is not None:
            self._recover(letter, failure)

    async def _attempt_inside(self, letter: Letter, statements: Statements | None) -> BaseException | None:
        """Lets a handler that shares the transaction have this letter, and then as `_attempt`.

        Nothing that the engine may raise comes through here, so whatever is caught is the user's: a handler that
        raises `Unavailable` or `CancelledError` by itself fails like any other.
        """
        try:
            returned = await self._call(letter, statements)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever user code does
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # it is the turn that ends, and not the handler
            return error
        return self._attempt(letter, returned)

    def _attempt(self, letter: Letter, returned: Sequence[Message]) -> BaseException | None:
        """Lets workflows have this letter, and returns how that failed. Then nothing has changed."""
        try:
            self._carry_out(letter, returned)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever user code does
            return error
        return None

    def finish(self) -> Changes:
        """The changes, complete: every instance that was touched is saved once."""
        for address, instance in self.instances.items():
            if instance.changed:
                self.changes.saved.append(self._saved(address, instance))
        if self.claimed:
            self.changes.claimed_until = self.now + self.host.lease
        if self.changes.stashed:
            self._unstash()
        return self.changes

    def _unstash(self) -> None:
        """Delivers again what came before its instance, if that began later in this same batch."""
        stashed, self.changes.stashed = self.changes.stashed, []
        for stash in stashed:
            if self.instances[stash.address].changed:
                self.changes.parcels.append(Parcel("", stash.packet, queue=self.host.name))
            else:
                self.changes.stashed.append(stash)

    async def _call(self, letter: Letter, statements: Statements | None) -> list[Message]:
        """Runs a handler that shares the transaction."""
        host, handler, envelope = self.host, letter.handler, letter.envelope
        assert handler is not None
        assert envelope is not None
        plan = handler.plan
        function = plan.function
        arguments = handler.arguments(envelope, host.name, host.world, statements)
        message = host.message_of(letter)

        def call() -> Any:
            return function(message, **arguments)

        if host.engine.connection_waits:
            return await host.inside.in_time(function, call, plan.time_limit)
        return host.inside.at_once(function, call)

    def _carry_out(self, letter: Letter, messages: Sequence[Message]) -> None:
        """Posts what a handler returned, and takes the message to the workflows that it is for."""
        envelope = letter.envelope
        assert envelope is not None
        now, new_id = self.now, self.host.world.new_id
        sender = self.host.name
        parcels: list[Parcel] = []
        for message in messages:
            parcels.append(next_parcel(message, envelope, id=new_id(), sender=sender, now=now))
        decided: list[tuple[Instance, Decision]] = []
        undo: list[tuple[Instance, Snapshot]] = []
        try:
            for plan, address in letter.targets:
                instance = self._instance(plan, address)
                undo.append((instance, instance.snapshot()))
                decision = instance.decide(envelope, self.host.message_of(letter), now, new_id)
                decided.append((instance, decision))
                if decision.messages or decision.timers:
                    parcels += self._parcels(instance, decision, envelope)
        except BaseException:
            for instance, snapshot in undo:
                instance.restore(snapshot)
            raise
        self._note(letter, envelope, decided)
        self.changes.handled.append(letter.delivery)
        self.changes.parcels += parcels

    def _instance(self, plan: Plan, address: Address) -> Instance:
        instance = self.instances.get(address)
        if instance is None:
            stored = self.states.get(address)
            if stored is None:
                instance = Instance(plan, address.key)
            else:
                instance = Instance(plan, address.key, stored.state, stored.version, stored.done)
            self.instances[address] = instance
        return instance

    def _parcels(self, instance: Instance, decision: Decision, envelope: Envelope) -> list[Parcel]:
        plan, now, sender, new_id = instance.plan, self.now, self.host.name, self.host.world.new_id
        origin = Origin(sender, plan.name, instance.key)
        parcels: list[Parcel] = []
        for message in decision.messages:
            failures = plan.listens_to_failures
            parcels.append(
                next_parcel(
                    message, envelope, id=new_id(), sender=sender, now=now, origin=origin, listens_to_failures=failures
                )
            )
        for name, timer, message in decision.timers:
            if timer not in decision.withdrawn:
                parcels.append(
                    timer_parcel(message, envelope, name=name, id=timer.id, due=timer.due, origin=origin, now=now)
                )
        return parcels

    def _note(self, letter: Letter, envelope: Envelope, decided: Sequence[tuple[Instance, Decision]]) -> None:
        host, changes, packet = self.host, self.changes, letter.delivery.packet
        if letter.handler is not None:
            changes.history.append(
                Entry(envelope.conversation, self.now, host.name, "handled", packet, receipt=letter.delivery.receipt)
            )
        for instance, decision in decided:
            plan = instance.plan
            if decision.outcome is Outcome.STASHED:
                address = Address(host.name, plan.name, instance.key)
                kept = packet
                if letter.handler is not None or len(decided) > 1:
                    # The others have had it, and must not have it again when this instance begins.
                    kept = encode(msgspec.structs.replace(envelope, only=plan.name))
                changes.stashed.append(Stash(address, kept, self.now + plan.stash))
            if decision.withdrawn:
                changes.withdrawn += [Withdrawn(timer.id, timer.due) for timer in decision.withdrawn]
            changes.history.append(
                Entry(
                    envelope.conversation,
                    self.now,
                    host.name,
                    decision.outcome,
                    packet,
                    plan.name,
                    instance.key,
                    "",
                    letter.delivery.receipt,
                )
            )

    def _saved(self, address: Address, instance: Instance) -> Saved:
        assert instance.stored is not None
        # There is no record after a later message failed: then what was stored before it holds.
        record = instance.record or instance.plan.decode(instance.stored)
        return Saved(
            address,
            instance.stored,
            instance.version,
            record.conversation,
            instance.done,
            self.now + instance.plan.keep if instance.done else None,
        )

    def _recover(self, letter: Letter, error: BaseException) -> None:
        envelope = letter.envelope
        attempt = envelope.attempt if envelope is not None else 1
        recovery = self.host.retry_for(letter).recover(error, attempt, self.now, self.host.world.dice())
        match recovery:
            case RetryAt(at):
                assert envelope is not None
                self.changes.handled.append(letter.delivery)
                self.changes.parcels.append(
                    again_parcel(envelope, id=self.host.world.new_id(), queue=self.host.name, due=at)
                )
                note = f"attempt {attempt}: {describe(error)}"
                self.changes.history.append(
                    Entry(
                        envelope.conversation,
                        self.now,
                        self.host.name,
                        "failed",
                        letter.delivery.packet,
                        note=note,
                    )
                )
                delay = (at - self.now).total_seconds() if at is not None else 0.0
                self.signals.append(Retrying(self.host.name, envelope.type, envelope.id, attempt, error, delay))
            case SetAside():
                self._set_aside(letter, recovery, error)

    def _set_aside(self, letter: Letter, verdict: SetAside, error: BaseException | None) -> None:
        host, envelope, packet = self.host, letter.envelope, letter.delivery.packet
        reason = storable(verdict.reason)[:TEXT_MAX]
        described = describe(error) if error is not None else ""
        self.changes.handled.append(letter.delivery)
        self.changes.dead.append(
            DeadLetter(
                id=host.world.new_id(),
                service=host.name,
                packet=packet,
                reason=reason,
                message_id=envelope.id if envelope else "",
                type=envelope.type if envelope else "",
                key=self._key_of(letter),
                conversation=envelope.conversation if envelope else "",
                error=described,
                traceback=traced(error) if error is not None and not isinstance(error, Rejected) else "",
                attempts=envelope.attempt if envelope else letter.delivery.count,
                at=self.now,
                host=host.host_name,
                version=host.version,
            )
        )
        self.signals.append(
            GaveUp(
                host.name,
                envelope.type if envelope else "?",
                envelope.id if envelope else "?",
                reason,
            )
        )
        if envelope is None:
            return
        self.changes.history.append(
            Entry(
                envelope.conversation,
                self.now,
                host.name,
                "dead letter",
                packet,
                note=reason,
            )
        )
        parcel = failure_parcel(
            envelope,
            reason=reason,
            error=described,
            new_id=host.world.new_id,
            sender=host.name,
            now=self.now,
        )
        if parcel is not None:
            self.changes.parcels.append(parcel)

    def _key_of(self, letter: Letter) -> str:
        """The business key, for people: that of the asking instance, or of the one that it is for."""
        envelope = letter.envelope
        if envelope is None:
            return ""
        origin = envelope.answers or envelope.origin
        if origin is not None:
            return origin.key
        return letter.targets[0][1].key if letter.targets else ""


class _Undo(Exception):
    """Ends a savepoint whose handler failed."""


def storable(text: str) -> str:
    """The text with what UTF-8 cannot have (half of a surrogate pair, as in odd file names) spelt out."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def describe(error: BaseException) -> str:
    """Type and text of an error, bounded; also when its own `__str__` is broken."""
    try:
        text = str(error)
    except Exception:  # what user code raises may be broken itself
        text = "(its text cannot be read)"
    return storable(f"{type(error).__name__}: {text}"[:TEXT_MAX])[:TEXT_MAX]


def traced(error: BaseException) -> str:
    """The traceback, bounded to its last and most telling part."""
    try:
        return storable("".join(traceback.format_exception(error, limit=-30))[-TEXT_MAX:])[-TEXT_MAX:]
    except Exception:  # formatting calls the error's own methods
        return describe(error)
