"""The reference engine: everything in one process, nothing survives it. Tests and simulations stand on it.

It is optimistic where SQLite locks: two transactions may overlap, and the later commit is refused when it
rests on what the earlier one changed. So a simulation meets every race that any engine could have.
"""

from __future__ import annotations

import bisect
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from outlast.core.recovery import Patience
from outlast.errors import Conflict
from outlast.ports import (
    OUTBOX,
    OUTBOX_LEASE,
    RELAY,
    REPLIES,
    Address,
    Changes,
    DeadLetter,
    DeadLetterStatus,
    Delivery,
    Entry,
    Parcel,
    Posted,
    Receipt,
    Saved,
    Stash,
    Stored,
    World,
    by_keeper,
    pack,
    with_id_of_its_own,
)

SUSPECTS = 256
"""How many messages at the head of a queue a worker that died may have been handling."""


@dataclass(slots=True)
class Row:
    """A message in a queue."""

    packet: bytes
    count: int = 0
    claimed_until: datetime | None = None
    owner: MemoryEngine | None = None

    def is_hidden(self, now: datetime) -> bool:
        return self.claimed_until is not None and self.claimed_until > now


@dataclass(slots=True)
class InstanceRow:
    """A stored instance."""

    saved: Saved
    version: int
    started_at: datetime
    changed_at: datetime


@dataclass
class MemoryStore:
    """What is kept; several engines (one per simulated process) may share it."""

    queues: dict[str, dict[int, Row]] = field(default_factory=dict[str, dict[int, Row]])
    topics: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    dated: list[tuple[datetime, str, Parcel]] = field(default_factory=list[Any])
    instances: dict[Address, InstanceRow] = field(default_factory=dict[Address, InstanceRow])
    stashes: list[Stash] = field(default_factory=list[Stash])
    dead: list[DeadLetterStatus] = field(default_factory=list[DeadLetterStatus])
    entries: list[Entry] = field(default_factory=list[Entry])
    replies: dict[str, tuple[datetime, bytes]] = field(default_factory=dict[str, Any])
    sent_ids: dict[str, datetime] = field(default_factory=dict[str, datetime])
    inbox: dict[tuple[str, str], datetime] = field(default_factory=dict[Any, datetime])
    """Service and id of the messages of a broker that were handled."""
    tries: dict[tuple[str, str], int] = field(default_factory=dict[Any, int])
    engines: list[MemoryEngine] = field(default_factory=list[Any])
    forgotten: int = 0
    """How many entries of history were cleaned away; numbers go on where they were."""
    last_receipt: int = 0

    rung: set[str] = field(default_factory=set[str])
    """Whom the next `wake` concerns: services, the relay, clients."""

    def enqueue(self, queue: str, packet: bytes) -> int:
        self.rung.add(queue)
        self.last_receipt += 1
        self.queues.setdefault(queue, {})[self.last_receipt] = Row(packet)
        return self.last_receipt

    def deliver(self, parcel: Parcel, now: datetime) -> None:
        """Puts a parcel where it belongs, now."""
        if parcel.reply_to:
            self.replies[parcel.reply_to] = (now, parcel.packet)
            self.rung.add(REPLIES)
        if parcel.queue:
            self.enqueue(parcel.queue, parcel.packet)
        if parcel.topic:
            for service, topics in self.topics.items():
                if parcel.topic in topics:
                    self.enqueue(service, parcel.packet)

    def wake(self) -> None:
        rung, self.rung = self.rung, set()
        for engine in self.engines:
            for name, notify in engine.listeners if engine.is_alive else ():
                if name in rung:
                    notify()


