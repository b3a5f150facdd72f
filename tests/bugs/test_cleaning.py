"""What cleaning cost, and what it took too much of."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

from outlast import Event, Service
from outlast.adapters.sqlite import SqliteEngine
from outlast.adapters.sqlite.schema import micros
from outlast.engines import inspector_of
from tests.system import MovableWorld, running, until

DAY = timedelta(days=1)


class Slow(Event):
    key: str


class Quick(Event):
    key: str


async def test_what_was_handled_late_stays_readable_as_long_as_its_history(sqlite_url: str) -> None:
    """A message was handled days after those behind it, as slow or retried ones are. Its turn was younger, but what
    it refers to was older than what the first turn that was left referred to; and only that one was asked. So the
    message was cut off the log while its history was kept, and `outlast show` said "(unreadable)".
    """
    go, heard, world = asyncio.Event(), list[str](), MovableWorld()
    service = Service("s")

    @service.handles
    async def wait(event: Slow) -> None:
        await go.wait()
        heard.append("slow")

    @service.handles
    async def note(event: Quick) -> None:
        heard.append("quick")

    async with running(sqlite_url, service, world=world, lease=timedelta(days=9)) as system:
        await system.client.publish(Slow(key="1"))
        for number in range(1, 4):
            await system.client.publish(Quick(key="2"))
            await until(lambda number=number: len(heard) == number)
            await asyncio.sleep(0.05)
        go.set()
        await system.quiet()
        assert [kind for kind, _ in await system.outcomes()] == ["quick", "quick", "quick", "slow"]
        # The first of the turns has grown old.
        system.execute("UPDATE outlast_history SET at = at - ? WHERE number = 1", DAY // timedelta(microseconds=1))
        assert await inspector_of(system.engine).clean(world.now(), world.now() - DAY / 2, 500) == 1
        assert [kind for kind, _ in await system.outcomes()] == ["quick", "quick", "slow"]


async def test_cleaning_looks_at_the_old_end_of_a_long_history_only(tmp_path: Path) -> None:
    """Once a minute every worker read all of the history, and once more for each service without any, within a write
    transaction: of a gigabyte that took two seconds, in which no process on the file did anything.
    """
    world = MovableWorld()
    engine = SqliteEngine(tmp_path / "long.db", world, synchronous="NORMAL")
    for name in ("busy", "idle"):
        await engine.declare(name, [])
    at, steps = micros(world.now()), 0
    connection = engine.connection
    connection.executemany(
        "INSERT INTO outlast_history (queue, oldest, at, marks, entries) VALUES (1, ?, ?, x'', x'')",
        [(number, at) for number in range(1, 50_000)],
    )

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection.set_progress_handler(count, 1_000)
    assert await inspector_of(engine).clean(world.now(), world.now() - DAY, 500) == 0
    connection.set_progress_handler(None, 0)
    await engine.close()
    assert steps < 20, f"{steps} thousand steps"


async def test_turns_that_a_wrong_clock_dated_do_not_stop_the_cleaning(tmp_path: Path) -> None:
    """Only the old end is looked at, and there may be turns that a clock ahead of time has dated."""
    world = MovableWorld()
    engine = SqliteEngine(tmp_path / "wrong.db", world, synchronous="NORMAL")
    await engine.declare("busy", [])
    now = world.now()
    connection = engine.connection
    for at, turns in ((now + 999 * DAY, 10), (now - 9 * DAY, 3), (now, 5)):
        connection.executemany(
            "INSERT INTO outlast_history (queue, oldest, at, marks, entries) VALUES (1, 1, ?, x'', x'')",
            [(micros(at),)] * turns,
        )
    await inspector_of(engine).clean(now, now - DAY, 4)
    [(left,)] = connection.execute("SELECT count(*) FROM outlast_history").fetchall()
    await engine.close()
    assert left == 5
