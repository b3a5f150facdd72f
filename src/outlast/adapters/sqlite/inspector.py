"""What operators may ask of the file, and do."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import islice

import msgspec

from outlast.adapters.sqlite.engine import SqliteEngine
from outlast.adapters.sqlite.history import forget, read
from outlast.adapters.sqlite.queues import Queue
from outlast.adapters.sqlite.schema import micros, moment
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
)

_decode_letter = msgspec.json.Decoder(DeadLetter).decode


OLDEST = (3, 37)
"""The first SQLite with STRICT tables."""
ROOM = 256 << 20
"""Free bytes below which an examination warns."""


class SqliteInspector:
    """Reads with the engine's connection, and writes in transactions of its own."""

    def __init__(self, engine: SqliteEngine) -> None:
        self.engine = engine

    @property
    def trouble(self) -> str:
        return self.engine.trouble

    async def examine(self) -> Sequence[Finding]:
        path, execute = self.engine.path, self.engine.connection.execute
        [[version], [mode]] = execute("SELECT sqlite_version() UNION ALL SELECT journal_mode FROM pragma_journal_mode")
        free = shutil.disk_usage(path.parent).free
        return [
            Finding(
                what="SQLite",
                is_good=tuple(map(int, version.split("."))) >= OLDEST,
                seen=version,
                advice="Update Python or its SQLite: 3.37 is the oldest that has what the tables need.",
            ),
            Finding(
                what="journal",
                is_good=mode == "wal",
                seen=mode,
                advice="The file cannot be in WAL mode, which network disks do not bear. Put it on a local disk.",
            ),
            Finding(
                what="disk",
                is_good=free >= ROOM,
                seen=f"{free >> 20} MiB are free at {path.parent.absolute()}",
                advice="Make room: on a full disk nothing is lost, and nothing goes on.",
            ),
        ]

    async def queues(self) -> Sequence[QueueStatus]:
        execute, now = self.engine.connection.execute, micros(self.engine.world.now())
        found: list[QueueStatus] = []
        topics: dict[int, list[str]] = {}
        for topic, queue in execute("SELECT topic, queue FROM outlast_topics ORDER BY topic"):
            topics.setdefault(queue, []).append(topic)
        dated: dict[str, int] = dict(execute("SELECT queue, count(*) FROM outlast_dated GROUP BY queue").fetchall())
        dead: dict[str, int] = dict(
            execute("SELECT service, count(*) FROM outlast_dead WHERE status = 'open' GROUP BY service").fetchall()
        )
        for id, name in execute("SELECT id, name FROM outlast_queues ORDER BY name").fetchall():
            waiting, claimed = self._lengths(id, now)
            found.append(
                QueueStatus(
                    service=name,
                    topics=topics.get(id, []),
                    waiting=waiting,
                    oldest=self._oldest(id),
                    claimed=claimed,
                    dated=dated.get(name, 0),
                    dead=dead.get(name, 0),
                    workers=self.engine.bell.alive(name),
                )
            )
        return found

    def _lengths(self, queue: int, now: int) -> tuple[int, int]:
        """How many messages of a queue wait, and how many are claimed; at no cost, however many there are."""
        execute = self.engine.connection.execute
        # Ids in a log follow one another, so what lies beyond the head need not be counted.
        beyond: int = execute(
            f"SELECT coalesce((SELECT max(id) FROM outlast_log_{queue}), 0) - head FROM outlast_queues WHERE id = ?",
            (queue,),
        ).fetchone()[0]
        listed, claimed = execute(
            "SELECT count(*), coalesce(sum(claimed_until > ?), 0) FROM outlast_open WHERE queue = ?", (now, queue)
        ).fetchone()
        return max(beyond, 0) + listed - claimed, claimed

    def _oldest(self, queue: int) -> datetime | None:
        rows = Queue(queue, self.engine.connection).unhandled(1)
        return sent_at(rows[0][0]) if rows else None

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
            "SELECT w.service, w.name, i.key, i.version, i.done, i.conversation, i.started_at, i.changed_at, "
            "i.state FROM outlast_instances i JOIN outlast_workflows w ON w.id = i.workflow "
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

    async def history(self, *, conversation: str, key: str = "", after: int, limit: int) -> Sequence[tuple[int, Entry]]:
        found = read(self.engine.connection, conversation=conversation, key=key, after=after)
        return list(islice(found, limit))

    async def unhandled(self, *, conversation: str, scan: int) -> Sequence[Unhandled]:
        execute, now = self.engine.connection.execute, micros(self.engine.world.now())
        bounds = (scan, conversation)
        # An id in a packet is found as text; only the envelope is looked at by those who read it.
        among = "WHERE instr(packet, CAST(? AS BLOB))"
        found: list[Unhandled] = []
        for id, name in execute("SELECT id, name FROM outlast_queues ORDER BY name").fetchall():
            found += [
                Unhandled(service=name, packet=packet, is_claimed=until is not None and until > now)
                for packet, until in Queue(id, self.engine.connection).unhandled(scan)
                if conversation.encode() in packet
            ]
        found += [
            Unhandled(service=queue, packet=packet, due=moment(due))
            for queue, packet, due in execute(
                "SELECT queue, packet, due FROM (SELECT * FROM outlast_dated ORDER BY due LIMIT ?) " + among,
                bounds,
            )
        ]
        found += [
            Unhandled(service=service, packet=packet, due=moment(until), stashed_for=name)
            for service, name, packet, until in execute(
                "SELECT w.service, w.name, s.packet, s.until "
                "FROM (SELECT * FROM outlast_stash ORDER BY id LIMIT ?) s "
                f"JOIN outlast_workflows w ON w.id = s.workflow {among}",
                bounds,
            )
        ]
        return found

    async def dead_letters(self, *, status: str, id: str, limit: int) -> Sequence[DeadLetterStatus]:
        where, parameters = ["1"], list[object]()
        if status:
            where.append("status = ?")
            parameters.append(status)
        if id:
            where.append("id >= ? AND id < ?")
            parameters += [id, id + "\U0010ffff"]
        rows = self.engine.connection.execute(
            f"SELECT status, packet, letter FROM outlast_dead WHERE {' AND '.join(where)} ORDER BY number LIMIT ?",
            (*parameters, limit),
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
            removed = forget(self.engine.connection, stamp, old, limit)
            removed += sum(
                execute(
                    f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE {condition} LIMIT ?)",
                    (bound, limit),
                ).rowcount
                for table, key, condition, bound in (
                    ("outlast_instances", "id", "keep_until <= ?", stamp),
                    ("outlast_replies", "request", "at <= ?", old),
                    ("outlast_sent", "id", "at <= ?", old),
                    ("outlast_inbox", "queue, id", "at <= ?", old),
                )
            )
            await work.commit(Changes())
        except BaseException:
            await work.rollback()
            raise
        return removed