class MemoryEngine:
    """One process's view of a `MemoryStore`."""

    connection_type: type[Any] | None = None
    connection_waits = False
    turns_at_once = 1
    trouble = ""

    def __init__(self, store: MemoryStore, world: World) -> None:
        self.store = store
        self.world = world
        self.services: set[str] = set()
        self.is_alive = True
        self.posted: Posted | None = None
        """Set where a broker has the queues; see `Store`."""
        self.listeners: list[tuple[str, Callable[[], None]]] = []
        store.engines.append(self)

    async def declare(self, service: str, topics: Sequence[str]) -> None:
        self.services.add(service)
        self.store.topics[service] = set(topics)
        rows = self.store.queues.setdefault(service, {})
        died = [e for e in self.store.engines if not e.is_alive and service in e.services]
        for engine in died:
            engine.services.discard(service)
        if died:
            # What was claimed is counted already, and what others have claimed is no suspect.
            for row in [row for row in rows.values() if row.owner is None][:SUSPECTS]:
                row.count = max(row.count, min(row.count + 1, Patience().alone_after))
        for row in rows.values():
            if row.owner is not None and not row.owner.is_alive:
                row.owner = row.claimed_until = None

    async def topics(self, service: str) -> Sequence[str]:
        return list(self.store.topics.get(service, ()))

    async def tries(self, service: str, ids: Sequence[str]) -> Mapping[str, int]:
        return {id: self.store.tries[service, id] for id in ids if (service, id) in self.store.tries}

    async def receive(self, service: str, limit: int) -> Sequence[Delivery]:
        now = self.world.now()
        found: list[Delivery] = []
        for receipt, row in self.store.queues.get(service, {}).items():
            if not row.is_hidden(now):
                found.append(Delivery(receipt, row.packet, row.count))
                if len(found) == limit:
                    break
        return found

    async def begin(self, service: str) -> MemoryWork:
        return MemoryWork(self, service)

    async def acknowledge(self, service: str, deliveries: Sequence[Delivery]) -> None:
        pass

    async def relay(self, now: datetime, limit: int) -> datetime | None:
        store = self.store
        due = bisect.bisect_right(store.dated, now, key=lambda letter: letter[0])
        moved, store.dated[:due] = store.dated[: min(due, limit)], store.dated[min(due, limit) : due]
        self.post([parcel for _, _, parcel in moved], now)
        expired = [stash for stash in store.stashes if stash.until <= now]
        store.stashes = [stash for stash in store.stashes if stash.until > now]
        for stash in expired:
            store.dead.append(DeadLetterStatus(letter=expired_stash(stash, now, self.world.new_id()), status="open"))
        store.wake()
        nexts = [letter[0] for letter in store.dated[:1]] + [stash.until for stash in store.stashes]
        return min(nexts, default=None)

    def post(self, parcels: Sequence[Parcel], now: datetime) -> None:
        """Puts parcels where they belong, now: into the outbox, if a broker has the queues."""
        store = self.store
        if self.posted is None:
            for parcel in parcels:
                store.deliver(parcel, now)
        elif parcels:
            for parcel in parcels:
                if parcel.queue:
                    store.queues.setdefault(parcel.queue, {})  # so that it is listed, also if it was never up
            packet = pack([with_id_of_its_own(parcel, self.world.new_id) for parcel in parcels])
            receipt = store.enqueue(OUTBOX, packet)
            row = store.queues[OUTBOX][receipt]
            row.count, row.claimed_until, row.owner = 1, now + OUTBOX_LEASE, self
            self.posted(Delivery(receipt, packet, 1))

    def listen(self, name: str, notify: Callable[[], None]) -> None:
        self.listeners.append((name, notify))

    def reply_to(self, request: str) -> str:
        return request

    async def reply(self, request: str) -> bytes | None:
        found = self.store.replies.pop(request, None)
        return None if found is None else found[1]

    async def close(self) -> None:
        if self in self.store.engines:
            self.store.engines.remove(self)

    def die(self) -> None:
        """What SIGKILL does to the process that has this engine."""
        self.is_alive = False


