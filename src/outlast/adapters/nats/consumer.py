"""Pulling from one consumer: so much at a time, and again whenever the server may have forgotten that we asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from outlast.adapters.nats.line import Frame
from outlast.adapters.nats.names import ID_HEADER, from_header_value, receiver_in
from outlast.adapters.nats.session import HEARTBEAT_SECONDS, Session, encode
from outlast.ports import Arrival

PULL_SECONDS = 60.0
"""After this the server forgets a pull that it could not fill."""

ID_LINE = b"\r\n" + ID_HEADER + b":"


class Tag:
    """One message that the server waits to hear of."""

    __slots__ = ("consumer", "subject", "told_at")

    def __init__(self, consumer: Consumer, subject: bytes, told_at: float) -> None:
        self.consumer = consumer
        self.subject = subject
        """Where to say what has become of it."""
        self.told_at = told_at
        """When the server last heard of it."""


class Consumer:
    """What one process gets of one consumer. It outlives the connection; what it holds may outlive it too."""

    def __init__(self, stream: str, name: str, arrived: Callable[[Sequence[Arrival]], None], *, held_max: int) -> None:
        self.stream = stream
        self.name = name
        self.held: set[Tag] = set()
        self.is_broken = False
        """The server has no such consumer, as far as we can tell."""
        self._arrived = arrived
        self._held_max = held_max
        """Messages that are held and not acknowledged, at most."""
        self._session: Session | None = None
        self._subscription = b""
        self._inbox = ""
        self._is_stopped = False
        self._missing = 0
        """What of the present pull has not come yet."""
        self._silent_seconds = 0.0
        self._time = asyncio.get_running_loop().time

    def resume(self, session: Session) -> None:
        """Pulls over this connection from now on."""
        if session is not self._session:
            self._session = session
            self._inbox = session.new_subject()
            self._subscription = session.subscribe(self._inbox, self._read)
        self.is_broken = False
        self._missing = 0
        self._pull()

    def stop(self) -> None:
        """Asks for no more. What was asked for still arrives."""
        self._is_stopped = True

    def pause(self) -> None:
        """Takes no more. What is under way within the server is handed over again when it has lost patience."""
        if self._session is not None:
            self._session.unsubscribe(self._subscription)
        self._session = None

    def let_go(self, tags: Iterable[Tag]) -> list[Tag]:
        """Those of them that were held; they are not any more."""
        mine = [tag for tag in tags if tag in self.held]
        self.held.difference_update(mine)
        self._pull()
        return mine

    def tick(self, seconds: float) -> None:
        """Time has passed: a pull of which nothing is heard is asked for anew."""
        if self._missing:
            self._silent_seconds += seconds
            if self._silent_seconds >= 2 * HEARTBEAT_SECONDS:
                self.is_broken = True
        else:
            self._pull()

    def quiet_since(self, moment: float) -> list[Tag]:
        """What is held and of which the server has not heard since then."""
        return [tag for tag in self.held if tag.told_at < moment]

    def _pull(self) -> None:
        """Asks for as much as there is room for, unless a pull is open, or too little room to bother."""
        room = self._held_max - len(self.held)
        if self._missing or self._is_stopped or self.is_broken or room < self._held_max // 4:
            return
        if self._session is None or self._session.is_lost:
            return
        self._missing = room
        self._silent_seconds = 0.0
        question: dict[str, Any] = {
            "batch": room,
            "expires": int(PULL_SECONDS * 10**9),
            "idle_heartbeat": int(HEARTBEAT_SECONDS * 10**9),
        }
        body = encode(question)
        self._session.line.send(
            b"PUB $JS.API.CONSUMER.MSG.NEXT.%b %b %d\r\n%b\r\n"
            % (f"{self.stream}.{self.name}".encode(), self._inbox.encode(), len(body), body)
        )

    def _read(self, frames: Sequence[Frame]) -> None:
        self._silent_seconds = 0.0
        now = self._time()
        arrivals: list[Arrival] = []
        for frame in frames:
            if frame.reply.startswith(b"$JS.ACK."):
                arrivals.append(self._arrival(frame, now))
            else:
                self._status(frame)
        if arrivals:
            self._missing = max(0, self._missing - len(arrivals))
            self.held.update(arrival.tag for arrival in arrivals)
            self._arrived(arrivals)
        self._pull()

    def _arrival(self, frame: Frame, now: float) -> Arrival:
        words = frame.reply.split(b".")
        # $JS.ACK.[domain.account.]stream.consumer.delivered.sequence.delivery.time.pending[.token]
        first = 4 if len(words) > 9 else 2
        delivered = int(words[first + 2])
        at = frame.header.find(ID_LINE)
        id = frame.header[at + len(ID_LINE) : frame.header.find(b"\r\n", at + 2)].strip() if at >= 0 else b""
        id = id.removesuffix(b"@" + receiver_in(frame.subject))
        # Nobody gave it an id. Its place and time are the same at every delivery, and never those of another.
        name = from_header_value(id) if id else b":".join((words[first], words[first + 3], words[first + 5])).decode()
        return Arrival(name, frame.payload, delivered - 1, Tag(self, frame.reply, now))

    def _status(self, frame: Frame) -> None:
        """A word of the server about the pull. All but a heartbeat mean that it is over."""
        status = frame.header[9:12]
        if status == b"100":
            return
        self._missing = 0
        if status != b"408" and status != b"404":
            # Deleted, shut down, led by another server, never there: to be looked at before the next pull.
            self.is_broken = True
