"""Moving from a SQLite file to another engine: everything that is kept or under way, and nothing twice."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from outlast.adapters.sqlite.departure import Departure, block, finish, target_of
from outlast.engines import inspector_of, open_engine, shown
from outlast.errors import Misuse
from outlast.ports import Changes, Engine, Inspector

KINDS = ("parcels", "saved", "stashed", "dead", "history", "handled")


async def move(source: str, target: str, *, progress: Callable[[Mapping[str, int]], None]) -> Mapping[str, int]:
    """Moves all that the file of the URL `source` keeps to the empty engine `target`; returns how much of what.

    Every process that uses the file must have stopped. From its beginning on nobody can use the file any more, so
    nothing is done in both places. If it is interrupted, empty the target and call it again: the file has everything
    until the end, and afterwards. The services' own tables are not outlast's, and stay where they are. Raises
    `Misuse` when that is not how things stand, and then nothing has happened.
    """
    path = _file_of(source)
    engine, _ = open_engine(target)
    try:
        inspector = inspector_of(engine)
        await _refuse_unless_empty(inspector, target)
        if _target(path) is None:
            await _refuse_unless_down(source)
        counts: Counter[str] = Counter()
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            _leave(connection, path, target)
            departure = Departure(connection)
            for service, topics in departure.topics().items():
                await engine.declare(service, topics)
            for service, changes in departure.pages():
                await _commit(engine, service, changes)
                counts.update({kind: len(getattr(changes, kind)) for kind in KINDS})
                progress(counts)
            for letter, status in departure.settled().items():
                await inspector.settle({letter: None}, status=status)
            finish(connection)
        return counts
    finally:
        await engine.close()


def _file_of(source: str) -> Path:
    parts = urlsplit(source)
    path = Path(parts.path[1:])
    if parts.scheme != "sqlite" or not path.is_file():
        raise Misuse(
            f"moving from {shown(source)!r} is not possible. What is moved from is a SQLite file that exists: "
            "outlast move sqlite:///shop.db postgresql://user@host/database"
        )
    return path


def _target(path: Path) -> str | None:
    """Where a file is being moved to, if it is."""
    with closing(sqlite3.connect(path)) as connection:
        found = target_of(connection)
    return found[0] if found is not None else None


def _leave(connection: sqlite3.Connection, path: Path, target: str) -> None:
    found = target_of(connection)
    if found is None:
        block(connection, shown(target))
    elif found != (shown(target), False):
        url, is_done = found
        state = "was moved" if is_done else "is being moved"
        raise Misuse(f"{path} {state} to {url} already, and cannot be moved to {shown(target)}. Use that URL.")


async def _refuse_unless_down(source: str) -> None:
    engine, _ = open_engine(source)
    try:
        up = [queue.service for queue in await inspector_of(engine).queues() if queue.workers]
    finally:
        await engine.close()
    if up:
        raise Misuse(f"{', '.join(up)} run on {shown(source)}. Stop every service and client that uses it, then move.")


async def _refuse_unless_empty(inspector: Inspector, target: str) -> None:
    queues = await inspector.queues()
    is_empty = (
        not any(queue.waiting or queue.claimed or queue.dated or queue.dead for queue in queues)
        and not await inspector.instances(key="", done=None, limit=1)
        and not await inspector.history(conversation="", after=0, limit=1)
    )
    if not is_empty:
        raise Misuse(
            f"{shown(target)} has messages or instances already, and would have some of them twice. Give an empty one. "
            "If an earlier move was interrupted, empty it first (on PostgreSQL: DROP SCHEMA outlast CASCADE); the "
            "file still has everything."
        )


async def _commit(engine: Engine, service: str, changes: Changes) -> None:
    work = await engine.begin(service)
    try:
        await work.commit(changes)
    except BaseException:
        await work.rollback()
        raise
