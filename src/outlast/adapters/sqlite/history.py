"""History, packed: one row per turn, so that writing it costs little, with marks by which entries are found.

A mark is a four-byte checksum of a conversation's id or of an instance's key. Looking for one of them reads the
marks of every turn (four bytes for each) and then only the entries of turns that have its mark.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Iterator, Sequence

import msgspec

from outlast.adapters.sqlite.schema import micros, moment
from outlast.ports import Entry

_encode = msgspec.msgpack.Encoder().encode

PLACES = 16
"""Bits for the place of an entry within its turn; the rest of an entry's number is that of the turn."""


class Line(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An entry without what all entries of a turn share, and without the packet that the queue's log has."""

    conversation: str
    outcome: str
    workflow: str
    key: str
    note: str
    receipt: int | None
    packet: bytes | None


_decode = msgspec.msgpack.Decoder(list[Line]).decode


def write(connection: sqlite3.Connection, queue: int, entries: Sequence[Entry]) -> None:
    """Adds the entries of one turn of this queue."""
    checksum = zlib.crc32
    marks = [checksum(e.conversation.encode()) for e in entries]
    marks += [checksum(e.key.encode()) for e in entries if e.key]
    lines = [
        (e.conversation, e.outcome, e.workflow, e.key, e.note, e.receipt, None)
        if isinstance(e.receipt, int)
        else (e.conversation, e.outcome, e.workflow, e.key, e.note, None, e.packet)
        for e in entries
    ]
    oldest = min([e.receipt for e in entries if isinstance(e.receipt, int)], default=0)
    connection.execute(
        "INSERT INTO outlast_history (queue, oldest, at, marks, entries) VALUES (?, ?, ?, ?, ?)",
        (queue, oldest, micros(entries[-1].at), struct.pack(f"<{len(marks)}I", *marks), _encode(lines)),
    )


def read(
    connection: sqlite3.Connection, *, conversation: str, key: str = "", after: int, queues: str = "outlast_queues"
) -> Iterator[tuple[int, Entry]]:
    """Numbered entries after number `after`, oldest first; of this conversation and of instances with this key,
    or of all if both are empty.
    """
    marks_wanted = [struct.pack("<I", zlib.crc32(name.encode())) for name in (conversation, key) if name]
    turns = connection.execute(
        "SELECT h.number, h.queue, q.name, h.at, h.marks FROM outlast_history h "
        f"JOIN {queues} q ON q.id = h.queue WHERE h.number >= ? ORDER BY h.number",
        (after >> PLACES,),
    )
    for turn, queue, service, at, marks in turns:
        if marks_wanted and not any(mark in marks for mark in marks_wanted):
            continue
        found = connection.execute("SELECT entries FROM outlast_history WHERE number = ?", (turn,)).fetchone()
        for place, line in enumerate(_decode(found[0]) if found else ()):
            number = (turn << PLACES) + place
            is_wanted = not marks_wanted or line.conversation == conversation or (key and line.key == key)
            if number > after and is_wanted:
                packet = line.packet if line.packet is not None else _packet(connection, queue, line.receipt)
                yield (
                    number,
                    Entry(
                        line.conversation,
                        moment(at),
                        service,
                        line.outcome,
                        packet,
                        line.workflow,
                        line.key,
                        line.note,
                        line.receipt,
                    ),
                )


def _packet(connection: sqlite3.Connection, queue: int, receipt: int | None) -> bytes:
    """A packet from a queue's log; empty if the log is not kept that long."""
    found = connection.execute(f"SELECT packet FROM outlast_log_{queue} WHERE id = ?", (receipt,)).fetchone()
    return found[0] if found else b""


def forget(connection: sqlite3.Connection, now: int, until: int, limit: int) -> int:
    """Deletes turns older than this, and what only they refer to in the logs; returns how many turns went.

    Turns are numbered as time goes by, so only the first few are looked at, however long the history is. Those
    that a wrong clock has dated in the future go with the ones after them.
    """
    execute = connection.execute
    gone = execute(
        "DELETE FROM outlast_history WHERE number <= (SELECT max(number) FROM "
        "(SELECT number, at FROM outlast_history WHERE at <= ? ORDER BY number LIMIT ?) WHERE at <= ?)",
        (now, limit, until),
    ).rowcount
    for queue, head in execute("SELECT id, head FROM outlast_queues").fetchall():
        # The last message of a log stays, and with it the knowledge of which ids were used.
        bounds = [head]
        bounds += execute("SELECT min(id) FROM outlast_open WHERE queue = ?", (queue,)).fetchone()
        # A message may be handled long after those behind it, so any turn may be the one that refers back farthest.
        bounds += execute("SELECT min(oldest) FROM outlast_history WHERE queue = ? AND oldest > 0", (queue,)).fetchone()
        first = min(bound for bound in bounds if bound is not None)
        execute(
            f"DELETE FROM outlast_log_{queue} WHERE id IN "
            f"(SELECT id FROM outlast_log_{queue} WHERE id < ? ORDER BY id LIMIT ?)",
            (first, limit * 256),
        )
    return gone
