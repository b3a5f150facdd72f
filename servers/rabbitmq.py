"""A private RabbitMQ, from the operating system's package (`make services` installs it)."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from servers.server import LOOK_SECONDS, STOP_SECONDS, NotInstalled, Server, ServerError, free_port

DEBIAN = Path("/usr/lib/rabbitmq/bin")
"""Here are the plain scripts; those on Debian's path insist on the system's user and directories."""
GREETING = b"AMQP\x00\x00\x09\x01"
ENOUGH_MEMORY = "0.4"
TOO_LITTLE_MEMORY = "0.00001"


def installed_scripts() -> Path:
    """The folder of `rabbitmq-server` and `rabbitmqctl`; raises NotInstalled."""
    if (DEBIAN / "rabbitmq-server").exists():
        return DEBIAN
    found = shutil.which("rabbitmq-server")
    if found is None or shutil.which("epmd") is None:
        raise NotInstalled("RabbitMQ is not installed: make services")
    return Path(found).parent


def quoted(text: str) -> str:
    """This text as an Erlang binary."""
    return f"<<{json.dumps(text, ensure_ascii=True)}>>"


class RabbitMQ(Server):
    """A RabbitMQ node with a name, a name server and a cookie of its own, without plug-ins, that `guest` may enter."""

    name: ClassVar[str] = "RabbitMQ"

    def __init__(self, directory: Path | None = None, *, settings: Sequence[str] = ()) -> None:
        super().__init__(directory, settings=settings)
        self._node_port = free_port()
        self._names_port = free_port()
        self._names: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.url_of("%2F")

    def url_of(self, vhost: str) -> str:
        """Where clients of this virtual host connect to."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{vhost}"

    @property
    def node(self) -> str:
        """The node's Erlang name."""
        return f"outlast{self.port}@localhost"

    def is_up(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(GREETING)
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    def start(self) -> None:
        installed_scripts()
        super().start()

    def close(self) -> None:
        self.kill()
        if self._names is not None:
            self._names.kill()
            self._has_ended(self._names)
            self._names = None
        super().close()

    def alarm(self, on: bool) -> None:
        """Raises or clears the memory alarm, in which RabbitMQ stops reading from connections that publish."""
        watermark = TOO_LITTLE_MEMORY if on else ENOUGH_MEMORY
        self.evaluate(f"vm_memory_monitor:set_vm_memory_high_watermark({watermark})")
        deadline = time.monotonic() + STOP_SECONDS
        while (self.evaluate("rabbit_alarm:get_alarms()") != "[]") != on:
            if time.monotonic() > deadline:
                raise ServerError(f"RabbitMQ's memory alarm cannot be turned {'on' if on else 'off'}.")
            time.sleep(LOOK_SECONDS)

    def delete_queue(self, name: str, *, vhost: str = "/") -> None:
        """Removes a queue and what is in it, whoever consumes from it."""
        resource = f"rabbit_misc:r({quoted(vhost)}, queue, {quoted(name)})"
        self.evaluate(
            f"{{ok, Queue}} = rabbit_amqqueue:lookup({resource}), "
            'rabbit_amqqueue:delete(Queue, false, false, <<"operator">>)'
        )

    def close_connections(self) -> None:
        """Closes every client's connection, as an operator does: with a reason, by the protocol."""
        self.evaluate(
            '[rabbit_networking:close_connection(C, "by an operator") || C <- rabbit_networking:connections()]'
        )

    def sync(self) -> None:
        """Writes down which quorum queues there are, which RabbitMQ does only seconds after a queue is declared.

        A queue that is not in that list when the server is killed does not come back to life, whatever was confirmed.
        """
        self.evaluate("[ok = dets:sync(Table) || Table <- dets:all()]")

    def add_vhost(self, name: str) -> str:
        """Makes an empty virtual host, and returns its URL."""
        everything = '<<".*">>, <<".*">>, <<".*">>, <<"operator">>'
        self.evaluate(
            f'rabbit_vhost:add({quoted(name)}, <<"operator">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, {quoted(name)}, {everything})'
        )
        return self.url_of(name)

    def delete_vhost(self, name: str) -> None:
        """Removes a virtual host with its queues and its connections."""
        self.evaluate(f'rabbit_vhost:delete({quoted(name)}, <<"operator">>)')

    def evaluate(self, expression: str) -> str:
        """The value of an Erlang expression, evaluated in the server."""
        quick = shutil.which("erl_call")
        if quick is None:
            return self.control("eval", f"{expression}.").strip()
        answer = self._call([quick, "-n", self.node, "-e"], words=f"{expression}.\n").strip()
        if not answer.startswith("{ok, "):
            raise ServerError(f"RabbitMQ refused {expression!r}: {answer}")
        return answer.removeprefix("{ok, ").removesuffix("}")

    def control(self, *arguments: str) -> str:
        """What `rabbitmqctl` prints; a call takes half a second or more."""
        return self._call([str(installed_scripts() / "rabbitmqctl"), "--quiet", "--node", self.node, *arguments])

    def _call(self, command: list[str], *, words: str = "") -> str:
        ended = subprocess.run(
            command,
            cwd=self.directory,
            env=self._environment(),
            input=words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=STOP_SECONDS,
        )
        if ended.returncode != 0:
            raise ServerError(f"{' '.join(command)} ended with status {ended.returncode}:\n{ended.stdout}")
        return ended.stdout

    def _prepare(self) -> None:
        lines = (
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "loopback_users = none",
            "log.console = true",
            "log.file = false",
            *self.settings,
        )
        (self.directory / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.directory / "plugins").write_text("[].\n")
        (self.directory / "environment").touch()

    def _command(self) -> list[str]:
        self._serve_names()
        return [str(installed_scripts() / "rabbitmq-server"), "-noinput"]

    def _serve_names(self) -> None:
        """Runs the Erlang name server as ours: one that a node starts for itself stays behind for ever."""
        if self._names is None:
            self._names = self._run(["epmd", "-port", str(self._names_port), "-address", "127.0.0.1"])

    def _environment(self) -> Mapping[str, str]:
        base = self.directory
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(base),  # where the cookie is
            "LANG": "C.UTF-8",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._names_port),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(base / "advanced.config"),
            "RABBITMQ_ALLOW_INPUT": "true",  # the script then becomes the server, instead of watching over it
            "RABBITMQ_CONFIG_FILE": str(base / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(base / "environment"),  # an empty one, in place of the system's
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(base / "plugins"),
            "RABBITMQ_LOG_BASE": str(base / "logs"),
            "RABBITMQ_MNESIA_BASE": str(base / "mnesia"),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_PID_FILE": str(base / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none -kernel inet_dist_use_interface {127,0,0,1}",
        }
