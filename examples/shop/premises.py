"""What a shop stands on: a URL, and private servers behind it if the engine needs some.

The servers come with the source (`servers/`), and are imported only when they are asked for.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from examples.shop.program import url_of
from examples.shop.rabbit import outstanding
from examples.shop.rows import STORE

if TYPE_CHECKING:
    from servers.proxy import Proxy
    from servers.rabbitmq import RabbitMQ
    from servers.server import Server

ENGINES = ("sqlite", "postgres", "rabbitmq", "nats")
DATABASE, BROKER = "database", "broker"


class Missing(Exception):
    """An engine's server, or the folder of the servers, is not on this machine; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Premises:
    """Where a shop's messages and tables are."""

    url: str
    """For the services and the storefront."""
    back_door: str
    """The same for those who look on: never by way of the faulty network."""
    servers: Mapping[str, Server] = field(default_factory=dict[str, "Server"])
    """The database and the broker, where they are servers."""
    network: Mapping[str, Proxy] = field(default_factory=dict[str, "Proxy"])
    """The faulty network before each of them, if there is one."""
    down: set[str] = field(default_factory=set[str])
    """The servers that are down now."""

    @property
    def rabbitmq(self) -> RabbitMQ | None:
        """The broker, if it is a RabbitMQ."""
        if BROKER not in self.servers:
            return None
        from servers.rabbitmq import RabbitMQ

        broker = self.servers[BROKER]
        return broker if isinstance(broker, RabbitMQ) else None

    async def outstanding(self) -> int:
        """What a look at the queues does not show: messages that are handed over, which only RabbitMQ keeps secret."""
        broker = self.rabbitmq
        return 0 if broker is None else await asyncio.to_thread(outstanding, broker)

    async def kill(self, name: str) -> None:
        """kill -9 for all processes of a server."""
        if name == "broker" and self.rabbitmq is not None:
            # RabbitMQ 3.10 never gets a quorum queue back that was made a moment before; see docs/engines.md.
            await asyncio.to_thread(self.rabbitmq.sync)
        self.down.add(name)
        await asyncio.to_thread(self.servers[name].kill)

    async def start(self, name: str) -> None:
        """Starts a server again, on what its disk has; returns when it answers."""
        await asyncio.to_thread(self.servers[name].start)
        self.down.discard(name)


def in_file(directory: Path) -> Premises:
    """A shop in one SQLite file in this directory."""
    return Premises(url_of(directory), url_of(directory))


@contextmanager
def premises(engine: str, directory: Path, *, with_network: bool = False) -> Generator[Premises]:
    """Premises with private servers that run as long as the block; their logs are in the directory afterwards.

    Raises `Missing` if this machine lacks one.
    """
    if engine == "sqlite":
        yield in_file(directory)
        return
    with ExitStack() as stack:
        servers = _servers(engine)
        for name, server in servers.items():
            _enter(stack, server)
            stack.callback(_keep_log, server, directory / f"{name}.log")
        network = _network(servers) if with_network else {}
        for proxy in network.values():
            stack.enter_context(proxy)
        yield Premises(
            url=_url({name: point.url for name, point in (network or servers).items()}),
            back_door=_url({name: server.url for name, server in servers.items()}),
            servers=servers,
            network=network,
        )


def _servers(engine: str) -> dict[str, Server]:
    try:
        from servers.nats import Nats
        from servers.postgres import Postgres
        from servers.rabbitmq import RabbitMQ
    except ModuleNotFoundError as error:
        raise Missing(
            f"the shop cannot run on {engine}: there is no module {error.name}. Run it in the folder of the source, "
            "where `make setup` installs what its servers need."
        ) from error

    servers: dict[str, Server] = {DATABASE: Postgres()}
    if engine == "rabbitmq":
        servers[BROKER] = RabbitMQ()
    if engine == "nats":
        servers[BROKER] = Nats()
    return servers


def _enter(stack: ExitStack, server: Server) -> None:
    from servers.server import NotInstalled

    try:
        stack.enter_context(server)
    except NotInstalled as missing:
        raise Missing(str(missing)) from missing


def _network(servers: Mapping[str, Server]) -> dict[str, Proxy]:
    from servers.proxy import Proxy

    return {name: Proxy(server.url) for name, server in servers.items()}


def _url(urls: Mapping[str, str]) -> str:
    return f"{urls[BROKER]}?{STORE}{urls[DATABASE]}" if BROKER in urls else urls[DATABASE]


def _keep_log(server: Server, path: Path) -> None:
    log = server.directory / "log"
    if log.exists():
        shutil.copy(log, path)
