"""What operators may ask of the file, and do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from outlast.adapters.sqlite.engine import SqliteEngine
from outlast.adapters.sqlite.schema import micros, moment
from outlast.ports import (
    Address,
    Changes,
    DeadLetter,
    DeadLetterStatus,
    Entry,
    InstanceStatus,
    Parcel,
    QueueStatus,
    WorkflowStatus,
)

_decode_letter = msgspec.json.Decoder(DeadLetter).decode


class SqliteInspector:
    """Reads with the engine's connection, and writes in transactions of its own."""

    def __init__(self, engine: SqliteEngine) -> None:
        self.engine = engine

    async def queues(self) -> Sequence[QueueStatus]:
        execute, now = self.engine.connection.execute, micros(self.engine.world.now())
        found: list[QueueStatus] = []
        topics: dict[int, list[str]] = {}
        for topic, queue in execute("SELECT topic, queue FROM outlast_topics ORDER BY topic"):
            topics.setdefault(queue, []).append(topic)
        dated: dict[str, int] = dict(
            execute("SELECT queue, count(*) FROM outlast_dated GROUP BY queue").fetchall()
        )
        dead: dict[str, int] = dict(
            execute("SELECT service, count(*) FROM outlast_dead WHERE status = 'open' GROUP BY service").fetchall()
        )
        for id, name in execute("SELECT id, name FROM outlast_queues ORDER BY name").fetchall():
            total: int = execute(f"SELECT count(*) FROM outlast_queue_{id}").fetchone()[0]
            claimed: int = execute(
                f"SELECT count(*) FROM outlast_queue_{id} WHERE owner IS NOT NULL AND claimed_until > ?",
                (now,),
            ).fetchone()[0]
            found.append(
                QueueStatus(
                    service=name,
                    topics=topics.get(id, []),
                    waiting=total - claimed,
                    claimed=claimed,
                    dated=dated.get(name, 0),
                    dead=dead.get(name, 0),
                    workers=self.engine.bell.alive(name),
                )
            )
        return found

    async def workflows(self) -> Sequence[WorkflowStatus]:
        rows = self.engine.connection.execute(
            "SELECT w.service, w.name, count(*) - sum(i.done), sum(i.done) FROM outlast_instances i "
            "JOIN outlast_workflows w ON w.id = i.workflow GROUP BY w.id ORDER BY 1, 2"
        ).fetchall()
        return [
            WorkflowStatus(service=service, workflow=workflow, running=running, done=done)
            for service, workflow, running, done in rows
        ]

    async def instances(self, *, key: str, done: bool | None, limit: int) -> Sequence[InstanceStatus]:
        where = ["1"]
        parameters: list[object] = []
        if key:
            where.append("i.key = ?")
            parameters.append(key)
        if done is not None:
            where.append("i.done = ?")
            parameters.append(int(done))
        rows = self.engine.connection.execute(
            "SELECT w.service, w.name, i.key, i.version, i.done, i.conversation, i.started_at, i.changed_at, i.state "
            "FROM outlast_instances i JOIN outlast_workflows w ON w.id = i.workflow "
            f"WHERE {' AND '.join(where)} ORDER BY i.id DESC LIMIT ?",
            (*parameters, limit),
        ).fetchall()
        return [
            InstanceStatus(
                address=Address(service, workflow, key),
                version=version,
                done=bool(done),
                conversation=conversation,
                started_at=moment(started_at),
                changed_at=moment(changed_at),
                state=msgspec.Raw(state),
            )
            for service, workflow, key, version, done, conversation, started_at, changed_at, state in rows
        ]

    async def history(self, *, conversation: str, after: int, limit: int) -> Sequence[tuple[int, Entry]]:
        where, parameters = ("AND conversation = ?", [conversation]) if conversation else ("", [])
        rows = self.engine.connection.execute(
            "SELECT number, conversation, at, service, outcome, packet, workflow, key, note FROM outlast_history "
            f"WHERE number > ? {where} ORDER BY number LIMIT ?",
            (after, *parameters, limit),
        ).fetchall()
        return [
            (number, Entry(conversation, moment(at), service, outcome, packet, workflow, key, note))
            for number, conversation, at, service, outcome, packet, workflow, key, note in rows
        ]

    async def dead_letters(self, *, status: str, id: str, limit: int) -> Sequence[DeadLetterStatus]:
        rows = self.engine.connection.execute(
            "SELECT status, packet, letter FROM outlast_dead WHERE (? = '' OR status = ?) "
            "AND substr(id, 1, length(?)) = ? ORDER BY number LIMIT ?",
            (status, status, id, id, limit),
        ).fetchall()
        return [
            DeadLetterStatus(letter=msgspec.structs.replace(_decode_letter(letter), packet=packet), status=status)
            for status, packet, letter in rows
        ]

    async def settle(self, parcels: Mapping[str, Parcel | None], *, status: str) -> int:
        work = await self.engine.begin("")
        try:
            settled = [
                id
                for id in parcels
                if self.engine.connection.execute(
                    "UPDATE outlast_dead SET status = ? WHERE id = ? AND status = 'open'", (status, id)
                ).rowcount
            ]
            work.post([parcel for id in settled if (parcel := parcels[id]) is not None])
            await work.commit(Changes())
        except BaseException:
            await work.rollback()
            raise
        return len(settled)

    async def clean(self, now: datetime, history_until: datetime, limit: int) -> int:
        stamp, old = micros(now), micros(history_until)
        work = await self.engine.begin("")
        execute = self.engine.connection.execute
        try:
            removed = sum(
                execute(
                    f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE {condition} LIMIT ?)",
                    (bound, limit),
                ).rowcount
                for table, key, condition, bound in (
                    ("outlast_instances", "id", "keep_until <= ?", stamp),
                    ("outlast_history", "number", "at <= ?", old),
                    ("outlast_replies", "request", "at <= ?", old),
                    ("outlast_sent", "id", "at <= ?", old),
                )
            )
            await work.commit(Changes())
        except BaseException:
            await work.rollback()
            raise
        return removed
