"""The connection: nats-py connects, encrypts and logs in; what it does for each message is done here, in bulk.

nats-py makes an object, a queue entry and a task switch of each message. We send and read many at a time, so the
reading of messages is replaced, and everything else of its protocol left to it. It is not allowed to reconnect: it
would send again what it had buffered, and forget the pulls. A lost line is thrown away, and a new one is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.errors import Error
from nats.protocol.parser import Parser

from outlast.adapters.nats.place import Place
from outlast.errors import Unavailable

CONNECT_SECONDS = 5
END_SECONDS = 2.0
NEVER_SECONDS = 10**9
"""Of nats-py's own pings: the session looks after the line itself."""


class Frame(NamedTuple):
    """A message as the server sent it."""

    subscription: bytes
    subject: bytes
    reply: bytes
    header: bytes
    payload: bytes


class Frames(Parser):
    """Cuts what was read into messages, and hands over all that are whole at once."""

    def __init__(self, line: Line, deliver: Callable[[Sequence[Frame]], None]) -> None:
        super().__init__(line)  # pyright: ignore[reportUnknownMemberType]  # nats-py's has no annotations
        self._deliver = deliver
        self._parts: list[bytes] = []
        self._missing = 0

    async def parse(self, data: bytes = b"") -> None:
        """Called by nats-py with whatever it has read."""
        self._parts.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return
        data = b"".join(self._parts) if len(self._parts) > 1 else data
        self._missing = 0
        frames: list[Frame] = []
        at = 0
        while (stop := data.find(b"\r\n", at)) >= 0:
            if data.startswith((b"HMSG ", b"MSG "), at):
                words = data[at:stop].split()
                begin, size = stop + 2, int(words[-1])
                end = begin + size
                if end + 2 > len(data):
                    self._missing = end + 2 - len(data)
                    break
                headed = words[0] == b"HMSG"
                body = begin + int(words[-2]) if headed else begin
                reply = words[3] if len(words) == (6 if headed else 5) else b""
                frames.append(Frame(words[2], words[1], reply, data[begin:body], data[body:end]))
                at = end + 2
            else:
                await super().parse(data[at : stop + 2])
                at = stop + 2
        self._parts = [data[at:]] if at < len(data) else []
        # Also if there are none: something was heard.
        self._deliver(frames)


class Line(Client):
    """One connection to one server, until it is lost."""

    def __init__(self, place: Place, deliver: Callable[[Sequence[Frame]], None], ended: Callable[[], None]) -> None:
        super().__init__()
        self._place = place
        self._ended = ended
        self._ps = Frames(self, deliver)
        self.last_words = ""
        """The last error that the server or the system told of."""

    async def open(self, server: str) -> None:
        """Connects and logs in. Raises `Unavailable`."""
        place = self._place
        try:
            async with asyncio.timeout(2 * CONNECT_SECONDS):
                await self.connect(
                    [server],
                    name="outlast",
                    error_cb=self._note,
                    closed_cb=self._tell,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=CONNECT_SECONDS,
                    ping_interval=NEVER_SECONDS,
                    tls=place.encryption(),
                    user=place.user or None,
                    password=place.password or None,
                    token=place.token or None,
                    user_credentials=place.credentials or None,
                )
        except (Error, OSError, ValueError) as error:
            said = self.last_words or str(error) or type(error).__name__
            raise Unavailable(f"connecting to {server} failed: {said}") from error

    @property
    def info(self) -> dict[str, Any]:
        """What the server said about itself."""
        return self._server_info

    def send(self, block: bytes) -> None:
        """Writes whole protocol commands. Raises `Unavailable`."""
        if not self.is_connected or self._transport is None:
            raise Unavailable(f"sending to {self._place.name} failed: the connection is lost.")
        self._transport.write(block)

    async def drain(self) -> None:
        """Waits until the system has taken most of what was sent. Raises `Unavailable`."""
        try:
            if self._transport is not None:
                await self._transport.drain()  # type: ignore[no-untyped-call]  # nats-py's has no annotations
        except OSError as error:
            raise Unavailable(f"sending to {self._place.name} failed: {error}") from error

    async def end(self, *, at_once: bool) -> None:
        """Leaves nothing behind, whatever state it is in. `at_once`: what was not sent yet is thrown away."""
        if at_once:
            self._abort()
        tasks: list[asyncio.Task[Any]] = []
        # What these give is Any in nats-py.
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            tasks += [task] if task is not None else []
        with suppress(Error, OSError):
            async with asyncio.timeout(END_SECONDS):
                await self.close()
        self._abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _abort(self) -> None:
        """Closing in order waits for a peer that may never answer."""
        transport = self._transport
        writer = transport._io_writer if isinstance(transport, TcpTransport) else None  # pyright: ignore[reportPrivateUsage]  # nats-py has no public way
        if writer is not None:
            writer.transport.abort()

    def _connect_command(self) -> bytes:
        # This is the first thing that is said, with the password in it.
        if self._place.is_encrypted and not self._server_info.get("tls_required"):
            raise Error("the URL says tls:// and the server offers no encryption")
        return super()._connect_command()

    async def _note(self, error: Exception) -> None:
        self.last_words = str(error) or type(error).__name__

    async def _tell(self) -> None:
        self._ended()
