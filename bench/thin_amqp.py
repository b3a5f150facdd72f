"""A thin AMQP 0-9-1 connection for the hand-written limit: what RabbitMQ can do when the client costs next to nothing.

A batch is one write to the socket and one future for all its confirms; deliveries wait in a list. The rare methods
are pika's, the frames of the hot path are made and read by hand. No heartbeats, no recovery, no flow control, no
bodies over the frame size: this is a measuring instrument.
"""

from __future__ import annotations

import asyncio
import collections
import struct
from urllib.parse import unquote, urlsplit

import pika.frame
import pika.spec as amqp

METHOD, HEADER, BODY = 1, 2, 3
DELIVER, ACK, NACK = b"\0\x3c\0\x3c", b"\0\x3c\0\x50", b"\0\x3c\0\x78"
frame_head = struct.Struct(">BHI")
tag_at = struct.Struct(">Q").unpack_from
tag_and_flag_at = struct.Struct(">QB").unpack_from
ack_frame = struct.Struct(">BHI4sQBB").pack

# Class basic, no weight, the size of the body, only the delivery mode given: persistent. Then the body's frame begins.
header_frame = struct.Struct(">BHIHHQHBBBHI").pack


class Connection(asyncio.Protocol):
    """One connection with one channel, in confirm mode."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.buffer = b""
        self.replies: asyncio.Queue[amqp.Method] = asyncio.Queue()
        self.deliveries: list[tuple[object, bytes]] = []
        self.arrived = asyncio.Event()
        self.closed = loop.create_future()
        self.tag, self.size, self.parts = 0, 0, b""
        self.published = self.confirmed = 0
        self.early: set[int] = set()
        self.waiting: collections.deque[tuple[int, asyncio.Future[None]]] = collections.deque()
        self.publish_frames: dict[str, bytes] = {}

    @classmethod
    async def open(cls, url: str) -> Connection:
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        _, self = await loop.create_connection(cls, parts.hostname, parts.port or 5672)
        self.transport.write(b"AMQP\0\0\x09\x01")
        start = await self.replies.get()
        self.server = str(start.server_properties["version"])
        user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
        capabilities = {"capabilities": {"publisher_confirms": True, "basic.nack": True}}
        self.write(amqp.Connection.StartOk(capabilities, "PLAIN", f"\0{user}\0{password}", "en_US"), channel=0)
        tune = await self.replies.get()
        self.write(amqp.Connection.TuneOk(tune.channel_max, tune.frame_max, 0), channel=0)
        await self.call(amqp.Connection.Open(unquote(parts.path[1:]) or "/"), channel=0)
        await self.call(amqp.Channel.Open())
        await self.call(amqp.Confirm.Select())
        return self

    def write(self, method: amqp.Method, *, channel: int = 1) -> None:
        self.transport.write(pika.frame.Method(channel, method).marshal())

    async def call(self, method: amqp.Method, *, channel: int = 1) -> amqp.Method:
        self.write(method, channel=channel)
        reply = await self.replies.get()
        if isinstance(reply, amqp.Connection.Close | amqp.Channel.Close):
            raise ConnectionError(f"RabbitMQ closed on {method.NAME}: {reply.reply_text}")
        return reply

    async def declare(self, queue: str) -> None:
        await self.call(amqp.Queue.Declare(queue=queue, durable=True, arguments={"x-queue-type": "quorum"}))

    async def delete(self, queue: str) -> None:
        await self.call(amqp.Queue.Delete(queue=queue))

    async def consume(self, queue: str, *, prefetch: int) -> None:
        await self.call(amqp.Basic.Qos(prefetch_count=prefetch))
        await self.call(amqp.Basic.Consume(queue=queue, consumer_tag="limit"))

    async def receive(self, most: int) -> list[tuple[object, bytes]]:
        if not self.deliveries:
            self.arrived.clear()
            await self.arrived.wait()
            if self.closed.done():
                raise ConnectionError("The connection was closed while it waited for messages.")
        taken, self.deliveries = self.deliveries[:most], self.deliveries[most:]
        return taken

    def acknowledge(self, tag: object) -> None:
        self.transport.write(ack_frame(METHOD, 1, 13, ACK, tag, 1, 0xCE))

    def publish_to(self, messages: list[tuple[str, bytes]]) -> asyncio.Future[None]:
        """Messages as queue and body; done when all of them are confirmed."""
        pieces = []
        for queue, body in messages:
            method = self.publish_frames.get(queue)
            if method is None:
                method = pika.frame.Method(1, amqp.Basic.Publish(exchange="", routing_key=queue)).marshal()
                self.publish_frames[queue] = method
            size = len(body)
            pieces += (method, header_frame(HEADER, 1, 15, 60, 0, size, 0x1000, 2, 0xCE, BODY, 1, size), body, b"\xce")
        self.transport.write(b"".join(pieces))
        self.published += len(messages)
        confirms = asyncio.get_running_loop().create_future()
        self.waiting.append((self.published, confirms))
        return confirms

    async def close(self) -> None:
        self.transport.close()
        await self.closed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set_result(None)
        self.arrived.set()

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer + data if self.buffer else data
        position, end = 0, len(buffer)
        while end - position >= 8:
            kind, _, size = frame_head.unpack_from(buffer, position)
            start, after = position + 7, position + 8 + size
            if after > end:
                break
            if kind == BODY:
                self.part(buffer[start : start + size])
            elif kind == HEADER:
                (self.size,) = tag_at(buffer, start + 4)
            elif kind == METHOD:
                self.method(buffer, position, start, after)
            position = after
        self.buffer = buffer[position:]

    def method(self, buffer: bytes, position: int, start: int, after: int) -> None:
        name = buffer[start : start + 4]
        if name == DELIVER:
            (self.tag,) = tag_at(buffer, start + 5 + buffer[start + 4])
        elif name == ACK:
            self.confirm(*tag_and_flag_at(buffer, start + 4))
        elif name == NACK:
            raise ConnectionError("RabbitMQ refused a message.")
        else:
            _, frame = pika.frame.decode_frame(buffer[position:after])
            self.replies.put_nowait(frame.method)

    def part(self, piece: bytes) -> None:
        self.parts = self.parts + piece if self.parts else piece
        if len(self.parts) == self.size:
            self.deliveries.append((self.tag, self.parts))
            self.parts = b""
            self.arrived.set()

    def confirm(self, tag: int, multiple: int) -> None:
        """Confirms may overtake each other; a batch is confirmed when all up to its last message are."""
        if multiple:
            self.confirmed = max(self.confirmed, tag)
            self.early = {early for early in self.early if early > tag}
        else:
            self.early.add(tag)
        while self.early and self.confirmed + 1 in self.early:
            self.confirmed += 1
            self.early.discard(self.confirmed)
        while self.waiting and self.waiting[0][0] <= self.confirmed:
            self.waiting.popleft()[1].set_result(None)
