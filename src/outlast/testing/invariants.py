"""What must hold in every run, whatever fails: books kept of all that was committed, and compared with the engine.

The books are a second, much simpler engine. They see each commit that succeeded, and know from it which messages
must be where. Rules that one commit can break are checked at once (`committed`), the others when the world is
quiet (`settled`). The names I1 to I13 are explained in `docs/proof.md`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec

from outlast.core.message import Envelope
from outlast.core.naming import FAILED, open_packet
from outlast.errors import Undecodable
from outlast.ports import Address, Changes, DeadLetter, Delivery, Entry, Parcel

TAKEN = ("started", "continued", "completed")
"""Outcomes of a message that a workflow method has run for."""

LATE = timedelta(minutes=2)
"""Nobody leaves a message waiting for so long while nothing is wrong."""


class Copy(tuple[str, str, int]):
    """One attempt at a message, for one service: service, id, attempt."""

    __slots__ = ()


@dataclass(slots=True)
class Remains:
    """What an engine holds when the world is quiet."""

    waiting: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    """Service and packet of what is in a queue."""
    claimed: int = 0
    dated: list[tuple[str, str, bytes]] = field(default_factory=list[tuple[str, str, bytes]])
    """Queue, topic and packet."""
    stashed: list[bytes] = field(default_factory=list[bytes])
    instances: dict[Address, tuple[int, bool]] = field(default_factory=dict[Address, tuple[int, bool]])
    """Version, and whether it is completed."""
    dead: list[DeadLetter] = field(default_factory=list[DeadLetter])


class Books:
    """Follows every commit. `problems` lists what must not be; `seen` counts rare situations that were met."""

    def __init__(self, subscribers: Callable[[str], Sequence[str]], *, skew: timedelta = timedelta()) -> None:
        self.subscribers = subscribers
        self.is_calm = True
        """Nothing has been disturbed so far, so nothing may be late."""
        self.skew = skew
        """By how much clocks may differ: a date is kept by the clock of whoever looks at it."""
        self.problems: list[str] = []
        self.seen: Counter[str] = Counter()
        self.posted: Counter[Copy] = Counter()
        self.handled: Counter[Copy] = Counter()
        self.due: dict[str, datetime] = {}
        self.posted_at: dict[str, datetime] = {}
        self.withdrawn: set[str] = set()
        self.fired: set[str] = set()
        self.versions: dict[Address, tuple[int, bool]] = {}
        self.stashes: list[tuple[Address, bytes]] = []
        self.dead: Counter[tuple[str, bytes]] = Counter()
        self.conversations: dict[Address, str] = {}
        self._given_ids: set[str] = set()
        self._envelopes: dict[bytes, Envelope] = {}

    def envelope(self, packet: bytes) -> Envelope:
        """The envelope of a packet; of one that cannot be read, a stand-in with its bytes as its id."""
        known = self._envelopes.get(packet)
        if known is None:
            try:
                known = open_packet(packet)
            except Undecodable:
                known = Envelope(
                    id=repr(packet),
                    type="?",
                    conversation="",
                    sent_at=datetime.min.replace(tzinfo=UTC),
                    body=msgspec.Raw(b"null"),
                )
            self._envelopes[packet] = known
        return known

    def forbid(self, rule: str, text: str) -> None:
        """Notes that a rule was broken."""
        self.problems.append(f"{rule}: {text}")

    def committed(self, service: str, changes: Changes, now: datetime) -> None:
        """Takes a commit that succeeded into the books. `service` is empty for a client."""
        causes = self._consume(service, changes, now)
        for delivery in [*changes.claimed, *(d for d in changes.handled if not d.count)]:
            self._check_late(service, self.envelope(delivery.packet), now)
        if service and not causes and (changes.parcels or changes.saved or changes.stashed or changes.dead):
            self.forbid("I5", f"{service} wrote {_listed(self, changes)} without consuming what led to it")
        for saved in changes.saved:
            self._save(saved.address, saved.version, saved.done, saved.conversation)
        early = {self.envelope(entry.packet).id for entry in changes.history if entry.outcome == "stashed"}
        for parcel in changes.parcels:
            if self.envelope(parcel.packet).id in early:  # what it was too early for began in the same turn
                self._repost(service, parcel.packet)
            else:
                self._post(service, parcel, causes, now)
        self.withdrawn.update(letter.id for letter in changes.withdrawn)
        for stash in changes.stashed:
            if stash.address in self.versions:
                self._repost(stash.address.service, stash.packet)
            else:
                self.stashes.append((stash.address, stash.packet))
        self._bury(service, changes, causes)
        for entry in changes.history:
            self._note(service, entry, changes, now)

    def received(self, service: str, deliveries: Sequence[Delivery], now: datetime) -> None:
        """Looks at what a process of the service is handed over."""
        for delivery in deliveries:
            envelope = self.envelope(delivery.packet)
            if not self.posted[Copy((service, envelope.id, envelope.attempt))]:
                self.forbid("I3", f"{service} was handed {told(envelope)}, which no committed turn had sent")
            self._check_due(service, envelope, now)

    def _consume(self, service: str, changes: Changes, now: datetime) -> dict[str, Envelope]:
        causes: dict[str, Envelope] = {}
        for delivery in changes.handled:
            envelope = self.envelope(delivery.packet)
            causes[envelope.id] = envelope
            copy = Copy((service, envelope.id, envelope.attempt))
            self.handled[copy] += 1
            if self.handled[copy] > self.posted[copy]:
                self.forbid("I4", f"{service} consumed {told(envelope)} more often than it was sent")
            self._check_due(service, envelope, now)
        return causes

    def _check_due(self, service: str, envelope: Envelope, now: datetime) -> None:
        due = self.due.get(f"{envelope.id}/{envelope.attempt}")
        if due is not None and now + self.skew < due:
            self.forbid("I8", f"{service} got {told(envelope)} {due - now} before its date")

    def _check_late(self, service: str, envelope: Envelope, now: datetime) -> None:
        since = self.posted_at.get(envelope.id, now)
        due = self.due.get(f"{envelope.id}/{envelope.attempt}", since)
        if self.is_calm and now - max(since, due) > LATE:
            self.forbid("I13", f"{service} left {told(envelope)} waiting from {since}, and nothing was wrong")

    def _save(self, address: Address, version: int, done: bool, conversation: str) -> None:
        known, was_done = self.versions.get(address, (0, False))
        if known != version:
            self.forbid("I6", f"{_at(address)} was saved from version {version} when it had version {known}")
        if was_done:
            self.forbid("I9", f"{_at(address)} was changed after it was completed")
        self.versions[address] = (version + 1, done)
        if self.conversations.setdefault(address, conversation) != conversation:
            self.forbid("I5", f"{_at(address)} changed its conversation")
        if version == 0:
            for stash in [stash for stash in self.stashes if stash[0] == address]:
                self.stashes.remove(stash)
                self._repost(address.service, stash[1])

    def _repost(self, service: str, packet: bytes) -> None:
        self.seen["stashed message released"] += 1
        envelope = self.envelope(packet)
        self.posted[Copy((service, envelope.id, envelope.attempt))] += 1

    def _post(self, service: str, parcel: Parcel, causes: Mapping[str, Envelope], now: datetime) -> None:
        if parcel.once:
            if parcel.id in self._given_ids:
                self.seen["repeated id of a caller left out"] += 1
                return
            self._given_ids.add(parcel.id)
        envelope = self.envelope(parcel.packet)
        if service:
            self._check_cause(service, envelope, causes)
        for receiver in [parcel.queue] if parcel.queue else self.subscribers(parcel.topic):
            copy = Copy((receiver, envelope.id, envelope.attempt))
            self.posted[copy] += 1
            if self.posted[copy] > 1:
                self.forbid("I4", f"{service or 'a client'} sent {told(envelope)} to {receiver} twice")
        self.posted_at[envelope.id] = now
        if parcel.due is not None:
            self.due[f"{envelope.id}/{envelope.attempt}"] = parcel.due

    def _check_cause(self, service: str, envelope: Envelope, causes: Mapping[str, Envelope]) -> None:
        again = causes.get(envelope.id)
        cause = again or causes.get(envelope.cause or "")
        if cause is None:
            self.forbid("I3", f"{service} sent {told(envelope)} without consuming its cause {envelope.cause}")
        elif cause.conversation != envelope.conversation:
            self.forbid("I5", f"{service} sent {told(envelope)} outside the conversation {cause.conversation}")
        if again is not None:
            self.seen["message retried"] += 1
            if envelope.attempt != again.attempt + 1:
                self.forbid("I13", f"{service} sent {told(envelope)} again without counting the attempt")

    def _bury(self, service: str, changes: Changes, causes: Mapping[str, Envelope]) -> None:
        sent = {
            (e.cause, e.type) for e in (self.envelope(p.packet) for p in changes.parcels) if e.type.startswith(FAILED)
        }
        handled = {delivery.packet for delivery in changes.handled}
        for letter in changes.dead:
            envelope = self.envelope(letter.packet)
            self.seen["message set aside"] += 1
            self.dead[service, letter.packet] += 1
            if letter.packet not in handled:
                self.forbid("I11", f"the dead letter of {told(envelope)} has other bytes than were delivered")
            if self.dead[service, letter.packet] > 1:
                self.forbid("I11", f"{told(envelope)} became a dead letter of {service} twice")
            if envelope.tells_failure and (envelope.id, FAILED + envelope.type) not in sent:
                self.forbid("I5", f"{told(envelope)} was set aside, and its workflow was not told")

    def _note(self, service: str, entry: Entry, changes: Changes, now: datetime) -> None:
        envelope = self.envelope(entry.packet)
        self.seen[str(entry.outcome)] += 1
        match entry.outcome:
            case "failed":
                if not any(self.envelope(parcel.packet).id == envelope.id for parcel in changes.parcels):
                    self.forbid("I4", f"{told(envelope)} failed and was neither sent again nor set aside")
            case "stashed":
                kept = [s.packet for s in changes.stashed] + [p.packet for p in changes.parcels]
                if not any(self.envelope(packet).id == envelope.id for packet in kept):
                    self.forbid("I4", f"{told(envelope)} came too early and was not stashed")
            case "dead letter":
                if not any(letter.packet == entry.packet for letter in changes.dead):
                    self.forbid("I4", f"{told(envelope)} was given up and is no dead letter")
            case outcome if outcome in TAKEN and envelope.timer is not None:
                self._fire(envelope)
            case _:
                pass

    def _fire(self, envelope: Envelope) -> None:
        assert envelope.timer is not None
        name, token = envelope.timer
        self.seen["timer fired"] += 1
        if token in self.fired:
            self.forbid("I8", f"the timer {name!r} {token} took effect twice")
        if token in self.withdrawn:
            self.forbid("I8", f"the timer {name!r} {token} took effect after it was cancelled")
        self.fired.add(token)

    def settled(self, remains: Remains) -> None:
        """Compares the books with what the engine holds now that the world is quiet."""
        left: Counter[Copy] = Counter()
        for service, packet in remains.waiting:
            left[self._copy(service, packet)] += 1
        for queue, topic, packet in remains.dated:
            for service in [queue] if queue else self.subscribers(topic):
                left[self._copy(service, packet)] += 1
        expired = Counter((letter.service, letter.packet) for letter in remains.dead) - self.dead
        for copy in self.posted.keys() | left.keys():
            service, id, attempt = copy
            missing = self.posted[copy] - self.handled[copy] - left[copy]
            for item in [item for item in expired if missing > 0 and self._copy(*item) == copy]:
                # Its instance began when its time in the stash was over.
                if item[1] not in {packet for _, packet in self.stashes}:
                    missing -= 1
                    expired[item] -= 1
            if missing > 0 and id not in self.withdrawn:
                self.forbid("I10", f"message {id} (attempt {attempt}) to {service} has vanished")
            if missing < 0:
                self.forbid("I10", f"message {id} (attempt {attempt}) is left at {service} though it was consumed")
        stashed = Counter(packet for _, packet in self.stashes)
        if stashed != Counter(remains.stashed) + Counter(packet for _, packet in expired.elements()):
            self.forbid("I10", f"{sum(stashed.values())} messages should be stashed; {len(remains.stashed)} are")
        if self.versions != remains.instances:
            self.forbid("I6", f"the instances are {remains.instances}, and by the books {self.versions}")
        if remains.claimed:
            self.forbid("I12", f"{remains.claimed} claims are left over")

    def stuck(self, remains: Remains) -> list[Address]:
        """Instances that still run though nothing that could reach them is on its way, and no failure says why."""
        alive = {self.envelope(p).conversation for _, p in remains.waiting}
        alive |= {self.envelope(p).conversation for _, _, p in remains.dated}
        alive |= {self.envelope(letter.packet).conversation for letter in remains.dead}
        return [
            address
            for address, (_, done) in remains.instances.items()
            if not done and self.conversations.get(address) not in alive
        ]

    def _copy(self, service: str, packet: bytes) -> Copy:
        envelope = self.envelope(packet)
        return Copy((service, envelope.id, envelope.attempt))


def told(envelope: Envelope) -> str:
    """A message, as a person would name it."""
    attempt = f", attempt {envelope.attempt}" if envelope.attempt > 1 else ""
    return f"{envelope.type} #{short(envelope.id)}{attempt}"


def short(id: str) -> str:
    """The part of a simulated id that differs."""
    return id[-12:].lstrip("0") or id[-1:]


def _at(address: Address) -> str:
    return f"{address.workflow} {address.key!r} of {address.service}"


def _listed(books: Books, changes: Changes) -> str:
    names = [told(books.envelope(parcel.packet)) for parcel in changes.parcels]
    names += [_at(saved.address) for saved in changes.saved]
    names += [told(books.envelope(stash.packet)) for stash in changes.stashed]
    return ", ".join(names) or "a dead letter"
