"""The same wire on pika's AsyncioConnection, to see how much of the distance to the limit is the client library's."""

from __future__ import annotations

import asyncio
import collections
import functools

import pika
from pika.adapters.asyncio_connection import AsyncioConnection

from bench.limit_broker import QUEUES, Outgoing

PERSISTENT = pika.BasicProperties(delivery_mode=2)


class OneWrite(AsyncioConnection):
    """Sends what was written in one turn of the event loop at once, in one system call.

    Left alone, pika makes three of them for each message.
    """

    waiting: list[bytes] | None = None

    def _adapter_emit_data(self, data: bytes) -> None:
        if self.waiting is None:
            self.waiting = []
            asyncio.get_running_loop().call_soon(self.flush)
        self.waiting.append(data)

    def flush(self) -> None:
        data, self.waiting = b"".join(self.waiting or ()), None
        if not self.is_closed:
            super()._adapter_emit_data(data)


class PikaWire:
    """One connection with one channel, in confirm mode."""

    def __init__(self) -> None:
        self.deliveries: list[tuple[object, bytes]] = []
        self.arrived = asyncio.Event()
        self.published = self.confirmed = 0
        self.early: set[int] = set()
        self.waiting: collections.deque[tuple[int, asyncio.Future[None]]] = collections.deque()

    @classmethod
    async def open(cls, url: str) -> PikaWire:
        self, loop = cls(), asyncio.get_running_loop()
        opened, in_channel, confirming = loop.create_future(), loop.create_future(), loop.create_future()
        self.closed = loop.create_future()
        self.connection = OneWrite(
            pika.URLParameters(url),
            on_open_callback=opened.set_result,
            on_open_error_callback=lambda _, error: opened.set_exception(error),
            on_close_callback=lambda *_: self.closed.set_result(None),
        )
        await opened
        self.connection.channel(on_open_callback=in_channel.set_result)
        self.channel = await in_channel
        self.channel.confirm_delivery(self.confirm, callback=confirming.set_result)
        await confirming
        return self

    async def consume(self, queue: str, *, prefetch: int) -> None:
        limited, consuming = asyncio.get_running_loop().create_future(), asyncio.get_running_loop().create_future()
        self.channel.basic_qos(prefetch_count=prefetch, callback=limited.set_result)
        await limited
        self.channel.basic_consume(queue, self.deliver, callback=consuming.set_result)
        await consuming

    def deliver(self, _channel: object, method: pika.spec.Basic.Deliver, _properties: object, body: bytes) -> None:
        self.deliveries.append((method.delivery_tag, body))
        self.arrived.set()

    async def receive(self, most: int) -> list[tuple[object, bytes]]:
        if not self.deliveries:
            self.arrived.clear()
            await self.arrived.wait()
        taken, self.deliveries = self.deliveries[:most], self.deliveries[most:]
        return taken

    def acknowledge(self, tag: object) -> None:
        self.channel.basic_ack(tag, multiple=True)

    def publish(self, messages: list[Outgoing]) -> asyncio.Future[None]:
        send = functools.partial(self.channel.basic_publish, "", properties=PERSISTENT)
        for queue, body in messages:
            send(QUEUES[queue], body)
        self.published += len(messages)
        confirms = asyncio.get_running_loop().create_future()
        self.waiting.append((self.published, confirms))
        return confirms

    def confirm(self, frame: pika.frame.Method) -> None:
        method = frame.method
        if not isinstance(method, pika.spec.Basic.Ack):
            raise ConnectionError("RabbitMQ refused a message.")
        if method.multiple:
            self.confirmed = max(self.confirmed, method.delivery_tag)
            self.early = {early for early in self.early if early > self.confirmed}
        else:
            self.early.add(method.delivery_tag)
        while self.early and self.confirmed + 1 in self.early:
            self.confirmed += 1
            self.early.discard(self.confirmed)
        while self.waiting and self.waiting[0][0] <= self.confirmed:
            self.waiting.popleft()[1].set_result(None)

    async def close(self) -> None:
        self.connection.close()
        await self.closed
