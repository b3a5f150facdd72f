"""Telling each other: who listens is told by NOTIFY, and by the advisory lock that it holds it is known to live.

NOTIFY never runs in a turn's transaction, whose commit would then wait for every other that does the same. It is a
hint: whoever misses one polls.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from hashlib import blake2s
from typing import Any

from outlast.adapters.postgres.connections import ANSWER_SECONDS, OwnConnection, Places, closed
from outlast.adapters.postgres.schema import lock_class, within
from outlast.errors import Unavailable

CHECK_SECONDS = 10.0
PAUSE_SECONDS_MAX = 5.0
NUMBERS = 1 << 31


def channel_of(schema: str, name: str) -> str:
    """The channel on which it is told that there is something for `name`; PostgreSQL allows 63 bytes."""
    plain = f"{schema}.{name}"
    return plain if len(plain.encode()) < 64 else f"outlast.{blake2s(plain.encode(), digest_size=16).hexdigest()}"


class Listening:
    """A connection that is told, and that holds our lock. One task keeps it: when it is lost it is opened anew."""

    def __init__(
        self, connect: Callable[[], Awaitable[OwnConnection]], *, schema: str, token: str, dice: Callable[[], float]
    ) -> None:
        self._connect = connect
        self._schema = schema
        self._token = token
        self._dice = dice
        self._notify: dict[str, list[Callable[[], None]]] = defaultdict(list)
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._holds = False
        self.number: int | None = None
        """Under which this process is known to the others, once it holds a lock."""
        self.on_return: Callable[[], Awaitable[None]] | None = None
        """Called when the lock is held again after the connection was lost."""

    def listen(self, name: str, notify: Callable[[], None]) -> None:
        """Calls `notify` when someone rings for `name`, from soon on."""
        self._notify[name].append(notify)
        self._start()

    def told(self, names: Iterable[str]) -> None:
        """Tells those who listen within this process."""
        for name in names:
            for notify in self._notify.get(name, ()):
                notify()

    async def hold(self) -> int:
        """Makes this process known under a number, and returns it. Raises `Unavailable`."""
        if self.number is None:
            self._holds = True
            self._start()
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting
        assert self.number is not None
        return self.number

    async def close(self) -> None:
        """Ends it, and with it the lock."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _start(self) -> None:
        self._changed.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._supervise(), name="outlast listens")

    async def _supervise(self) -> None:
        pause = 0.0
        while True:
            connection: OwnConnection | None = None
            try:
                connection = await self._connect()
                connection.add_termination_listener(self._was_lost)
                await self._attend(connection)
                pause = 0.0
            except Exception as error:  # whatever it is, it is tried again, and those who poll lose nothing
                self._fail(error)
            finally:
                if connection is not None:
                    await closed(connection)
            pause = min(max(0.05, pause * 2), PAUSE_SECONDS_MAX)
            await asyncio.sleep(pause * (0.5 + self._dice()))

    def _was_lost(self, connection: object) -> None:
        self._changed.set()

    async def _attend(self, connection: OwnConnection) -> None:
        """Listens until the connection is lost."""
        heard: set[str] = set()
        holds = False
        while not connection.is_closed():
            self._changed.clear()
            if self._holds and not holds:
                await self._take_lock(connection)
                holds = True
            for name in [name for name in self._notify if name not in heard]:
                await connection.add_listener(channel_of(self._schema, name), self._hears(name))
                heard.add(name)
                self.told([name])  # what came before it was listened for
            self._succeed()
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._changed.wait()
                continue
            await connection.fetchval("SELECT 1", timeout=ANSWER_SECONDS)

    def _hears(self, name: str) -> Callable[..., None]:
        def heard(connection: Any, process: int, channel: str, token: str) -> None:
            if token != self._token:
                self.told([name])

        return heard

    async def _take_lock(self, connection: OwnConnection) -> None:
        """Holds the lock of our number; the first time, of a number that nobody has or had."""
        is_new = self.number is None
        number = int(self._dice() * NUMBERS) if self.number is None else self.number
        while not await connection.fetchval(within(self._schema, _TAKE), lock_class(self._schema), number, is_new):
            if not is_new:
                raise Unavailable(f"taking the lock of worker {number} again failed: its last connection still has it.")
            number = (number + 1) % NUMBERS
        self.number = number
        if not is_new and self.on_return is not None:
            await self.on_return()

    def _succeed(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting = []

    def _fail(self, error: Exception) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                known = isinstance(error, Unavailable)
                waiting.set_exception(error if known else Unavailable(f"listening to the database failed: {error}"))
        self._waiting = []


_TAKE = """
    SELECT CASE WHEN $3::boolean AND EXISTS (SELECT 1 FROM outlast.workers WHERE number = $2::integer) THEN false
           ELSE pg_try_advisory_lock($1::integer, $2::integer) END"""


class Errands:
    """What is said to the others without waiting for it: rings, and notes of what a turn is about.

    While one is under way those that come up are gathered, so a busy process says little more than an idle one.
    """

    def __init__(self, places: Places, *, schema: str, token: str) -> None:
        self._places = places
        self._schema = schema
        self._token = token
        self._rings: set[str] = set()
        self._notes: dict[int, tuple[int, int]] = {}
        self._number = 0
        self._connection: OwnConnection | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Has a connection at hand from now on: a note is in time only if it leaves before what it is about begins."""
        if self._connection is None:
            connection = self._connection = await self._places.take()
            # The driver asks the server about a statement the first time, which takes longer than to die.
            await connection.fetch(within(self._schema, _NOTE_AND_RING), [], self._token, 0, [], [], [])

    def ring(self, names: Iterable[str]) -> None:
        """Wakes the other processes that listen for one of these names."""
        self._rings.update(names)
        self._start()

    def note(self, number: int, queue: int, first: int, last: int) -> None:
        """Notes under our number which messages of a queue turns are about.

        A turn that dies with its process leaves nothing in the tables, so nothing else tells which messages may have
        killed it. No note is made of its end: what it was about is then gone, or claimed.
        """
        self._number = number
        self._notes[queue] = (first, last)
        self._start()

    async def close(self) -> None:
        """Waits until everything is said, but not for long."""
        task = self._task
        if task is not None:
            await asyncio.wait([task], timeout=1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._connection is not None:
            self._places.give_back(self._connection)

    def _start(self) -> None:
        if self._task is None and (self._rings or self._notes):
            self._task = asyncio.get_running_loop().create_task(self._run(), name="outlast tells others")

    async def _run(self) -> None:
        with suppress(Exception):  # it was a hint, and those who poll lose nothing
            kept, self._connection = self._connection, None
            connection = kept or await self._places.take()
            try:
                while self._rings or self._notes:
                    rings, self._rings = sorted(self._rings), set()
                    notes, self._notes = self._notes, {}
                    await connection.fetch(
                        within(self._schema, _NOTE_AND_RING if notes else _RING),
                        [channel_of(self._schema, name) for name in rings],
                        self._token,
                        *([self._number, list(notes), *map(list, zip(*notes.values(), strict=True))] if notes else []),
                        timeout=ANSWER_SECONDS,
                    )
            finally:
                if kept is not None and not connection.is_closed():
                    self._connection = connection
                else:
                    self._places.give_back(connection)
        self._task = None


_RING = "SELECT pg_notify(c, $2::text) FROM unnest($1::text[]) AS c"
_NOTE_AND_RING = f"""
    WITH noted AS (
        INSERT INTO outlast.workers (number, queue, first, last)
        SELECT $3::bigint, n.queue, n.first, n.last
        FROM unnest($4::integer[], $5::bigint[], $6::bigint[]) AS n (queue, first, last)
        ON CONFLICT (number, queue) DO UPDATE SET first = excluded.first, last = excluded.last)
    {_RING}"""
