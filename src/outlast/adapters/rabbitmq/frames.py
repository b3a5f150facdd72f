"""The AMQP 0-9-1 frames that carry messages and their confirms, written and read without pika.

They are nearly all of the traffic, and of ever the same few shapes; pika's general way costs several times as much.
It also decodes headers that nobody asked for: one that a foreign client wrote in a way that Python's datetime cannot
hold would end the connection, and again with each redelivery. Here only what is needed is looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

METHOD, HEADER, BODY = 1, 2, 3
END = b"\xce"
BASIC = 60
DELIVER = struct.pack(">HH", BASIC, 60)
ACK = struct.pack(">HH", BASIC, 80)
NACK = struct.pack(">HH", BASIC, 120)

CONTENT_TYPE, HEADERS, DELIVERY_MODE, PRIORITY = 1 << 15, 1 << 13, 1 << 12, 1 << 11
CONTENT_ENCODING, CORRELATION, REPLY_TO, EXPIRATION, MESSAGE_ID = 1 << 14, 1 << 10, 1 << 9, 1 << 8, 1 << 7
JSON = b"\x10application/json"
KEPT, FLEETING = b"\x02", b"\x01"
COUNT = b"\x10x-delivery-count"
NUMBERS = {
    ord(kind): size for kind, size in {"b": 1, "B": 1, "s": 2, "u": 2, "U": 2, "I": 4, "i": 4, "l": 8, "L": 8}.items()
}
LONGEST_NAME = 255
"""Bytes in a queue's name, a topic or an id."""

_frame_head = struct.Struct(">BHI").pack
_content_head = struct.Struct(">BHIHHQH").pack
_settlement = struct.Struct(">BHIHHQBB").pack
_number = struct.Struct(">Q").unpack_from


def short(text: str) -> bytes:
    """A text of at most 255 bytes, as AMQP writes it."""
    encoded = text.encode()
    return bytes((len(encoded),)) + encoded


def publishing(channel: int, exchange: str, routing_key: str, *, mandatory: bool) -> bytes:
    """The frame that says where the message which follows goes. The same for all messages that go there."""
    payload = struct.pack(">HHH", BASIC, 40, 0) + short(exchange) + short(routing_key) + bytes((mandatory,))
    return _frame_head(METHOD, channel, len(payload)) + payload + END


def content(channel: int, id: str, packet: bytes, *, request: str = "", frame_max: int) -> bytes:
    """The frames of one message. The answer to a request is not kept over a restart of the broker."""
    flags = CONTENT_TYPE | DELIVERY_MODE | MESSAGE_ID
    if request:
        flags |= CORRELATION
        properties = JSON + FLEETING + short(request) + short(id)
    else:
        properties = JSON + KEPT + short(id)
    size = len(packet)
    head = _content_head(HEADER, channel, 14 + len(properties), BASIC, 0, size, flags) + properties
    largest = frame_max - 8
    if 0 < size <= largest:
        return b"".join((head, END, _frame_head(BODY, channel, size), packet, END))
    pieces = [head, END]
    for at in range(0, size, largest):
        piece = packet[at : at + largest]
        pieces += (_frame_head(BODY, channel, len(piece)), piece, END)
    return b"".join(pieces)


def acknowledgement(channel: int, number: int, *, multiple: bool) -> bytes:
    """The frame that lets the broker forget a message, or all up to it."""
    return _settlement(METHOD, channel, 13, BASIC, 80, number, multiple, 0xCE)


def rejection(channel: int, number: int) -> bytes:
    """The frame that gives a message back to its queue."""
    return _settlement(METHOD, channel, 13, BASIC, 120, number, 2, 0xCE)


class Confirms:
    """Reads the broker's confirms on one channel: calls `confirmed(number, multiple, refused)`."""

    def __init__(self, confirmed: Callable[[int, bool, bool], None]) -> None:
        self._confirmed = confirmed

    def read(self, kind: int, buffer: bytes, at: int, end: int) -> bool:
        """Whether the frame was one of ours; if not, it is pika's."""
        if kind != METHOD:
            return False
        what = buffer[at : at + 4]
        if what not in (ACK, NACK):
            return False
        [number] = _number(buffer, at + 4)
        self._confirmed(number, bool(buffer[at + 12] & 1), what == NACK)
        return True


class Deliveries:
    """Reads the messages that come on one channel: calls `delivered(number, redelivered, properties, packet)`."""

    def __init__(self, delivered: Callable[[int, bool, bytes, bytes], None]) -> None:
        self._delivered = delivered
        self._number = 0
        self._redelivered = False
        self._properties = b""
        self._missing = 0
        self._pieces: list[bytes] = []

    def read(self, kind: int, buffer: bytes, at: int, end: int) -> bool:
        """Whether the frame was one of ours; if not, it is pika's."""
        if kind == METHOD:
            if buffer[at : at + 4] != DELIVER:
                return False
            at += 5 + buffer[at + 4]
            [self._number] = _number(buffer, at)
            self._redelivered = bool(buffer[at + 8] & 1)
        elif kind == HEADER:
            [self._missing] = _number(buffer, at + 4)
            self._properties = buffer[at + 12 : end]
            if not self._missing:
                self._delivered(self._number, self._redelivered, self._properties, b"")
        elif kind == BODY:
            self._take(buffer[at:end])
        else:
            return False
        return True

    def _take(self, piece: bytes) -> None:
        self._missing -= len(piece)
        if self._missing:
            self._pieces.append(piece)
            return
        if self._pieces:
            self._pieces.append(piece)
            piece = b"".join(self._pieces)
            self._pieces.clear()
        self._delivered(self._number, self._redelivered, self._properties, piece)


def properties_of(data: bytes) -> tuple[str, str, int | None]:
    """A message's id, the request it answers, and how often it was handed over in vain, where the broker counts.

    What cannot be read is empty.
    """
    try:
        return _properties_of(data)
    except (IndexError, struct.error):
        return "", "", None


def _properties_of(data: bytes) -> tuple[str, str, int | None]:
    flags = data[0] << 8 | data[1]
    at = 2
    count = None
    for flag in (CONTENT_TYPE, CONTENT_ENCODING):
        if flags & flag:
            at += 1 + data[at]
    if flags & HEADERS:
        after = at + 4 + int.from_bytes(data[at : at + 4])
        count = _count_in(data[at + 4 : after])
        at = after
    at += bool(flags & DELIVERY_MODE) + bool(flags & PRIORITY)
    request = ""
    if flags & CORRELATION:
        request = _text(data, at)
        at += 1 + data[at]
    for flag in (REPLY_TO, EXPIRATION):
        if flags & flag:
            at += 1 + data[at]
    return (_text(data, at) if flags & MESSAGE_ID else ""), request, count


def _text(data: bytes, at: int) -> str:
    return data[at + 1 : at + 1 + data[at]].decode(errors="backslashreplace")


def _count_in(headers: bytes) -> int | None:
    at = headers.find(COUNT)
    if at < 0:
        return None
    at += len(COUNT)
    return max(0, int.from_bytes(headers[at + 1 : at + 1 + NUMBERS.get(headers[at], 0)], signed=True))
