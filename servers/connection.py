"""One proxied connection: two ends, two ways, and what the faults in force do to the bytes on each way."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

MOST_HELD = 1 << 20
"""So many bytes of a way are held back; what follows stays with its sender, as behind a slow network."""
PIECES_PER_SECOND = 100
RESET = struct.pack("ii", 1, 0)


def end_by_reset(own: socket.socket) -> None:
    """Makes its closing a reset, by which the peer sees that this was no orderly end."""
    own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


class Direction(Enum):
    """One of the two ways of a connection."""

    TO_SERVER = auto()
    TO_CLIENT = auto()


class Ending(Enum):
    """How a way ends, after all its bytes."""

    CLOSED = auto()
    RESET = auto()


class Cut(Enum):
    """Where a trigger cuts, given what it waits for."""

    BEFORE = auto()
    AFTER = auto()
    AT_THE_ANSWER = auto()


class Trigger:
    """Cuts a connection once, when these bytes, or so many, have passed on it."""

    def __init__(self, what: bytes | int, direction: Direction, cut: Cut, *, times: int) -> None:
        self.what = what
        self.direction = direction
        self.cut = cut
        self.fired = False
        """Whether it has cut a connection."""
        self._times = times

    def place(self, data: bytes, *, tail: bytes, passed: int) -> int | None:
        """Where in the data to cut, given what passed before it."""
        if isinstance(self.what, int):
            return max(self.what - passed, 0) if passed + len(data) >= self.what else None
        tail = tail[len(tail) - len(self.what) + 1 :] if len(tail) >= len(self.what) else tail
        start, both = 0, tail + data
        while (found := both.find(self.what, start)) >= 0:
            start = found + len(self.what)
            self._times -= 1
            if self._times <= 0:
                return max((found if self.cut is Cut.BEFORE else start) - len(tail), 0)
        return None


@dataclass
class Faults:
    """What is wrong with the network now."""

    silent: set[Direction] = field(default_factory=set[Direction])
    delay: float = 0.0
    bytes_per_second: int | None = None
    sliced: bool = False
    triggers: list[Trigger] = field(default_factory=list[Trigger])

    def slow(self, direction: Direction) -> bool:
        """Whether bytes of this way may have to wait."""
        return bool(direction in self.silent or self.delay or self.bytes_per_second or self.sliced)


class Connection:
    """A client and the server, joined; `ended` is called when both ends are closed."""

    def __init__(self, faults: Faults, *, ended: Callable[[Connection], None]) -> None:
        self.faults = faults
        self.has_begun = False
        self.cut_at_answer: Trigger | None = None
        """Waits for the server's next word."""
        self._ended = ended
        to_server, to_client = Way(self, Direction.TO_SERVER), Way(self, Direction.TO_CLIENT)
        self.ways = (to_server, to_client)
        self.client = End(self, incoming=to_server, outgoing=to_client)
        self.server = End(self, incoming=to_client, outgoing=to_server)
        to_server.source, to_server.target = self.client, self.server
        to_client.source, to_client.target = self.server, self.client

    def begin(self) -> None:
        """Both ends are there: lets the bytes pass."""
        self.has_begun = True
        self.faults_changed()

    def faults_changed(self) -> None:
        """Goes on by the faults that are in force now."""
        for way in self.ways:
            way.faults_changed()

    def reset(self) -> None:
        """Breaks both ends off."""
        self.client.reset()
        self.server.reset()

    def close(self) -> None:
        """Ends both ends in order."""
        self.client.close()
        self.server.close()

    def abandon_client(self) -> None:
        """Breaks the client off; lets the server read all that was passed on, answer nobody, and leave."""
        self.client.reset()
        self.server.end_writing()

    def fire(self, trigger: Trigger) -> None:
        """Cuts as the trigger says; what has passed to the server is left for it to carry out."""
        if trigger.direction is Direction.TO_SERVER and trigger.cut is not Cut.BEFORE:
            self.abandon_client()
        else:
            self.reset()
        trigger.fired = True

    def end_ended(self) -> None:
        """One end is closed."""
        if self.client.is_over and self.server.is_over:
            for way in self.ways:
                way.stop()
            self._ended(self)


