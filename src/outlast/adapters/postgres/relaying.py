"""What the relay moves: dated parcels that are due, and messages whose instance has come, or did not come in time."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime

from outlast.adapters.postgres.parts import Parts
from outlast.adapters.postgres.schema import micros, read
from outlast.adapters.postgres.trouble import attempting
from outlast.adapters.postgres.work import PostgresWork
from outlast.ports import DeadLetter, Parcel


async def deliver_due(work: PostgresWork, now: int, limit: int) -> int:
    """Moves dated parcels that are due into their queues, oldest first; returns how many."""
    rows = await work.rows("taking what is due", _TAKE_DUE, now, limit)
    parcels = [Parcel(read(id), packet, queue=queue, topic=topic) for _, id, queue, topic, packet in sorted(rows)]
    parts = Parts()
    await work.enqueue(parts, parcels)
    with attempting("delivering what is due", where=work.where):
        await work.run(parts)
    return len(parcels)


async def expire_stashes(work: PostgresWork, now: datetime, limit: int) -> int:
    """Makes dead letters of messages whose instance did not come in time; returns how many."""
    rows = await work.rows("taking what was stashed too long", _TAKE_EXPIRED, micros(now), limit)
    parts = Parts()
    work.bury(
        parts,
        [
            DeadLetter(
                id=work.world.new_id(),
                service=service,
                packet=packet,
                key=read(key),
                reason=f"no {name!r} with key {read(key)!r} began within the time that its messages are stashed",
                at=now,
            )
            for _, service, name, key, packet in sorted(rows)
        ],
    )
    with attempting("setting aside what was stashed too long", where=work.where):
        await work.run(parts)
    return len(rows)


async def return_stashes(work: PostgresWork, since: int) -> int:
    """Puts back into its queue what was stashed at the moment in which its instance began.

    Neither of two such turns sees what the other has not committed.
    """
    rows = await work.rows("looking for stashes that are over", _TAKE_MET, since)
    waiting: dict[str, list[bytes]] = defaultdict(list)
    for _, service, packet in sorted(rows):
        waiting[service].append(packet)
    parts = Parts()
    await work.enqueue(parts, [Parcel("", p, queue=service) for service, ps in waiting.items() for p in ps])
    with attempting("returning what was stashed", where=work.where):
        await work.run(parts)
    return len(rows)


_TAKE_DUE = """
    DELETE FROM outlast.dated WHERE (due, id) IN (
        SELECT due, id FROM outlast.dated WHERE due <= $1 ORDER BY due, id LIMIT $2 FOR UPDATE SKIP LOCKED)
    RETURNING due, id, queue, topic, packet"""
_TAKE_EXPIRED = """
    WITH taken AS (DELETE FROM outlast.stash WHERE id IN (
        SELECT id FROM outlast.stash WHERE until <= $1 ORDER BY until LIMIT $2 FOR UPDATE SKIP LOCKED)
        RETURNING id, workflow, key, packet)
    SELECT t.id, w.service, w.name, t.key, t.packet FROM taken t JOIN outlast.workflows w ON w.id = t.workflow"""
_TAKE_MET = """
    WITH taken AS (DELETE FROM outlast.stash s USING outlast.instances i
        WHERE s.at >= $1 AND i.key = s.key AND i.workflow = s.workflow RETURNING s.id, s.workflow, s.packet)
    SELECT t.id, w.service, t.packet FROM taken t JOIN outlast.workflows w ON w.id = t.workflow"""
