"""What the three private servers have in common: starting, waiting until they answer, and every way of ending."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import psutil

from servers.keeper import Keeper

START_SECONDS = 60.0
STOP_SECONDS = 30.0
LOOK_SECONDS = 0.01
PORTS = range(10240, 32768)
"""Below those that the system gives to outgoing connections: such a port could be taken while its server is down."""


class NotInstalled(Exception):
    """The server's program is not on this machine; the message says how to get it."""


class ServerError(Exception):
    """A server did not do what it was asked; the message has the end of its log."""


def free_port() -> int:
    """A port of this machine at which nobody listens."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as attempt, suppress(OSError):
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind(("127.0.0.1", port))
            return port


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs; one that only waits for its parent to notice its end does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Server(ABC):
    """One private server. Its port and its data stay the same from one `start` to the next; `close` removes it.

    Without a directory it makes one of its own, and removes it at the end. `settings` are further lines for the
    server's own configuration file. Entering it starts it; leaving it ends its processes, whatever state they are in;
    if this program is killed, they end a second later.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[int] = signal.SIGTERM

    def __init__(self, directory: Path | None = None, *, settings: Sequence[str] = ()) -> None:
        self.settings = settings
        self.port = free_port()
        self._given = directory
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: Keeper | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect to."""

    @abstractmethod
    def is_up(self) -> bool:
        """Whether it answers now; a paused server does not."""

    @abstractmethod
    def _prepare(self) -> None:
        """Makes the files it needs, before its first start."""

    @abstractmethod
    def _command(self) -> list[str]:
        """The command that becomes the server's own process."""

    @property
    def directory(self) -> Path:
        """Where its data and its log are."""
        if self._directory is None:
            raise ServerError(f"{self.name} has no directory yet: start it first.")
        return self._directory

    @property
    def pid(self) -> int:
        """The process id of the server as a whole."""
        if self._process is None:
            raise ServerError(f"{self.name} is not running.")
        return self._process.pid

    def start(self) -> None:
        """Returns when the server answers."""
        if self._process is not None and self._process.poll() is None:
            raise ServerError(f"{self.name} is running already.")
        self.kill()
        if self._directory is None:
            self._directory = self._make_directory()
            self._keeper = Keeper(remove=None if self._given else self._directory)
            self._prepare()
        self._process = self._run(self._command())
        self._wait_until_up()

    def stop(self) -> None:
        """Ends it in order, as an operator would; kills it if that takes longer than half a minute."""
        if self._process is not None and self._process.poll() is None:
            self.go_on()
            self._process.send_signal(self.stop_signal)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Ends all its processes at once, as a machine that goes down does. What it has not synced is lost."""
        if self._process is None:
            return
        processes = self._processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._has_ended(self._process)
        while any(is_alive(process) for process in processes):
            time.sleep(LOOK_SECONDS)
        self._process = None

    def pause(self) -> None:
        """Halts all its processes: connections stay open, and nobody answers."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def go_on(self) -> None:
        """Ends a pause."""
        for process in reversed(self._processes()):
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def close(self) -> None:
        """Kills what runs, and removes its directory unless that was given."""
        self.kill()
        if self._directory is not None and self._given is None:
            shutil.rmtree(self._directory, ignore_errors=True)
        if self._keeper is not None:
            self._keeper.release()
        self._directory = self._keeper = None

    def log_end(self, lines: int = 25) -> str:
        """The last lines that the server wrote."""
        log = self.directory / "log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"

    def _make_directory(self) -> Path:
        if self._given is not None:
            self._given.mkdir(parents=True, exist_ok=True)
            return self._given.resolve()
        made = Path(tempfile.mkdtemp(prefix=f"outlast-{type(self).__name__.lower()}-")).resolve()
        made.chmod(0o711)  # a server that runs as another user passes through
        return made

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Starts a process of this server, in a session of its own, so that Ctrl-C in a terminal passes it by."""
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self._user(),
                group=self._group(),
                extra_groups=None if self._user() is None else [],
            )
        if self._keeper is not None:
            self._keeper.keep(process.pid)
        return process

    def _has_ended(self, process: subprocess.Popen[bytes]) -> None:
        """Waits for a process of `_run` that was told to end."""
        process.wait()
        if self._keeper is not None:
            self._keeper.forget(process.pid)

    def _environment(self) -> Mapping[str, str] | None:
        """The variables of its processes; none: those of this program."""
        return None

    def _user(self) -> int | None:
        """Whom it runs as; none: as this program."""
        return None

    def _group(self) -> int | None:
        return None

    def _processes(self) -> list[psutil.Process]:
        """The server's process, then its children: halted in this order, it has no time to make another child."""
        if self._process is None or self._process.poll() is not None:
            return []
        try:
            server = psutil.Process(self._process.pid)
            return [server, *server.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.is_up():
            status = self._process and self._process.poll()
            if status is not None:
                raise ServerError(f"{self.name} ended at its start with status {status}. Its log:\n{self.log_end()}")
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{self.name} does not answer at port {self.port} after {START_SECONDS:g} seconds. "
                    f"Its log:\n{self.log_end()}"
                )
            time.sleep(LOOK_SECONDS)
