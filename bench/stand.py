"""What is measured: an engine on private servers, and a look at its rows that does not ask outlast."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psutil
import psycopg
from servers.nats import Nats
from servers.others import cpu_of
from servers.postgres import Postgres
from servers.rabbitmq import RabbitMQ
from servers.server import Server

Kind = TypeVar("Kind", bound=Server)
ENGINES = ("sqlite", "postgres", "rabbitmq", "nats")
BUNDLED = ", bundled"
"""What is added to the name of a row that is of outlast with bundles."""


class Look:
    """Reads the rows of instances from outside, to see which orders are done."""

    def __init__(self, rows: str) -> None:
        if rows.startswith("sqlite"):
            self._connection: sqlite3.Connection | psycopg.Connection = sqlite3.connect(
                rows.removeprefix("sqlite:///"), isolation_level=None
            )
            self._table, self._place = "outlast_instances", "?"
        else:
            self._connection = psycopg.connect(rows, autocommit=True)
            self._table, self._place = "outlast.instances", "%s"

    def done(self) -> int:
        """How many orders are done."""
        return self._count("WHERE done")

    def begun(self) -> int:
        """How many orders have an instance."""
        return self._count("")

    def _count(self, which: str) -> int:
        ((count,),) = self._connection.execute(f"SELECT count(*) FROM {self._table} {which}").fetchall()
        return count

    def is_done(self, order_id: str) -> bool:
        query = f"SELECT 1 FROM {self._table} WHERE key = {self._place} AND done"
        return bool(self._connection.execute(query, (order_id,)).fetchall())

    def close(self) -> None:
        self._connection.close()


@dataclass(frozen=True)
class System:
    """An empty system to be measured: the URL of its engine, and where its rows can be read."""

    url: str
    rows: str

    @contextlib.contextmanager
    def look(self) -> Iterator[Look]:
        look = Look(self.rows)
        try:
            yield look
        finally:
            look.close()


@dataclass
class Stand:
    """An engine and the private servers it needs, all of them running."""

    engine: str
    postgres: Postgres | None = None
    rabbitmq: RabbitMQ | None = None
    nats: Nats | None = None
    bundle: int = 1
    """How many messages travel in one of the broker's, at most."""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @contextlib.contextmanager
    def fresh(self) -> Iterator[System]:
        """An empty system, which is removed afterwards."""
        if self.postgres is None or self.engine == "sqlite":
            with tempfile.TemporaryDirectory() as directory:
                url = f"sqlite:///{Path(directory) / 'orders.db'}"
                yield System(url, url)
            return
        with database(self.postgres, f"orders{next(self._numbers)}") as rows, self._broker() as broker:
            yield System(f"{broker}?bundle={self.bundle}&store={rows}" if broker else rows, rows)

    @contextlib.contextmanager
    def _broker(self) -> Iterator[str]:
        """The URL of an empty part of the broker; none if this engine has none."""
        if self.engine == "rabbitmq":
            assert self.rabbitmq is not None
            name = f"orders{next(self._numbers)}"
            try:
                yield self.rabbitmq.add_vhost(name)
            finally:
                self.rabbitmq.delete_vhost(name)
        elif self.engine == "nats":
            assert self.nats is not None
            yield self.nats.new_account()
        else:
            yield ""

    def cpu(self) -> float:
        """Seconds of CPU that the servers have used so far."""
        servers = (self.postgres, self.rabbitmq, self.nats) if self.engine != "sqlite" else ()
        return sum(cpu_of(psutil.Process(server.pid)) for server in servers if server is not None)


@contextlib.contextmanager
def database(postgres: Postgres, name: str) -> Iterator[str]:
    """The URL of an empty database of this name, which is dropped afterwards."""
    with psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    try:
        yield urlsplit(postgres.url)._replace(path=f"/{name}").geturl()
    finally:
        with psycopg.connect(postgres.url, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


SETTINGS = ("shared_buffers = 512MB", "max_wal_size = 4GB")
"""Enough that no checkpoint falls into a measurement of a few seconds; what makes it durable is on as ever."""


class Servers:
    """The private servers of a run, each started when an engine first needs it."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._running: dict[type[Server], Server] = {}

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def of(self, engine: str, *, peer: bool = False) -> Stand:
        """The engine on its servers; with `peer`, those that its peer needs as well."""
        stand = Stand(engine)
        if engine != "sqlite" or peer:
            stand.postgres = self._start(Postgres, settings=SETTINGS)
        if engine == "rabbitmq" or (engine == "sqlite" and peer):
            stand.rabbitmq = self._start(RabbitMQ)
        if engine == "nats":
            stand.nats = self._start(Nats)
        return stand

    def _start(self, kind: type[Kind], **options: Any) -> Kind:
        if kind not in self._running:
            self._running[kind] = self._stack.enter_context(kind(**options))
        return self._running[kind]  # type: ignore[return-value]  # it is of the kind that it is kept under