class Way:
    """The bytes from one end to the other: passed on at once, or held while a fault says so."""

    source: End
    target: End

    def __init__(self, connection: Connection, direction: Direction) -> None:
        self._connection = connection
        self._faults = connection.faults
        self._direction = direction
        self._held: deque[tuple[float, memoryview | Ending]] = deque()
        self._held_bytes = 0
        self._passed = 0
        self._tail = b""
        self._target_full = False
        self._changed = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None

    def take(self, item: bytes | Ending) -> None:
        """Something comes from the source."""
        if not self._held and self._connection.has_begun and not self._faults.slow(self._direction):
            self._pass_on(item)
            return
        due = asyncio.get_running_loop().time() + self._faults.delay
        if isinstance(item, Ending):
            self._held.append((due, item))
        else:
            self._held.append((due, memoryview(item)))
            self._held_bytes += len(item)
        self._regulate()
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._empty())

    def target_full(self, full: bool) -> None:
        """The target does not take more for the moment, or does again."""
        self._target_full = full
        self._regulate()

    def faults_changed(self) -> None:
        """Looks again at what it holds, and whether it should."""
        self._changed.set()
        self._changed = asyncio.Event()
        self._regulate()

    def stop(self) -> None:
        """Both ends are gone."""
        if self._pump is not None:
            self._pump.cancel()

    def _is_silent(self) -> bool:
        return self._direction in self._faults.silent or not self._connection.has_begun

    def _regulate(self) -> None:
        full = self._target_full and not self.target.is_over
        self.source.read(not full and self._held_bytes < MOST_HELD)

    async def _empty(self) -> None:
        """Passes on what is held, piece by piece, each when its time has come."""
        loop = asyncio.get_running_loop()
        while self._held:
            due, item = self._held[0]
            if self._is_silent():
                await self._changed.wait()
            elif (early := due - loop.time()) > 0:
                await asyncio.sleep(early)
            elif isinstance(item, Ending):
                self._held.popleft()
                self._pass_on(item)
            else:
                piece = self._piece(item)
                self._held[0] = (due, item[len(piece) :])
                self._held_bytes -= len(piece)
                if len(piece) == len(item):
                    self._held.popleft()
                self._pass_on(bytes(piece))
                self._regulate()
                rate = self._faults.bytes_per_second
                await asyncio.sleep(len(piece) / rate if rate else 0)
        self._pump = None

    def _piece(self, data: memoryview) -> memoryview:
        """So much of it as passes at once."""
        if self._faults.sliced:
            return data[: random.randint(1, 10)]
        rate = self._faults.bytes_per_second
        return data[: max(rate // PIECES_PER_SECOND, 1)] if rate else data

    def _pass_on(self, item: bytes | Ending) -> None:
        match item:
            case Ending.RESET:
                self.target.reset()
            case Ending.CLOSED:
                self.target.end_writing()
            case _:
                if not self._cut_here(item):
                    self.target.write(item)
                    self._passed += len(item)

    def _cut_here(self, data: bytes) -> bool:
        """Cuts the connection within this data, if a trigger wants that."""
        awaiting = self._connection.cut_at_answer
        if awaiting is not None and self._direction is not awaiting.direction:
            self._connection.cut_at_answer = None
            self._connection.fire(awaiting)
            return True
        if not self._faults.triggers:
            return False
        for trigger in [trigger for trigger in self._faults.triggers if trigger.direction is self._direction]:
            place = trigger.place(data, tail=self._tail, passed=self._passed)
            if place is None:
                continue
            self._faults.triggers.remove(trigger)
            if trigger.cut is Cut.AT_THE_ANSWER:
                self._connection.cut_at_answer = trigger
                continue
            self.target.write(data[:place])
            self._connection.fire(trigger)
            return True
        patterns = [len(trigger.what) for trigger in self._faults.triggers if isinstance(trigger.what, bytes)]
        longest = max(patterns, default=1) - 1
        self._tail = (self._tail + data)[-longest:] if longest else b""
        return False


class End(asyncio.Protocol):
    """Where the connection meets the client, or the server."""

    def __init__(self, connection: Connection, *, incoming: Way, outgoing: Way) -> None:
        self.is_over = False
        self._connection = connection
        self._incoming = incoming
        self._outgoing = outgoing
        self._transport: asyncio.Transport | None = None
        self._is_reading = True
        self._has_heard_end = False
        self._has_said_end = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.read(False)  # until the other end is there too

    def data_received(self, data: bytes) -> None:
        self._incoming.take(data)

    def eof_received(self) -> bool:
        self._has_heard_end = True
        self._incoming.take(Ending.CLOSED)
        return not self._has_said_end  # the other way may have more to say

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_over = True
        self._outgoing.faults_changed()  # nobody receives: what comes need not be held back
        self._incoming.take(Ending.RESET if exc is not None else Ending.CLOSED)
        self._connection.end_ended()

    def pause_writing(self) -> None:
        self._outgoing.target_full(True)

    def resume_writing(self) -> None:
        self._outgoing.target_full(False)

    def read(self, on: bool) -> None:
        """Takes what comes, or leaves it with its sender."""
        if self._transport is None or self._transport.is_closing() or on is self._is_reading:
            return
        self._is_reading = on
        if on:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def end_writing(self) -> None:
        """Says that no more comes; what was written is still delivered."""
        if self._transport is None or self._transport.is_closing():
            return
        self._has_said_end = True
        if self._has_heard_end:
            self._transport.close()
        else:
            self._transport.write_eof()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Breaks off at once, whatever is on its way."""
        if self._transport is not None and not self._transport.is_closing():
            end_by_reset(self._transport.get_extra_info("socket"))
            self._transport.abort()
