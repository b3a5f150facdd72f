"""The three services as processes of their own, which can be killed, stopped and brought back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from examples.shop.clocks import Clocks
from examples.shop.program import TRY_AGAIN, url_of

SERVICES = ("ordering", "payment", "warehouse")
STOP_SECONDS = 40.0
"""A process that is asked to stop may first finish what it is at."""
ROOT = Path(__file__).parents[2]


class Fleet:
    """Processes by name: that of their service, with `.2`, `.3` ... for further ones of the same service.

    Leaving it leaves no process behind.
    """

    def __init__(
        self,
        directory: Path,
        *,
        url: str = "",
        outside: Path | None = None,
        clocks: Clocks | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
        programs: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.directory = directory
        self.url = url or url_of(directory)
        """The engine that the services use."""
        self.outside = outside or directory
        self.clocks = clocks
        self.settings = settings
        """Further variables of the processes' environment."""
        self.programs = programs
        """The modules that services are run from, where they are not called like their service."""
        self.refused_starts = 0
        """How often a process said that it could not begin at the moment, and was started again."""
        self.stuck = 0
        """How many processes did not end when they were asked to, and were killed."""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._pids: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.terminate()
            process.send_signal(signal.SIGCONT)
        for process in self._processes.values():
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in self._pids:
            if self.clocks is not None:
                self.clocks.forget(pid)

    def start(self, name: str) -> None:
        """Starts the program of its service. What it writes goes to a file beside the outside systems' ledgers."""
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {
            **os.environ,
            "SHOP_DIRECTORY": str(self.directory),
            "SHOP_URL": self.url,
            "SHOP_OUTSIDE": str(self.outside),
            "PYTHONPATH": path,
            **self.settings,
            **(self.clocks.environment(name) if self.clocks is not None else {}),
        }
        clocked = ["examples.shop.clocked"] if self.clocks is not None else []
        service = name.partition(".")[0]
        with self._log(name).open("ab") as log:
            process = self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", *clocked, f"examples.shop.{self.programs.get(service, service)}"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._pids.append(process.pid)

    def kill(self, name: str) -> None:
        """kill -9: the process gets no chance to finish or tidy up anything."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def terminate(self, name: str) -> None:
        """Asks the process to stop, and waits until it has; kills it if that takes too long."""
        process = self._processes.pop(name)
        process.terminate()
        try:
            process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.stuck += 1
            process.kill()
            process.wait()

    def freeze(self, name: str) -> None:
        """Stops the process where it is, even in the middle of a transaction; `thaw` lets it go on."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self._processes[name].send_signal(signal.SIGCONT)

    def is_up(self, name: str) -> bool:
        """Its process was started, and has not ended."""
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    def fallen(self) -> list[str]:
        """Those that ended although nobody ended them: a defect."""
        return [name for name, process in self._processes.items() if process.poll() not in (None, TRY_AGAIN)]

    def last_words(self, name: str) -> str:
        """The end of what this process wrote."""
        return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-20:])

    def revive(self) -> None:
        """Starts those again that could not begin, as any service manager would."""
        for name, process in list(self._processes.items()):
            if process.poll() == TRY_AGAIN:
                self.refused_starts += 1
                self.start(name)

    def interruptions(self) -> int:
        """How often a process told that the engine failed it, and went on."""
        logs = [self._log(name).read_text(errors="replace") for name in self._processes]
        return sum(log.count("Interrupted(service=") for log in logs)

    def _log(self, name: str) -> Path:
        return self.outside / f"{name}.log"