class MemoryWork:
    """A transaction that is checked when it commits."""

    def __init__(self, engine: MemoryEngine, service: str) -> None:
        self.engine = engine
        self.service = service
        self.unstashed: list[Parcel] = []

    async def first_sight(self, deliveries: Sequence[Delivery]) -> set[Receipt]:
        return {d.receipt for d in deliveries if self._is_ours(d)}

    def _is_ours(self, delivery: Delivery) -> bool:
        if isinstance(delivery.receipt, str):
            return (self.service, delivery.receipt) not in self.engine.store.inbox
        row = self.engine.store.queues.get(self.service, {}).get(int(delivery.receipt))
        return row is not None and row.count == delivery.count

    async def load(self, addresses: Sequence[Address]) -> Mapping[Address, Stored]:
        rows = self.engine.store.instances
        return {
            address: Stored(row.saved.state, row.version, row.saved.done)
            for address in addresses
            if (row := rows.get(address)) is not None
        }

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        yield None

    async def commit(self, changes: Changes) -> None:
        self._check(changes)
        self._apply(changes)

    async def rollback(self) -> None:
        pass

    def _check(self, changes: Changes) -> None:
        store = self.engine.store
        for delivery in [*changes.handled, *changes.claimed]:
            if not self._is_ours(delivery):
                raise Conflict(f"delivery {delivery.receipt} of {self.service!r} was taken by another turn")
        for saved in changes.saved:
            row = store.instances.get(saved.address)
            if (row.version if row else 0) != saved.version:
                raise Conflict(f"{saved.address} was changed by another turn after it was loaded")
        for stash in changes.stashed:
            if stash.address in store.instances:
                raise Conflict(f"{stash.address} was started by another turn")

    def _apply(self, changes: Changes) -> None:
        store, now = self.engine.store, self.engine.world.now()
        self._settle(changes, now)
        for saved in changes.saved:
            self._save(saved, now)
        self._send([*self.unstashed, *changes.parcels], now)
        gone = {letter.id for letter in changes.withdrawn}
        if gone:
            store.dated = [letter for letter in store.dated if letter[1] not in gone]
        if changes.stashed:
            store.stashes += changes.stashed
            store.rung.add(RELAY)
        store.dead += [DeadLetterStatus(letter=letter, status="open") for letter in changes.dead]
        store.entries += changes.history
        store.wake()

    def _settle(self, changes: Changes, now: datetime) -> None:
        store, queue = self.engine.store, self.engine.store.queues.get(self.service, {})
        handled, brought = by_keeper(changes.handled)
        claimed, suspects = by_keeper(changes.claimed)
        for delivery in handled:
            queue.pop(int(delivery.receipt), None)
        for delivery in claimed:
            row = queue[int(delivery.receipt)]
            row.count, row.claimed_until, row.owner = row.count + 1, changes.claimed_until, self.engine
        for delivery in by_keeper(changes.renewed)[0]:
            if self._is_ours(delivery):
                queue[int(delivery.receipt)].claimed_until = changes.claimed_until
        for delivery in by_keeper(changes.released)[0]:
            if self._is_ours(delivery):
                row = queue[int(delivery.receipt)]
                row.count, row.claimed_until, row.owner = row.count - 1, None, None
                store.rung.add(self.service)
        for delivery in brought:
            store.inbox[self.service, str(delivery.receipt)] = now
            store.tries.pop((self.service, str(delivery.receipt)), None)
        for delivery in suspects:
            if delivery.count:
                key = (self.service, str(delivery.receipt))
                store.tries[key] = store.tries.get(key, 0) + 1

    def _save(self, saved: Saved, now: datetime) -> None:
        store = self.engine.store
        row = store.instances.get(saved.address)
        started_at = row.started_at if row else now
        store.instances[saved.address] = InstanceRow(saved, saved.version + 1, started_at, now)
        if row is None:
            for stash in [stash for stash in store.stashes if stash.address == saved.address]:
                store.stashes.remove(stash)
                self.unstashed.append(Parcel("", stash.packet, queue=saved.address.service))

    def _send(self, parcels: Sequence[Parcel], now: datetime) -> None:
        store = self.engine.store
        at_once: list[Parcel] = []
        for parcel in parcels:
            if parcel.once:
                if parcel.id in store.sent_ids:
                    continue
                store.sent_ids[parcel.id] = now
            if parcel.due is not None and parcel.due > now:
                bisect.insort(store.dated, (parcel.due, parcel.id, parcel), key=lambda letter: letter[:2])
                store.rung.add(RELAY)
            else:
                at_once.append(parcel)
        self.engine.post(at_once, now)


def expired_stash(stash: Stash, now: datetime, id: str) -> DeadLetter:
    """The dead letter of a message whose instance never came."""
    address = stash.address
    return DeadLetter(
        id=id,
        service=address.service,
        packet=stash.packet,
        key=address.key,
        reason=f"no {address.workflow!r} with key {address.key!r} began within the time that its messages are stashed",
        at=now,
    )
