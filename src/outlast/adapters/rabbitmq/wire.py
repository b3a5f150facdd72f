"""pika's connection, made awaitable, with one write for what was said in one step of the event loop."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Protocol

import pika
from pika import frame
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import AMQPError, ChannelClosed, ConnectionClosed

from outlast.adapters.rabbitmq.frames import DELIVER, METHOD
from outlast.adapters.rabbitmq.settings import Host, Settings

CLOSE_SECONDS = 3.0
CONNECT_SECONDS = 5.0
LOOK_SECONDS = 0.005

_pika_log = logging.getLogger("pika")
if _pika_log.level == logging.NOTSET:
    # It writes several lines of errors for each attempt to connect, for as long as an outage lasts. What goes wrong
    # is in `trouble` instead. An application that wants the lines sets a level of its own.
    _pika_log.setLevel(logging.CRITICAL)


class ChannelLost(Exception):
    """A channel is closed: by the broker with a code, or with its connection and code 0."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Reader(Protocol):
    """Reads the frames of one channel before pika does."""

    def read(self, kind: int, buffer: bytes, at: int, end: int) -> bool:
        """Whether this frame was the reader's; if not, it is pika's."""
        ...


class Nobody:
    """Reads past what still comes on a channel that is being closed."""

    def read(self, kind: int, buffer: bytes, at: int, end: int) -> bool:
        return kind != METHOD or buffer[at : at + 4] == DELIVER


class Wire(AsyncioConnection):
    """One connection. It is over when `ended` is, whose result is the reason."""

    def __init__(self, settings: Settings, host: Host) -> None:
        loop = asyncio.get_running_loop()
        self.host = host
        self.ended: asyncio.Future[str] = loop.create_future()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.readers: dict[int, Reader] = {}
        """Who reads the frames of which channel."""
        self.blocked = ""
        """Why the broker does not take messages at the moment; empty when it does."""
        self._unsent: list[bytes] = []
        self._heard = 0
        self._silent_since = loop.time()
        self._watch: asyncio.TimerHandle | None = None
        self._heartbeat = settings.heartbeat
        super().__init__(
            _parameters(settings, host),
            on_open_callback=self._has_opened,
            on_open_error_callback=self._has_ended,
            on_close_callback=self._has_ended,
        )
        self.add_on_connection_blocked_callback(self._has_blocked)
        self.add_on_connection_unblocked_callback(self._has_unblocked)

    @property
    def version(self) -> tuple[int, ...]:
        """The broker's; empty if it is none that we know."""
        said = self.server_properties or {}
        numbers = str(said.get("version", "")).split("-")[0].split(".")
        if said.get("product") != "RabbitMQ" or not all(number.isdigit() for number in numbers):
            return ()
        return tuple(int(number) for number in numbers)

    @property
    def product(self) -> str:
        """What the broker calls itself."""
        said = self.server_properties or {}
        return f"{said.get('product', 'a server without a name')} {said.get('version', '')}".strip()

    def say(self, frames: bytes) -> None:
        """Sends whole frames."""
        if self.is_open:
            self._adapter_emit_data(frames)

    def abort(self, error: Exception) -> None:
        """Ends the connection at once, whatever the other side does. `ended` follows."""
        if self._is_resolving:
            # pika would say that it has ended, and may connect all the same as soon as it has the host's address.
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self.abort, error)
        elif self.is_closed or self._transport is None:
            with suppress(AMQPError):
                self.close()
        else:
            self._terminate_stream(error)

    @property
    def _is_resolving(self) -> bool:
        """It does not know the host's address yet."""
        workflow = self._connection_workflow
        return workflow is not None and workflow._connector is None

    async def end(self) -> None:
        """Ends the connection in order, or at once if the other side does not answer."""
        with suppress(AMQPError):
            self.close()
        await asyncio.wait([self.ended], timeout=CLOSE_SECONDS)
        if not self.ended.done():
            self.abort(AMQPError("the broker did not answer"))
            await asyncio.wait([self.ended], timeout=CLOSE_SECONDS)

    def _adapter_emit_data(self, data: bytes) -> None:
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send)
        self._unsent.append(data)

    def _send(self) -> None:
        data = b"".join(self._unsent)
        self._unsent.clear()
        if self._transport is not None:
            super()._adapter_emit_data(data)

    def _on_data_available(self, data_in: bytes) -> None:
        if not self.readers:
            super()._on_data_available(data_in)
            return
        buffer = self._frame_buffer + data_in
        at, end = 0, len(buffer)
        while end - at >= 8:
            channel = buffer[at + 1] << 8 | buffer[at + 2]
            after = at + 8 + int.from_bytes(buffer[at + 3 : at + 7])
            if after > end:
                break
            reader = self.readers.get(channel)
            if reader is None or not reader.read(buffer[at], buffer, at + 7, after - 1):
                self._process_frame(frame.decode_frame(buffer[at:after])[1])
            at = after
        self.bytes_received += at
        self._frame_buffer = buffer[at:]

    def _has_opened(self, _wire: Any) -> None:
        if not self.opened.done():
            self.opened.set_result(None)
        if self._heartbeat:
            self._watch_out()

    def _has_ended(self, _wire: Any, error: BaseException) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self.readers.clear()
        if not self.ended.done():
            self.ended.set_result(reason(error))
        if not self.opened.done():
            self.opened.cancel()

    def _watch_out(self) -> None:
        """Ends a connection that was silent for nearly two heartbeats; pika itself may take three."""
        loop = asyncio.get_running_loop()
        if self.bytes_received != self._heard:
            self._heard, self._silent_since = self.bytes_received, loop.time()
        elif loop.time() - self._silent_since > 1.5 * self._heartbeat:
            self.abort(AMQPError(f"nothing was heard for {1.5 * self._heartbeat:g} s"))
            return
        self._watch = loop.call_later(self._heartbeat / 4, self._watch_out)

    def _has_blocked(self, _wire: Any, said: Any) -> None:
        self.blocked = str(said.method.reason) or "no reason given"

    def _has_unblocked(self, _wire: Any, _said: Any) -> None:
        self.blocked = ""


