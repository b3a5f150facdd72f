"""What operators may ask of the reference engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from outlast.adapters.memory import MemoryEngine
from outlast.core.naming import sent_at
from outlast.ports import (
    DeadLetterStatus,
    Entry,
    Finding,
    InstanceStatus,
    Parcel,
    QueueStatus,
    Unhandled,
    WorkflowStatus,
)


class MemoryInspector:
    """What operators may ask of a `MemoryStore`, by one of its engines."""

    def __init__(self, engine: MemoryEngine) -> None:
        self.engine = engine
        self.store = engine.store
        self.world = engine.world

    @property
    def trouble(self) -> str:
        return self.engine.trouble

    async def examine(self) -> Sequence[Finding]:
        return [Finding(what="durability", is_good=True, seen="none: everything is forgotten with this process")]

    async def queues(self) -> Sequence[QueueStatus]:
        store, now = self.store, self.world.now()
        return [
            QueueStatus(
                service=name,
                topics=sorted(store.topics.get(name, ())),
                waiting=sum(not row.is_hidden(now) for row in rows.values()),
                claimed=sum(row.is_hidden(now) for row in rows.values()),
                oldest=next((sent_at(row.packet) for row in rows.values()), None),
                dated=sum(letter[2].queue == name for letter in store.dated),
                dead=sum(item.letter.service == name and item.status == "open" for item in store.dead),
                workers=sum(engine.is_alive and name in engine.services for engine in store.engines),
            )
            for name, rows in sorted(store.queues.items())
        ]

    async def workflows(self) -> Sequence[WorkflowStatus]:
        rows = self.store.instances
        names = sorted({(a.service, a.workflow) for a in rows})
        return [
            WorkflowStatus(
                service=service,
                workflow=workflow,
                running=sum(
                    (a.service, a.workflow) == (service, workflow) and not r.saved.done for a, r in rows.items()
                ),
                done=sum((a.service, a.workflow) == (service, workflow) and r.saved.done for a, r in rows.items()),
            )
            for service, workflow in names
        ]

    async def instances(self, *, key: str, done: bool | None, limit: int) -> Sequence[InstanceStatus]:
        found = [
            row
            for address, row in self.store.instances.items()
            if (not key or address.key == key) and (done is None or row.saved.done == done)
        ]
        return [
            InstanceStatus(
                address=row.saved.address,
                version=row.version,
                done=row.saved.done,
                conversation=row.saved.conversation,
                started_at=row.started_at,
                changed_at=row.changed_at,
                state=msgspec.Raw(row.saved.state),
            )
            for row in reversed(found[-limit:])
        ]

    async def history(self, *, conversation: str, key: str = "", after: int, limit: int) -> Sequence[tuple[int, Entry]]:
        numbered = enumerate(self.store.entries, start=self.store.forgotten + 1)
        return [
            (number, entry)
            for number, entry in numbered
            if number > after
            and (not (conversation or key) or entry.conversation == conversation or (key and entry.key == key))
        ][:limit]

    async def unhandled(self, *, conversation: str, scan: int) -> Sequence[Unhandled]:
        store, now, wanted = self.store, self.world.now(), conversation.encode()
        found = [
            Unhandled(service=name, packet=row.packet, is_claimed=row.is_hidden(now))
            for name, rows in sorted(store.queues.items())
            for row in list(rows.values())[:scan]
        ]
        found += [Unhandled(service=p.queue, packet=p.packet, due=due) for due, _, p in store.dated[:scan]]
        found += [
            Unhandled(service=s.address.service, packet=s.packet, due=s.until, stashed_for=s.address.workflow)
            for s in store.stashes[:scan]
        ]
        return [item for item in found if wanted in item.packet]

    async def dead_letters(self, *, status: str, id: str, limit: int) -> Sequence[DeadLetterStatus]:
        return [
            item for item in self.store.dead if (not status or item.status == status) and item.letter.id.startswith(id)
        ][:limit]

    async def settle(self, parcels: Mapping[str, Parcel | None], *, status: str) -> int:
        settled = 0
        for index, item in enumerate(self.store.dead):
            if item.status == "open" and item.letter.id in parcels:
                self.store.dead[index] = DeadLetterStatus(letter=item.letter, status=status)
                settled += 1
                if (parcel := parcels[item.letter.id]) is not None:
                    self.engine.post([parcel], self.world.now())
        self.store.wake()
        return settled

    async def clean(self, now: datetime, history_until: datetime, limit: int) -> int:
        store = self.store
        old = [
            address
            for address, row in store.instances.items()
            if row.saved.keep_until is not None and row.saved.keep_until <= now
        ][:limit]
        for address in old:
            del store.instances[address]
        entries = [entry for entry in store.entries if entry.at <= history_until][:limit]
        store.entries = store.entries[len(entries) :]
        store.forgotten += len(entries)
        ids = [id for id, at in store.sent_ids.items() if at <= history_until][:limit]
        for id in ids:
            del store.sent_ids[id]
        requests = [request for request, (at, _) in store.replies.items() if at <= history_until][:limit]
        for request in requests:
            del store.replies[request]
        for key in [key for key, at in store.inbox.items() if at <= history_until]:
            del store.inbox[key]
        return len(old) + len(entries) + len(ids) + len(requests)
