"""The processes of a shop: started, killed, kept away, and started again when they end, as a service manager does."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from servers.keeper import Keeper

from lab.systems import System
from lab.way import Settings

ROOT = Path(__file__).parents[1]
LOOK_SECONDS = 0.05
START_SECONDS = 60.0


class NotReady(Exception):
    """A program does not come up; the text has the end of its log."""


class Crew:
    """All programs of one system. Leaving it leaves no process behind, nor does the death of this process."""

    def __init__(self, name: str, system: System, settings: Settings) -> None:
        self._name = name
        self._programs = list(system.way.programs)
        self._settings = settings
        self._held: set[str] = set()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._keeper = Keeper(remove=None)
        for program in self._programs:
            self._start(program)
        self._watching = asyncio.create_task(self._watch())
        try:
            await self.until_ready()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        self._keeper.release()

    def pid(self, program: str) -> int:
        return self._processes[program].pid

    def is_ready(self, program: str) -> bool:
        """Whether its process is up and has said that it is ready."""
        process = self._processes[program]
        if process.poll() is not None:
            return False
        try:
            return self._settings.ready_file(program).read_text() == str(process.pid)
        except FileNotFoundError:
            return False

    def kill(self, programs: Iterable[str]) -> None:
        """kill -9; they stay away until `release`."""
        for program in programs:
            self._held.add(program)
            self._processes[program].kill()
            self._processes[program].wait()
            self._keeper.forget(self._processes[program].pid)

    def release(self) -> None:
        """Starts those again that were killed."""
        self._held.clear()

    async def until_ready(self) -> None:
        """Waits until all are. Raises `NotReady` if that takes a minute."""
        try:
            async with asyncio.timeout(START_SECONDS):
                while not all(map(self.is_ready, self._programs)):  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_SECONDS)  # other processes have no event to wait for
        except TimeoutError:
            late = next(program for program in self._programs if not self.is_ready(program))
            log = self._settings.log_file(late).read_text(errors="replace").splitlines()[-20:]
            raise NotReady(f"{late} of {self._name} does not come up:\n" + "\n".join(log)) from None

    async def _watch(self) -> None:
        while True:
            for program, process in list(self._processes.items()):
                if process.poll() is not None and program not in self._held:
                    self._keeper.forget(process.pid)
                    self._start(program)
            await asyncio.sleep(LOOK_SECONDS)

    def _start(self, program: str) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with self._settings.log_file(program).open("ab") as log:
            self._processes[program] = subprocess.Popen(
                [sys.executable, "-m", "lab.program", self._name, program, str(self._settings.directory)],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._keeper.keep(self._processes[program].pid)
