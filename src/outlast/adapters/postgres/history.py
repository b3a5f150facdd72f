"""History, packed: one row per turn, so that writing it costs little, with marks by which entries are found.

A mark is a four-byte checksum of a conversation's id or of an instance's key. The server looks for marks and hands
over only the turns that have one. It takes the packets of what a turn consumes over from the queue by itself.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence, Set
from datetime import datetime
from typing import Any

import msgspec

from outlast.adapters.postgres.schema import array, micros, moment
from outlast.ports import Entry, Receipt

_encode = msgspec.msgpack.Encoder().encode

PLACES = 16
"""Bits for the place of an entry within its turn; the rest of an entry's number is that of the turn."""
YOUNG_MICROSECONDS = 1_000_000
"""A turn that was numbered so long ago is committed, or never will be."""
TURNS_AT_ONCE = 64

Rows = Callable[..., Awaitable[Sequence[Any]]]


class Line(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An entry without what all entries of a turn share, and without the packet if that was in the queue."""

    conversation: str
    outcome: str
    workflow: str
    key: str
    note: str
    receipt: Receipt | None
    packet: bytes


_decode = msgspec.msgpack.Decoder(list[Line]).decode


def row_of(entries: Sequence[Entry], handled: Set[Receipt]) -> tuple[str, int, str, bytes]:
    """The values of one turn's row, without the packets of what it handled."""
    marks = {_mark(entry.conversation) for entry in entries}
    marks |= {_mark(entry.key) for entry in entries if entry.key}
    lines = [
        (e.conversation, e.outcome, e.workflow, e.key, e.note, e.receipt, b"" if e.receipt in handled else e.packet)
        for e in entries
    ]
    last = entries[-1]
    return last.service, micros(last.at), array(marks), _encode(lines)


def _mark(name: str) -> int:
    return zlib.crc32(name.encode()) - (1 << 31)


async def read(
    rows: Rows, *, conversation: str, key: str, after: int, limit: int, now: datetime
) -> list[tuple[int, Entry]]:
    """Numbered entries after number `after`, oldest first; of this conversation and of instances with this key,
    or of all if both are empty.
    """
    marks = [_mark(name) for name in (conversation, key) if name]
    turn, end = after >> PLACES, await _end(rows, micros(now))
    found: list[tuple[int, Entry]] = []
    while len(found) < limit:
        turns = await rows(_MARKED if marks else _ALL, turn, end, TURNS_AT_ONCE, *([marks] if marks else []))
        for number, entry in _entries(turns):
            is_wanted = not marks or entry.conversation == conversation or (key and entry.key == key)
            if is_wanted and number > after:
                found.append((number, entry))
        if len(turns) < TURNS_AT_ONCE:
            break
        turn = turns[-1][0] + 1
    return found[:limit]


async def _end(rows: Rows, now: int) -> int | None:
    """The number before which the list ends: one that a turn has taken that is committing just now.

    Who follows history asks for what comes after the last number that it saw, so none may turn up before that later.
    """
    before: int | None = None
    numbers: list[int] = [number for (number,) in await rows(_YOUNG, now - YOUNG_MICROSECONDS)]
    for number in numbers:
        if before is not None and number != before + 1:
            return number
        before = number
    return None


def _entries(turns: Sequence[Any]) -> Iterator[tuple[int, Entry]]:
    for turn, service, at, lines, ids, packets in turns:
        handled: dict[Receipt | None, bytes] = dict(zip(ids or (), packets or (), strict=True))
        for place, line in enumerate(_decode(lines)):
            yield (
                (turn << PLACES) + place,
                Entry(
                    line.conversation,
                    moment(at),
                    service,
                    line.outcome,
                    line.packet or handled.get(line.receipt, b""),
                    line.workflow,
                    line.key,
                    line.note,
                    line.receipt,
                ),
            )


_YOUNG = """
    SELECT number FROM outlast.history WHERE number >= (SELECT max(number) FROM outlast.history) - 2000
    AND at > $1 ORDER BY number"""
_TURNS = """
    SELECT number, service, at, entries, ids, packets FROM outlast.history
    WHERE number >= $1 AND ($2::bigint IS NULL OR number < $2)"""
_ALL = f"{_TURNS} ORDER BY number LIMIT $3"
_MARKED = f"{_TURNS} AND marks && $4::integer[] ORDER BY number LIMIT $3"

FORGET = """
    DELETE FROM outlast.history WHERE number <= (SELECT max(number) FROM
        (SELECT number, at FROM outlast.history WHERE at <= $1 ORDER BY number LIMIT $3) AS first WHERE at <= $2)
    RETURNING 1"""
"""Turns are numbered as time goes by, so only the first few are looked at, however long the history is. Those that a
wrong clock has dated in the future go with the ones after them."""
