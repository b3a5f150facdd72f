"""A running system for tests: real services on a real engine, and what can be seen of them from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec

from outlast import Client, Retry, Service, Worker
from outlast.adapters.sqlite import SqliteEngine
from outlast.adapters.system import SystemWorld
from outlast.core.naming import open_packet
from outlast.engines import inspector_of
from outlast.ports import DeadLetter, Engine, InstanceStatus
from outlast.signals import Signal

AT_ONCE = Retry(immediate=2, delayed=0)
"""Three attempts without a delay between them."""


class MovableWorld(SystemWorld):
    """The machine's world, with a clock that a test may set ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead


@dataclass
class System:
    """One worker with its services, a client, and a look from outside."""

    worker: Worker
    client: Client
    signals: list[Signal] = field(default_factory=list[Signal])

    @property
    def engine(self) -> Engine:
        assert self.worker.engine is not None
        return self.worker.engine

    def execute(self, sql: str, *parameters: object) -> list[Any]:
        """Runs a statement on the engine's own connection (SQLite only)."""
        assert isinstance(self.engine, SqliteEngine)
        rows: list[Any] = self.engine.connection.execute(sql, parameters).fetchall()
        return rows

    def log(self, service: str) -> str:
        """The table into which this service's messages are written (SQLite only)."""
        [[id]] = self.execute("SELECT id FROM outlast_queues WHERE name = ?", service)
        return f"outlast_log_{id}"

    async def quiet(self, *, dated: bool = True, within: float = 10.0) -> None:
        """Waits until no message is waiting or being handled (nor dated, unless told otherwise)."""

        async def is_quiet() -> bool:
            queues = await inspector_of(self.engine).queues()
            return not any(queue.waiting or queue.claimed or (dated and queue.dated) for queue in queues)

        await eventually(is_quiet, within=within)

    async def dead(self) -> list[DeadLetter]:
        """The dead letters, oldest first."""
        found = await inspector_of(self.engine).dead_letters(status="", id="", limit=10_000)
        return [item.letter for item in found]

    async def instance(self, key: str) -> InstanceStatus | None:
        """The instance with this key."""
        found = await inspector_of(self.engine).instances(key=key, done=None, limit=2)
        assert len(found) < 2
        return found[0] if found else None

    async def state(self, key: str) -> dict[str, Any]:
        """The fields of the instance with this key."""
        instance = await self.instance(key)
        assert instance is not None, f"there is no instance {key!r}"
        stored = msgspec.json.decode(instance.state)
        found: dict[str, Any] = stored.get("state", stored)
        return found

    async def outcomes(self) -> list[tuple[str, str]]:
        """What became of every message: its wire name and the outcome, in order."""
        entries = await inspector_of(self.engine).history(conversation="", after=0, limit=100_000)
        return [(open_packet(entry.packet).type, entry.outcome) for _, entry in entries]


@asynccontextmanager
async def running(url: str, *services: Service, **options: Any) -> AsyncIterator[System]:
    """A worker for these services and a client beside it, stopped at the end."""
    signals: list[Signal] = []
    options.setdefault("grace", timedelta(seconds=2))
    options.setdefault("poll", timedelta(milliseconds=50))
    options.setdefault("observe", signals.append)
    async with Worker(services, url=url, **options) as worker:
        async with Client(engine=worker.engine, world=worker.world) as client:
            yield System(worker, client, signals)


async def eventually(condition: Callable[[], Awaitable[bool]], *, within: float = 10.0) -> None:
    """Waits until the condition holds, and fails when that takes too long."""
    async with asyncio.timeout(within):
        while not await condition():
            await asyncio.sleep(0.002)


async def until(condition: Callable[[], object], *, within: float = 10.0) -> None:
    """Like `eventually`, for what can be seen without waiting."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.001)
