"""Sending messages from code that does not await: Flask, Django, a script."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Generator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from outlast.client import Client, Outgoing, Sent
from outlast.core.message import Command, Event, Message
from outlast.errors import Misuse
from outlast.ports import Changes, SharesConnection, World

T = TypeVar("T")

TOLD_SECONDS = 1.0
"""How long a call waits, at most, until other processes are told of its messages."""


class SyncClient:
    """A `Client` whose calls return when they are done: `with SyncClient("postgresql://…") as client`.

    Several threads may share one. It must not be called where an event loop is running; use `Client` there.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        world: World | None = None,
        name: str = "client",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._client = Client(url, world=world, name=name, headers=headers)
        self._lock = threading.RLock()
        self._runner: asyncio.Runner | None = None

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        try:
            self._run(self._client.__aenter__())
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            try:
                self._run(self._client.__aexit__(kind, error, trace))
            finally:
                assert self._runner is not None
                self._runner.close()
                self._runner = None

    def send(
        self,
        command: Command[Any],
        *,
        id: str | None = None,
        to: str | None = None,
        after: timedelta | None = None,
        at: datetime | None = None,
    ) -> Sent:
        """Like `Client.send`."""
        return self._run(self._client.send(command, id=id, to=to, after=after, at=at))

    def publish(
        self, event: Event, *, id: str | None = None, after: timedelta | None = None, at: datetime | None = None
    ) -> Sent:
        """Like `Client.publish`."""
        return self._run(self._client.publish(event, id=id, after=after, at=at))

    def send_all(self, *messages: Message) -> list[Sent]:
        """Like `Client.send_all`."""
        return self._run(self._client.send_all(*messages))

    def cancel(self, sent: Sent) -> None:
        """Like `Client.cancel`."""
        self._run(self._client.cancel(sent))

    @contextmanager
    def transaction(self, connection: Any) -> Generator[Outgoing]:
        """Commits the caller's own rows and the messages together, or neither.

        The connection must be open on the engine's own database: one of sqlite3 for SQLite; for PostgreSQL one of
        psycopg, or SQLAlchemy's connection or session on psycopg. It commits at the end of the block, and rolls back
        on an exception.
        """
        engine = self._client.engine
        if not isinstance(engine, SharesConnection):
            raise Misuse("client.transaction(connection) needs an engine with a database: sqlite:///file.db.")
        work = self._run(engine.begin_on(connection))
        outgoing = Outgoing(self._client)
        try:
            yield outgoing
            self._run(work.commit(Changes(parcels=outgoing.parcels)))
        except BaseException:
            self._run(work.rollback())
            raise

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._runner is None:
                call.close()
                raise Misuse("the client is not open. Use it as a context manager: with SyncClient(url) as client.")
            return self._runner.run(_and_tell(call))


async def _and_tell(call: Coroutine[Any, Any, T]) -> T:
    """The call, and then what the engine tells others without waiting for it: between calls nothing runs."""
    result = await call
    telling = [task for task in asyncio.all_tasks() if task.get_name().startswith("outlast tells")]
    if telling:
        await asyncio.wait(telling, timeout=TOLD_SECONDS)
    return result
