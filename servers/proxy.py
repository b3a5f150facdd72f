"""A faulty network: a TCP proxy before a server, whose faults are switched on and off while clients talk.

It never loses or swaps bytes within a connection, since TCP does not: a connection can be slow, be silent, be chopped
into small pieces or end at any byte, and bytes that were held back arrive when the silence ends.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

from servers.connection import Connection, Cut, Direction, Faults, Trigger, end_by_reset
from servers.server import free_port

__all__ = ["Direction", "Proxy", "Trigger"]

BACKLOG = 128
ANSWER_SECONDS = 10.0

Answer = TypeVar("Answer")


class Proxy:
    """Listens at a port of its own and passes on to the server of the given URL.

    `async with` runs it on the loop of the caller; `with` in a thread of its own, for callers whose loop is busy or
    that have none. Either way each method has taken effect when it returns, and any thread may call it in the latter.
    """

    def __init__(self, url: str) -> None:
        self._server = urlsplit(url)
        if not self._server.hostname or not self._server.port:
            raise ValueError(f"A proxy before {url!r}: the URL must name a host and a port.")
        self._address = (self._server.hostname, self._server.port)
        self.port = free_port()
        self._faults = Faults()
        self._accepted = 0
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The server's URL, by way of this proxy."""
        user, at, _ = self._server.netloc.rpartition("@")
        return urlunsplit(self._server._replace(netloc=f"{user}{at}127.0.0.1:{self.port}"))

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return self._do(lambda: len(self._connections))

    @property
    def accepted(self) -> int:
        """How many connections there were so far."""
        return self._accepted

    def cut(self) -> None:
        """Resets every connection, for the client and for the server, in the middle of whatever it was saying."""
        self._do(lambda: self._each(Connection.reset))

    def close(self) -> None:
        """Ends every connection in order: both sides read to the end of what was passed on so far."""
        self._do(lambda: self._each(Connection.close))

    def refuse(self, on: bool) -> None:
        """Refuses new connections, as a machine without that server does. Those there are stay."""
        self._do(self._stop_listening if on else self._listen)

    def black_hole(self, on: bool, direction: Direction | None = None) -> None:
        """Passes nothing on, one way or both: not even that the other side has gone. The end of it lets all through."""
        ways = [direction] if direction else list(Direction)
        self._change(lambda faults: faults.silent.update(ways) if on else faults.silent.difference_update(ways))

    def delay(self, seconds: float) -> None:
        """Makes what is said from now on take so much longer each way; 0 ends it."""
        self._change(lambda faults: setattr(faults, "delay", seconds))

    def limit(self, bytes_per_second: int | None) -> None:
        """Passes on so much each way of each connection, and no more; None ends it."""
        self._change(lambda faults: setattr(faults, "bytes_per_second", bytes_per_second))

    def slice(self, on: bool = True) -> None:
        """Passes everything on in pieces of one to ten bytes."""
        self._change(lambda faults: setattr(faults, "sliced", on))

    def cut_after(self, what: bytes | int, direction: Direction = Direction.TO_SERVER, *, times: int = 1) -> Trigger:
        """Cuts the connection on which these bytes pass, or that has passed so many, right after them.

        To the byte: a server that needs more, be it a closing zero, has not heard the whole. What it did hear it reads
        to the end, and its answers reach nobody.
        """
        return self._arm(Trigger(what, direction, Cut.AFTER, times=times))

    def cut_before(self, what: bytes, direction: Direction = Direction.TO_SERVER, *, times: int = 1) -> Trigger:
        """Cuts the connection on which these bytes come, before they pass: nobody hears them."""
        return self._arm(Trigger(what, direction, Cut.BEFORE, times=times))

    def cut_answer(self, what: bytes, *, times: int = 1) -> Trigger:
        """Cuts the connection on which a client says this when the server answers, and keeps the answer back.

        What was asked for has then happened, and the client cannot know. Of several requests on their way at once it is
        the first answer that is kept back.
        """
        return self._arm(Trigger(what, Direction.TO_SERVER, Cut.AT_THE_ANSWER, times=times))

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_listening()
        while self._tasks or self._connections:
            self._each(Connection.reset)
            for task in list(self._tasks):
                task.cancel()
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # for the last of what the connections were doing
        self._loop = None

    def __enter__(self) -> Self:
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), name="proxy", daemon=True)
        self._thread.start()
        ready.result(ANSWER_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._thread is not None
        self._do(self._ended.set)
        self._thread.join(ANSWER_SECONDS)
        self._thread = None

    async def _serve(self, ready: Future[None]) -> None:
        self._ended = asyncio.Event()
        try:
            await self.__aenter__()
        except OSError as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        await self._ended.wait()
        await self.__aexit__(None, None, None)

    def _do(self, action: Callable[[], Answer]) -> Answer:
        """Carries this out on the proxy's loop, and waits for it if that runs in another thread."""
        if self._loop is None or self._thread is None or self._thread is threading.current_thread():
            return action()
        answer: Future[Answer] = Future()

        def act() -> None:
            try:
                answer.set_result(action())
            except BaseException as error:
                answer.set_exception(error)

        self._loop.call_soon_threadsafe(act)
        return answer.result(ANSWER_SECONDS)

    def _arm(self, trigger: Trigger) -> Trigger:
        self._do(lambda: self._faults.triggers.append(trigger))
        return trigger

    def _each(self, action: Callable[[Connection], None]) -> None:
        for connection in list(self._connections):
            action(connection)

    def _change(self, change: Callable[[Faults], object]) -> None:
        def act() -> None:
            change(self._faults)
            self._each(Connection.faults_changed)

        self._do(act)

    def _listen(self) -> None:
        assert self._loop is not None
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=BACKLOG)
            self._listener.setblocking(False)
            self._loop.add_reader(self._listener, self._accept)

    def _stop_listening(self) -> None:
        assert self._loop is not None
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self) -> None:
        assert self._listener is not None
        assert self._loop is not None
        with suppress(BlockingIOError):
            client, _ = self._listener.accept()
            self._accepted += 1
            task = self._loop.create_task(self._join(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _join(self, client: socket.socket) -> None:
        """Connects this client with the server; a client that the server does not want is reset."""
        loop = asyncio.get_running_loop()
        connection = Connection(self._faults, ended=self._connections.discard)
        try:
            await loop.create_connection(lambda: connection.server, *self._address)
            await loop.connect_accepted_socket(lambda: connection.client, client)
        except BaseException as error:
            connection.reset()
            end_by_reset(client)
            client.close()
            if not isinstance(error, OSError):
                raise
            return
        self._connections.add(connection)
        connection.begin()
