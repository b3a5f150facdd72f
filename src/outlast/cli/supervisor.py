"""Keeps a number of child processes running: starts those that die again, and passes signals on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress

from outlast.cli.errors import USAGE

SUPERVISOR = "OUTLAST_SUPERVISOR"
"""Tells a child who supervises it, so that it stops when that process is gone."""

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
LONG_ENOUGH = 60.0
"""Seconds after which a child that dies is not held to have failed at its start."""


class Supervisor:
    """`count` processes of one command. `run` ends when all of them have ended after a signal."""

    def __init__(self, command: Sequence[str], *, count: int, say: Callable[[str], None]) -> None:
        self.command = command
        self.count = count
        self.say = say
        self.children: list[asyncio.subprocess.Process] = []
        self.stopping = asyncio.Event()
        self.code = 0

    async def run(self) -> int:
        """Returns 0, or the exit code of a child that found its own arguments wrong."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._pass_on)
        await asyncio.gather(*(self._keep_running(place) for place in range(1, self.count + 1)))
        return self.code

    def _pass_on(self) -> None:
        self.stopping.set()
        for child in self.children:
            _terminate(child)

    async def _keep_running(self, place: int) -> None:
        pause = FIRST_PAUSE
        loop = asyncio.get_running_loop()
        while not self.stopping.is_set():
            began = loop.time()
            code = await self._run_child()
            if self.stopping.is_set():
                return
            if code == USAGE:
                # It would fail in the same way for ever.
                self.code = code
                self._pass_on()
                return
            pause = FIRST_PAUSE if loop.time() - began > LONG_ENOUGH else min(pause * 2, LONGEST_PAUSE)
            self.say(f"worker {place} ended with {_described(code)}; starting it again in {pause:.0f} s")
            await self._wait(pause)

    async def _run_child(self) -> int:
        # A session of its own, or Ctrl-C would reach it twice: from the terminal and from here.
        child = await asyncio.create_subprocess_exec(
            *self.command, start_new_session=True, env={**os.environ, SUPERVISOR: str(os.getpid())}
        )
        self.children.append(child)
        if self.stopping.is_set():
            _terminate(child)
        try:
            return await child.wait()
        finally:
            self.children.remove(child)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        except TimeoutError:
            return


def _terminate(child: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):  # it has ended already, and its end is just not seen yet
        child.terminate()


def _described(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
