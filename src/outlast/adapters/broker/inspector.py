"""What operators may ask of a broker with a store, and do: what the store knows, and how much waits at the broker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from outlast.adapters.broker.engine import BrokerEngine
from outlast.ports import (
    OUTBOX,
    DeadLetterStatus,
    Entry,
    Finding,
    Inspector,
    InstanceStatus,
    Parcel,
    QueueStatus,
    Unhandled,
    WorkflowStatus,
    unpack,
)


class BrokerInspector:
    """`store` is the inspector of the engine's store. What a message says while it is at the broker, nobody can see."""

    def __init__(self, engine: BrokerEngine, store: Inspector) -> None:
        self.engine = engine
        self.store = store

    @property
    def trouble(self) -> str:
        return self.engine.trouble

    async def examine(self) -> Sequence[Finding]:
        return [*await self.engine.examine(), *await self.store.examine()]

    async def queues(self) -> Sequence[QueueStatus]:
        """As the store has them, with what waits at the broker. The outbox is one of them."""
        queues = await self.store.queues()
        depths = await self.engine.depths([queue.service for queue in queues if queue.service != OUTBOX])
        return [
            msgspec.structs.replace(queue, waiting=queue.waiting + depths.get(queue.service, 0)) for queue in queues
        ]

    async def workflows(self) -> Sequence[WorkflowStatus]:
        return await self.store.workflows()

    async def instances(self, *, key: str, done: bool | None, limit: int) -> Sequence[InstanceStatus]:
        return await self.store.instances(key=key, done=done, limit=limit)

    async def history(self, *, conversation: str, key: str = "", after: int, limit: int) -> Sequence[tuple[int, Entry]]:
        return await self.store.history(conversation=conversation, key=key, after=after, limit=limit)

    async def unhandled(self, *, conversation: str, scan: int) -> Sequence[Unhandled]:
        """What the store has: the outbox, what is dated and what is stashed."""
        found = await self.store.unhandled(conversation=conversation, scan=scan)
        return [one for item in found for one in (_opened(item, conversation) if item.service == OUTBOX else [item])]

    async def dead_letters(self, *, status: str, id: str, limit: int) -> Sequence[DeadLetterStatus]:
        return await self.store.dead_letters(status=status, id=id, limit=limit)

    async def settle(self, parcels: Mapping[str, Parcel | None], *, status: str) -> int:
        self.engine.open()
        return await self.store.settle(parcels, status=status)

    async def clean(self, now: datetime, history_until: datetime, limit: int) -> int:
        return await self.store.clean(now, history_until, limit)


def _opened(row: Unhandled, conversation: str) -> list[Unhandled]:
    """What of a conversation is in a row of the outbox; an event is there for all its subscribers at once."""
    wanted = conversation.encode()
    return [
        Unhandled(service=parcel.queue or OUTBOX, packet=parcel.packet)
        for parcel in unpack(row.packet)
        if wanted in parcel.packet
    ]
