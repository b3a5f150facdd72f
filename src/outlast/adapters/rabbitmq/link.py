"""Keeps one connection to the broker: whatever ends it, the next one is made, never more than one attempt a second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from outlast.adapters.rabbitmq.settings import Settings
from outlast.adapters.rabbitmq.topology import known_version
from outlast.adapters.rabbitmq.wire import ChannelLost, Wire, connect
from outlast.errors import Misuse, Unavailable
from outlast.ports import World

SHORTEST_PAUSE = 0.2
LONGEST_PAUSE = 3.0
STEADY_SECONDS = 10.0
"""A connection that lived so long was a good one: what ends it is a new outage."""


class Pause:
    """How long to wait before trying again: longer each time, and never as long as another process does."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._failures = 0
        self._since = 0.0

    def began(self) -> None:
        """Something seems to work."""
        self._since = asyncio.get_running_loop().time()

    def seconds(self) -> float:
        """It has failed, again or after a steady time."""
        if self._since and asyncio.get_running_loop().time() - self._since > STEADY_SECONDS:
            self._failures = 0
        self._since = 0.0
        longest = min(LONGEST_PAUSE, SHORTEST_PAUSE * 4.0**self._failures)
        self._failures = min(self._failures + 1, 10)
        return longest * (0.5 + self._world.dice())


class Link:
    """A connection that comes back. `keep` is given each one, restores what is to be on it, and returns at its end."""

    def __init__(self, settings: Settings, world: World, keep: Callable[[Wire], Awaitable[None]]) -> None:
        self.settings = settings
        self.wire: Wire | None = None
        self.trouble = ""
        self._troubled_since = ""
        self._up = asyncio.Event()
        self.misuse: Misuse | None = None
        """Why there will be no connection as things are: the server is none of ours."""
        self._keep = keep
        self._world = world
        self._task: asyncio.Task[None] | None = None
        self._next_host = 0

    def start(self) -> None:
        """Begins to connect, once."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def wire_in_time(self) -> Wire:
        """The connection. Raises `Unavailable` if there is none soon."""
        if self.wire is not None and self.wire.ended.done():
            self._up.clear()
        if self.wire is None or not self._up.is_set():
            try:
                async with asyncio.timeout(self.settings.confirm_timeout):
                    await self._up.wait()
            except TimeoutError:
                trouble = self.trouble or "it does not answer"
                raise Unavailable(f"{self.settings} cannot be used: {trouble}.") from None
        assert self.wire is not None
        return self.wire

    async def close(self) -> None:
        """Ends the connection, and makes no other."""
        if self._task is None:
            return
        while not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1)
        if self.wire is not None and not self.wire.ended.done():
            await self.wire.end()
        self.wire = None

    def note(self, trouble: str) -> None:
        """What does not work now; since when something did not, stays in the text. Empty: all is well."""
        if not self.trouble:
            self._troubled_since = f"{self._world.now():%Y-%m-%d %H:%M:%S} UTC"
        self.trouble = f"{trouble}, since {self._troubled_since}" if trouble else ""

    async def _run(self) -> None:
        pause = Pause(self._world)
        while True:
            host = self.settings.hosts[self._next_host % len(self.settings.hosts)]
            why = ""
            try:
                self.wire = await connect(self.settings, host)
                known_version(self.wire)
                pause.began()
                self.note("")
                self.misuse = None
                self._up.set()
                await self._keep(self.wire)
            except ChannelLost as error:
                why = error.text
            except Misuse as error:
                self.misuse, why = error, str(error).rstrip(".")
            except Exception as error:  # whatever it is, a process that consumes no more must not look healthy
                why = f"{type(error).__name__}: {error}"
            finally:
                self._up.clear()
            if self.wire is not None:
                await self.wire.end()
                why = why or self.wire.ended.result()
            self.wire = None
            self._next_host += 1
            self.note(f"no connection to {host}: {why}")
            await asyncio.sleep(pause.seconds())
