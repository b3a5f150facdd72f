"""What processes that died had: their claims are freed, and what they may have been handling is counted."""

from __future__ import annotations

from collections.abc import Iterable

from outlast.adapters.postgres.schema import lock_class, within
from outlast.adapters.postgres.sessions import OwnSession
from outlast.core.recovery import Patience

_ALIVE = """EXISTS (
    SELECT 1 FROM pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.classid::bigint = ({}) AND l.objid::bigint = w.number)"""

_DEAD = f"""
    SELECT number, queue, first, last FROM outlast.workers w
    WHERE queue = ANY($2::integer[]) AND number <> $3::bigint AND NOT {_ALIVE.format("$1::bigint")}
    FOR UPDATE SKIP LOCKED"""
_SUSPECT = """
    UPDATE outlast.messages SET count = count + 1
    WHERE queue = $1 AND id BETWEEN $2 AND $3 AND owner IS NULL AND count < $4"""
_FREE = "UPDATE outlast.messages SET claimed_until = NULL, owner = NULL WHERE queue = $1 AND owner = $2"
_FORGET = "DELETE FROM outlast.workers WHERE number = $1 AND queue = $2"
_ORPHANED = """
    UPDATE outlast.messages m SET claimed_until = NULL, owner = NULL
    WHERE m.queue = ANY($1::integer[]) AND m.owner IS NOT NULL
    AND pg_postmaster_start_time() > clock_timestamp() - interval '10 minutes'
    AND NOT EXISTS (SELECT 1 FROM outlast.workers w WHERE w.number = m.owner AND w.queue = m.queue)
    RETURNING queue"""
OTHERS = "SELECT DISTINCT queue FROM outlast.workers WHERE queue = ANY($1::integer[]) AND number <> $2::bigint"
"""Which of these queues other processes have open, or had and it is not known yet that they died."""
_COUNT = f"""
    SELECT queue, count(*) FROM outlast.workers w WHERE {_ALIVE.format("$1::bigint")} GROUP BY queue"""


def _class(schema: str) -> int:
    """As the server lists it, without a sign."""
    return lock_class(schema) & 0xFFFFFFFF


async def give_back(session: OwnSession, schema: str, queues: Iterable[int], own: int | None) -> set[int]:
    """Within a transaction: frees the claims of processes that died; returns the queues they were of."""
    dead = await session.fetch(within(schema, _DEAD), _class(schema), list(queues), -1 if own is None else own)
    if dead:
        # The dead one's own transaction may need a moment to end; somebody else's turn may last.
        await session.connection.execute("SET LOCAL lock_timeout = '2s'")
    for number, queue, first, last in dead:
        if first <= last:
            await session.fetch(within(schema, _SUSPECT), queue, first, last, Patience().alone_after)
        await session.fetch(within(schema, _FREE), queue, number)
        await session.fetch(within(schema, _FORGET), number, queue)
    return {queue for _, queue, _, _ in dead}


async def free_orphans(session: OwnSession, schema: str, queues: Iterable[int]) -> set[int]:
    """Frees claims of processes that nobody knows any more; returns the queues they were of.

    A server that fell has forgotten `outlast.workers`. Who lives makes itself known again; who died meanwhile cannot.
    """
    return {queue for (queue,) in await session.fetch(within(schema, _ORPHANED), list(queues))}


def count_alive(schema: str) -> tuple[str, int]:
    """The statement, and its value, that tells how many living processes have each queue open."""
    return within(schema, _COUNT), _class(schema)
