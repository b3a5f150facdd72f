"""What operators may ask of the database, and do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import msgspec

from outlast.adapters.postgres import history
from outlast.adapters.postgres.deaths import count_alive
from outlast.adapters.postgres.examination import FACTS, findings
from outlast.adapters.postgres.schema import micros, moment, quoted, read, written
from outlast.adapters.postgres.work import PostgresWork
from outlast.core.naming import sent_at
from outlast.ports import (
    Address,
    Changes,
    DeadLetter,
    DeadLetterStatus,
    Entry,
    Finding,
    InstanceStatus,
    Parcel,
    QueueStatus,
    Unhandled,
    WorkflowStatus,
    World,
)

_decode_letter = msgspec.json.Decoder(DeadLetter).decode


class Database(Protocol):
    """What it needs of the engine."""

    world: World
    schema: str
    where: str

    @property
    def trouble(self) -> str: ...

    async def fetch(self, attempt: str, sql: str, *values: Any) -> Sequence[Any]: ...

    async def begin(self, service: str) -> PostgresWork: ...


class PostgresInspector:
    """Reads and writes on connections that no turn waits for."""

    def __init__(self, engine: Database) -> None:
        self.engine = engine

    @property
    def trouble(self) -> str:
        return self.engine.trouble

    async def _rows(self, sql: str, *values: Any) -> Sequence[Any]:
        return await self.engine.fetch("looking into the database", sql, *values)

    async def examine(self) -> Sequence[Finding]:
        [facts] = await self._rows(FACTS, quoted(self.engine.schema))
        return findings(facts, self.engine.world.now())

    async def queues(self) -> Sequence[QueueStatus]:
        now = micros(self.engine.world.now())
        statement, value = count_alive(self.engine.schema)
        workers = dict(await self._rows(statement, value))
        return [
            QueueStatus(
                service=name,
                topics=list(topics),
                waiting=waiting,
                claimed=claimed,
                oldest=sent_at(oldest) if oldest is not None else None,
                dated=dated,
                dead=dead,
                workers=workers.get(id, 0),
            )
            for id, name, topics, waiting, claimed, oldest, dated, dead in await self._rows(_QUEUES, now)
        ]

    async def workflows(self) -> Sequence[WorkflowStatus]:
        return [
            WorkflowStatus(service=service, workflow=workflow, running=running, done=done)
            for service, workflow, running, done in await self._rows(_WORKFLOWS)
        ]

    async def instances(self, *, key: str, done: bool | None, limit: int) -> Sequence[InstanceStatus]:
        by_key = "AND i.key = $3::text" if key else "AND $3::text = ''"
        rows = await self._rows(_INSTANCES.format(by_key=by_key), done, limit, written(key))
        return [
            InstanceStatus(
                address=Address(service, workflow, read(found)),
                version=version,
                done=done,
                conversation=read(conversation),
                started_at=moment(started_at),
                changed_at=moment(changed_at),
                state=msgspec.Raw(state),
            )
            for service, workflow, found, version, done, conversation, started_at, changed_at, state in rows
        ]

    async def history(self, *, conversation: str, key: str = "", after: int, limit: int) -> Sequence[tuple[int, Entry]]:
        now = self.engine.world.now()
        return await history.read(self._rows, conversation=conversation, key=key, after=after, limit=limit, now=now)

    async def unhandled(self, *, conversation: str, scan: int) -> Sequence[Unhandled]:
        now = micros(self.engine.world.now())
        # An id in a packet is found as text; only the envelope is looked at by those who read it.
        bounds = (scan, conversation.encode())
        found = [
            Unhandled(service=name, packet=packet, is_claimed=until is not None and until > now)
            for name, packet, until in await self._rows(_WAITING, *bounds)
        ]
        found += [
            Unhandled(service=queue, packet=packet, due=moment(due))
            for queue, packet, due in await self._rows(_DATED, *bounds)
        ]
        found += [
            Unhandled(service=service, packet=packet, due=moment(until), stashed_for=name)
            for service, name, packet, until in await self._rows(_STASHED, *bounds)
        ]
        return found

    async def dead_letters(self, *, status: str, id: str, limit: int) -> Sequence[DeadLetterStatus]:
        rows = await self._rows(_DEAD, status, written(id), limit)
        return [
            DeadLetterStatus(letter=msgspec.structs.replace(_decode_letter(letter), packet=packet), status=status)
            for status, packet, letter in rows
        ]

    async def settle(self, parcels: Mapping[str, Parcel | None], *, status: str) -> int:
        work = await self.engine.begin("")
        try:
            ids = {written(id): id for id in sorted(parcels)}
            rows = await work.rows("settling dead letters", _SETTLE, list(ids), status)
            settled = [ids[id] for (id,) in sorted(rows)]
            await work.commit(Changes(parcels=[parcel for id in settled if (parcel := parcels[id]) is not None]))
        except BaseException:
            await work.rollback()
            raise
        return len(settled)

    async def clean(self, now: datetime, history_until: datetime, limit: int) -> int:
        stamp, old = micros(now), micros(history_until)
        removed = len(await self._rows(history.FORGET, stamp, old, limit))
        for table, key, column, bound in (
            ("instances", "id", "keep_until", stamp),
            ("replies", "request", "at", old),
            ("sent", "id", "at", old),
            ("inbox", "(queue, id)", "at", old),
            ("tries", "(queue, id)", "at", old),
        ):
            columns = key.strip("()")
            # Several processes clean: what one deletes the others step over.
            removed += len(
                await self._rows(
                    f"DELETE FROM outlast.{table} WHERE {key} IN (SELECT {columns} FROM outlast.{table} "
                    f"WHERE {column} <= $1 ORDER BY {column} LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING 1",
                    bound,
                    limit,
                )
            )
        return removed


_QUEUES = """
    SELECT q.id, q.name,
        coalesce((SELECT array_agg(t.topic ORDER BY t.topic) FROM outlast.topics t WHERE t.queue = q.id), '{}'),
        coalesce(m.waiting, 0), coalesce(m.claimed, 0),
        (SELECT packet FROM outlast.messages o WHERE o.queue = q.id ORDER BY o.id LIMIT 1),
        (SELECT count(*) FROM outlast.dated d WHERE d.queue = q.name),
        (SELECT count(*) FROM outlast.dead d WHERE d.service = q.name AND d.status = 'open')
    FROM outlast.queues q LEFT JOIN (
        SELECT queue, count(*) FILTER (WHERE claimed_until IS NULL OR claimed_until <= $1) AS waiting,
            count(*) FILTER (WHERE claimed_until > $1) AS claimed FROM outlast.messages GROUP BY queue
    ) AS m ON m.queue = q.id ORDER BY q.name"""
_WORKFLOWS = """
    SELECT w.service, w.name, count(*) FILTER (WHERE NOT i.done), count(*) FILTER (WHERE i.done)
    FROM outlast.instances i JOIN outlast.workflows w ON w.id = i.workflow GROUP BY 1, 2 ORDER BY 1, 2"""
_INSTANCES = """
    SELECT w.service, w.name, i.key, i.version, i.done, i.conversation, i.started_at, i.changed_at, i.state
    FROM outlast.instances i JOIN outlast.workflows w ON w.id = i.workflow
    WHERE ($1::boolean IS NULL OR i.done = $1) {by_key} ORDER BY i.id DESC LIMIT $2"""
_WAITING = """
    SELECT q.name, m.packet, m.claimed_until FROM outlast.queues q CROSS JOIN LATERAL (
        SELECT id, packet, claimed_until FROM outlast.messages WHERE queue = q.id ORDER BY id LIMIT $1) AS m
    WHERE position($2::bytea IN m.packet) > 0 ORDER BY q.name, m.id"""
_DATED = """
    SELECT queue, packet, due FROM (SELECT * FROM outlast.dated ORDER BY due LIMIT $1) AS d
    WHERE position($2::bytea IN packet) > 0 ORDER BY due"""
_STASHED = """
    SELECT w.service, w.name, s.packet, s.until FROM (SELECT * FROM outlast.stash ORDER BY id LIMIT $1) AS s
    JOIN outlast.workflows w ON w.id = s.workflow WHERE position($2::bytea IN s.packet) > 0 ORDER BY s.id"""
_DEAD = """
    SELECT status, packet, letter FROM outlast.dead
    WHERE ($1::text = '' OR status = $1) AND starts_with(id, $2::text) ORDER BY number LIMIT $3"""
_SETTLE = """
    UPDATE outlast.dead SET status = $2 WHERE id = ANY($1::text[]) AND status = 'open' RETURNING id"""