async def connect(settings: Settings, host: Host) -> Wire:
    """An open connection to this host. Raises `ChannelLost` with the reason if there is none to be had."""
    wire = Wire(settings, host)
    try:
        await asyncio.wait([wire.opened], timeout=CONNECT_SECONDS)
    except BaseException:
        wire.abort(AMQPError("not wanted any more"))
        await asyncio.wait([wire.ended], timeout=CLOSE_SECONDS)
        raise
    if wire.ended.done():
        raise ChannelLost(0, wire.ended.result())
    if not wire.opened.done():
        # A connection that is reset while it is made may never be told of.
        wire.abort(AMQPError("it does not answer"))
        await asyncio.wait([wire.ended], timeout=CLOSE_SECONDS)
        raise ChannelLost(0, f"it does not answer within {CONNECT_SECONDS:g} s")
    return wire


class Channel:
    """A channel whose calls are awaited. It is over when `ended` is, whose result is the reason."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.ended: asyncio.Future[ChannelLost] = asyncio.get_running_loop().create_future()
        self._channel: Any = None

    @property
    def number(self) -> int:
        return int(self._channel.channel_number)

    async def open(self) -> None:
        """Returns when it can be used. Raises `ChannelLost`."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            self._channel = self.wire.channel(on_open_callback=lambda _: _give(answer, None))
        except AMQPError as error:
            raise ChannelLost(0, reason(error)) from error
        self._channel.add_on_close_callback(self._has_ended)
        await self._either(answer)

    async def call(self, method: str, **arguments: Any) -> Any:
        """What the broker answers to this method of pika's channel. Raises `ChannelLost`."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            getattr(self._channel, method)(**arguments, callback=partial(_give, answer))
        except AMQPError as error:
            raise ChannelLost(0, reason(error)) from error
        return await self._either(answer)

    def on(self, event: str, callback: Any) -> None:
        """Calls back on `cancel` or on `return`."""
        getattr(self._channel, f"add_on_{event}_callback")(callback)

    async def close(self) -> None:
        """Closes it, if it is open."""
        if not self.ended.done():
            with suppress(AMQPError):
                self._channel.close()
            await asyncio.wait([self.ended], timeout=CLOSE_SECONDS)

    def abandon(self, why: str) -> None:
        """It is over at once for us; the broker is told."""
        if self._channel is not None:
            self.wire.readers[self.number] = Nobody()
            with suppress(AMQPError):
                self._channel.close()
        if not self.ended.done():
            self.ended.set_result(ChannelLost(0, why))

    async def _either(self, answer: asyncio.Future[Any]) -> Any:
        await asyncio.wait([answer, self.ended], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise self.ended.result()
        return answer.result()

    def _has_ended(self, _channel: Any, error: BaseException) -> None:
        self.wire.readers.pop(self.number, None)
        if not self.ended.done():
            code = error.reply_code if isinstance(error, ChannelClosed) else 0
            self.ended.set_result(ChannelLost(code, reason(error)))


@asynccontextmanager
async def channel_on(wire: Wire) -> AsyncGenerator[Channel, None]:
    """A channel for a few calls that the broker may answer by closing it."""
    channel = Channel(wire)
    await channel.open()
    try:
        yield channel
    finally:
        await channel.close()


def reason(error: BaseException) -> str:
    """What happened, in the words of whoever knew most."""
    while (inner := _inner(error)) is not None:
        error = inner
    if isinstance(error, (ConnectionClosed, ChannelClosed)):
        return error.reply_text
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _inner(error: BaseException) -> BaseException | None:
    """What an error was made of: pika wraps what happened up to three times."""
    parts: list[Any] = [getattr(error, "exception", None), *getattr(error, "exceptions", ()), *error.args]
    errors = [part for part in parts if isinstance(part, BaseException)]
    return errors[-1] if errors else None


def _give(answer: asyncio.Future[Any], value: Any) -> None:
    if not answer.done():
        answer.set_result(value)


def _parameters(settings: Settings, host: Host) -> Any:
    tls = None
    if settings.tls:
        context: ssl.SSLContext = settings.context()
        tls = pika.SSLOptions(context, host.name)
    return pika.ConnectionParameters(
        host=host.name,
        port=host.port,
        virtual_host=settings.vhost,
        credentials=pika.PlainCredentials(settings.user, settings.password),
        heartbeat=settings.heartbeat,
        ssl_options=tls,
        socket_timeout=CONNECT_SECONDS,
        stack_timeout=1.5 * CONNECT_SECONDS,
        client_properties={"connection_name": "outlast"},
    )
