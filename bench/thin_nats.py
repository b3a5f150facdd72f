"""A thin NATS JetStream connection for the hand-written limit: what NATS can do when the client costs next to nothing.

A batch is one write to the socket, an atomic batch in the server and one future for its one acknowledgement;
deliveries wait in a list. No reconnecting, no TLS, no cluster: this is a measuring instrument.
"""

from __future__ import annotations

import asyncio
import json
import os
from urllib.parse import urlsplit

# An atomic batch has a fixed cost in the server, a single message an fsync of its own: they meet near here.
WORTH_A_BATCH = 8


class Connection(asyncio.Protocol):
    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.inbox = b"_INBOX." + os.urandom(8).hex().encode()
        self.buffer = b""
        self.ready, self.closed = loop.create_future(), loop.create_future()
        self.replies: dict[bytes, tuple[asyncio.Future, list[int]]] = {}
        self.asked = 0
        self.deliveries: list[tuple[object, bytes]] = []
        self.arrived = asyncio.Event()
        self.next_request, self.prefetch, self.expected = b"", 0, 0

    @classmethod
    async def open(cls, url: str) -> Connection:
        parts = urlsplit(url)
        _, self = await asyncio.get_running_loop().create_connection(cls, parts.hostname, parts.port or 4222)
        options = b'{"verbose":false,"headers":true,"no_responders":true,"lang":"outlast-limit","version":"0"}'
        self.transport.write(b"CONNECT %s\r\nSUB %s.> 1\r\nPING\r\n" % (options, self.inbox))
        await self.ready
        return self

    def reply_to(self, acknowledgements: int) -> tuple[bytes, asyncio.Future]:
        """A subject for so many replies, and the future of the last of them."""
        self.asked += 1
        name = b"%d" % self.asked
        future = asyncio.get_running_loop().create_future()
        self.replies[name] = future, [acknowledgements]
        return b"%s.%s" % (self.inbox, name), future

    async def call(self, subject: str, request: dict[str, object] | None = None) -> dict[str, object]:
        reply, future = self.reply_to(1)
        body = json.dumps(request).encode() if request is not None else b""
        self.transport.write(b"PUB $JS.API.%s %s %d\r\n%s\r\n" % (subject.encode(), reply, len(body), body))
        return await future

    async def consume(self, stream: str, durable: str, *, prefetch: int) -> None:
        config = {"durable_name": durable, "ack_policy": "all", "ack_wait": 60_000_000_000, "max_ack_pending": 50_000}
        await self.call(f"CONSUMER.CREATE.{stream}.{durable}", {"stream_name": stream, "config": config})
        self.next_request = f"PUB $JS.API.CONSUMER.MSG.NEXT.{stream}.{durable} ".encode()
        self.prefetch = prefetch
        self.ask_for_more()

    def ask_for_more(self) -> None:
        """Keeps the server's permission to deliver between half the prefetch and all of it."""
        free = self.prefetch - self.expected - len(self.deliveries)
        if 2 * free >= self.prefetch:
            body = b'{"batch":%d,"expires":60000000000}' % free
            self.transport.write(b"%s%s.next %d\r\n%s\r\n" % (self.next_request, self.inbox, len(body), body))
            self.expected += free

    async def receive(self, most: int) -> list[tuple[object, bytes]]:
        if not self.deliveries:
            self.arrived.clear()
            await self.arrived.wait()
            if self.closed.done():
                raise ConnectionError("The connection was closed while it waited for messages.")
        taken, self.deliveries = self.deliveries[:most], self.deliveries[most:]
        self.ask_for_more()
        return taken

    def acknowledge(self, tag: object) -> None:
        self.transport.write(b"PUB %s 4\r\n+ACK\r\n" % tag)

    def publish_to(self, subject: bytes, bodies: list[bytes]) -> asyncio.Future:
        """Done when the stream has all of them on its disk."""
        if len(bodies) < WORTH_A_BATCH:
            reply, future = self.reply_to(len(bodies))
            self.transport.write(
                b"".join([b"PUB %s %s %d\r\n%s\r\n" % (subject, reply, len(body), body) for body in bodies])
            )
            return future
        reply, future = self.reply_to(1)
        batch, last = os.urandom(8).hex().encode(), len(bodies)
        pieces = []
        for number, body in enumerate(bodies, 1):
            head = b"NATS/1.0\r\nNats-Batch-Id: %s\r\nNats-Batch-Sequence: %d\r\n" % (batch, number)
            head += b"Nats-Batch-Commit: 1\r\n\r\n" if number == last else b"\r\n"
            to = reply if number == last else b""
            pieces.append(b"HPUB %s %s %d %d\r\n%s%s\r\n" % (subject, to, len(head), len(head) + len(body), head, body))
        self.transport.write(b"".join(pieces))
        return future

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
        position = 0
        while (line_end := buffer.find(b"\r\n", position)) >= 0:
            after = line_end + 2
            words = buffer[position:line_end].split()
            if words[0] in (b"MSG", b"HMSG"):
                after += int(words[-1]) + 2
                if after > len(buffer):
                    break
                self.message(words, buffer[line_end + 2 : after - 2])
            elif words[0] == b"PING":
                self.transport.write(b"PONG\r\n")
            elif words[0] == b"PONG":
                self.ready.set_result(None)
            elif words[0] == b"INFO":
                self.server = json.loads(buffer[position + 5 : line_end])["version"]
            elif words[0] == b"-ERR":
                raise ConnectionError(f"NATS says {buffer[position:line_end]!r}.")
            position = after
        self.buffer = buffer[position:]

    def message(self, words: list[bytes], content: bytes) -> None:
        headed = words[0] == b"HMSG"
        head, body = (content[: int(words[-2])], content[int(words[-2]) :]) if headed else (b"", content)
        if len(words) == (6 if headed else 5):
            self.expected -= 1
            self.deliveries.append((words[3], body))
            self.arrived.set()
        elif words[1].endswith(b".next"):
            raise ConnectionError(f"A request for messages ended early: {head!r}")
        else:
            self.replied(words[1].rpartition(b".")[2], head, body)

    def replied(self, name: bytes, head: bytes, body: bytes) -> None:
        future, left = self.replies[name]
        left[0] -= 1
        answer = json.loads(body) if body else {"error": head.decode()}
        if "error" in answer and not future.done():
            future.set_exception(ConnectionError(f"NATS answers {answer['error']!r}."))
        if not left[0]:
            del self.replies[name]
            if not future.done():
                future.set_result(answer)
