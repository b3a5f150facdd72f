"""One connection as long as it lasts: questions and their answers, and the watch over a server that falls silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from outlast.adapters.nats.line import Frame, Line
from outlast.adapters.nats.place import Place
from outlast.errors import OutlastError, Unavailable

ANSWERS = b"1"
HEARTBEAT_SECONDS = 5.0
"""After twice as long without a word from the server it is taken for dead."""

Sink = Callable[[Sequence[Frame]], None]
encode = msgspec.json.Encoder().encode


NEVER = (10074,)
"""More replicas than the server can make: said as an error of the server's own, and it stays."""


class Refused(OutlastError):
    """JetStream answered with an error."""

    def __init__(self, asked: str, error: dict[str, Any]) -> None:
        super().__init__(f"{asked}: JetStream says {error.get('description', 'nothing more')!r}")
        self.code: int = error.get("err_code", 0)
        self.is_passing = error.get("code") in (429, 500, 503) and self.code not in NEVER
        """It may well succeed later."""


class Absent(OutlastError):
    """Nobody listens at that subject."""


class Tally:
    """So many answers are awaited."""

    __slots__ = ("answers", "future", "missing")

    def __init__(self, missing: int) -> None:
        self.missing = missing
        self.answers: list[Frame] = []
        self.future: asyncio.Future[list[Frame]] = asyncio.get_running_loop().create_future()

    def add(self, frame: Frame) -> None:
        self.answers.append(frame)
        self.missing -= 1
        if self.missing == 0 and not self.future.done():
            self.future.set_result(self.answers)


class Session:
    """Talks over one line. Nothing of it survives the line."""

    def __init__(self, place: Place, *, inbox: str, lost: Callable[[], None]) -> None:
        self.place = place
        self.line = Line(place, self._read, self._line_ended)
        self.is_lost = False
        self.why_lost = ""
        self.heard_at = asyncio.get_running_loop().time()
        self.server_id = ""
        self.size_max = 0
        """Of a message with its headers."""
        self._lost = lost
        self._inbox = f"_INBOX.{inbox}".encode()
        self._tallies: dict[bytes, Tally] = {}
        self._sinks: dict[bytes, Sink] = {}
        self._number = 1
        self._silent_seconds = 0.0

    async def open(self, server: str) -> None:
        """Connects. Raises `Unavailable`."""
        await self.line.open(server)
        self.server_id = str(self.line.info.get("server_id", ""))
        self.size_max = int(self.line.info.get("max_payload", 0))
        self.heard_at = asyncio.get_running_loop().time()
        self.line.send(b"SUB %b.* %b\r\n" % (self._inbox, ANSWERS))

    def subscribe(self, subject: str, sink: Sink) -> bytes:
        """Everything that comes at the subject goes to the sink; returns what `unsubscribe` wants."""
        self._number += 1
        number = b"%d" % self._number
        self._sinks[number] = sink
        self.line.send(b"SUB %b %b\r\n" % (subject.encode(), number))
        return number

    def unsubscribe(self, number: bytes) -> None:
        """No more comes. What is under way still reaches the sink."""
        if not self.is_lost:
            self.line.send(b"UNSUB %b\r\n" % number)

    def new_subject(self) -> str:
        """A subject that nobody else uses."""
        self._number += 1
        return f"{self._inbox.decode()}.s.{self._number}"

    async def ask(self, subject: str, question: Any = None) -> Any:
        """The answer of the JetStream API. Raises `Refused`, `Absent` or `Unavailable`."""
        body = b"" if question is None else encode(question)
        [frame] = await self.exchange(
            lambda reply: b"PUB $JS.API.%b %b %d\r\n%b\r\n" % (subject.encode(), reply, len(body), body), 1, subject
        )
        if not frame.payload:
            raise Absent(f"{subject}: nobody answers on {self.place.name}.")
        answer = msgspec.json.decode(frame.payload)
        if "error" in answer:
            raise Refused(subject, answer["error"])
        return answer

    async def exchange(self, block: Callable[[bytes], bytes], answers: int, what: str) -> list[Frame]:
        """Sends what `block` makes of a reply subject, and waits for so many answers. Raises `Unavailable`."""
        if self.is_lost:
            raise Unavailable(f"{what}: the connection to {self.place.name} was lost: {self.why_lost}.")
        self._number += 1
        key = b"%d" % self._number
        tally = self._tallies[key] = Tally(answers)
        limit = self.place.publish_timeout_seconds
        try:
            async with asyncio.timeout(limit):
                self.line.send(block(b"%b.%b" % (self._inbox, key)))
                await self.line.drain()
                return await tally.future
        except TimeoutError:
            said = f" The server said: {self.line.last_words}." if self.line.last_words else ""
            raise Unavailable(f"{what}: no answer from {self.place.name} in {limit:g} s.{said}") from None
        finally:
            del self._tallies[key]

    async def round_trip(self) -> None:
        """Returns when the server has read all that was sent. Raises `Unavailable`."""
        await self.exchange(lambda reply: b"PUB %b 0\r\n\r\n" % reply, 1, "waiting for an echo")

    def tick(self, seconds: float) -> None:
        """Time has passed. Counts ticks and not the clock: if this process was halted, the server is not to blame."""
        if self.is_lost:
            return
        before, self._silent_seconds = self._silent_seconds, self._silent_seconds + seconds
        if self._silent_seconds >= 2 * HEARTBEAT_SECONDS:
            self.fail(f"the server has not said a word for {2 * HEARTBEAT_SECONDS:g} s")
        elif self._silent_seconds >= HEARTBEAT_SECONDS > before:
            self.line.send(b"PING\r\n")

    def fail(self, why: str) -> None:
        """This connection is good for nothing any more."""
        if self.is_lost:
            return
        self.is_lost = True
        self.why_lost = why
        for tally in self._tallies.values():
            if not tally.future.done():
                tally.future.set_exception(Unavailable(f"the connection to {self.place.name} was lost: {why}."))
        self._lost()

    async def end(self) -> None:
        """Lets go of the connection."""
        at_once = self.is_lost
        self.fail("it was closed")
        await self.line.end(at_once=at_once)

    def _line_ended(self) -> None:
        self.fail(str(self.line.last_error or self.line.last_words or "the server closed it"))

    def _read(self, frames: Sequence[Frame]) -> None:
        self._silent_seconds = 0.0
        self.heard_at = asyncio.get_running_loop().time()
        sorted_out: dict[bytes, list[Frame]] = {}
        for frame in frames:
            if frame.subscription == ANSWERS:
                tally = self._tallies.get(frame.subject.rpartition(b".")[2])
                if tally is not None:
                    tally.add(frame)
            else:
                sorted_out.setdefault(frame.subscription, []).append(frame)
        for number, some in sorted_out.items():
            self._sinks[number](some)
