"""History, packed: one row per turn, so that writing it costs little, with marks by which to find a conversation.

A mark is a four-byte checksum of a conversation's id. Looking for one conversation reads the marks of every
turn (four bytes a message) and then only the entries of turns that have its mark.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Iterator, Sequence

import msgspec

from outlast.adapters.sqlite.schema import micros
from outlast.ports import Entry

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Entry]).decode

PLACES = 16
"""Bits for the place of an entry within its turn; the rest of an entry's number is that of the turn."""


def write(connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    """Adds the entries of one turn."""
    checksum = zlib.crc32
    marks = struct.pack(f"<{len(entries)}I", *[checksum(entry.conversation.encode()) for entry in entries])
    connection.execute(
        "INSERT INTO outlast_history (at, marks, entries) VALUES (?, ?, ?)",
        (micros(entries[-1].at), marks, _encode(entries)),
    )


def read(connection: sqlite3.Connection, *, conversation: str, after: int) -> Iterator[tuple[int, Entry]]:
    """Numbered entries after number `after`, oldest first; of one conversation, or of all if it is empty."""
    mark = struct.pack("<I", zlib.crc32(conversation.encode())) if conversation else b""
    turns = connection.execute(
        "SELECT number, marks FROM outlast_history WHERE number >= ? ORDER BY number", (after >> PLACES,)
    )
    for turn, marks in turns:
        if mark not in marks:
            continue
        found = connection.execute("SELECT entries FROM outlast_history WHERE number = ?", (turn,)).fetchone()
        for place, entry in enumerate(_decode(found[0]) if found else ()):
            number = (turn << PLACES) + place
            if number > after and conversation in ("", entry.conversation):
                yield number, entry
