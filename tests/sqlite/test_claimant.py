"""What a process that was killed may have been handling is counted, and nothing else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from outlast.adapters.sqlite import SqliteEngine
from outlast.adapters.system import SystemWorld
from outlast.ports import Changes, Parcel

PROGRAM = """
import asyncio, datetime, os, signal, sys
from pathlib import Path
from outlast.adapters.sqlite import SqliteEngine
from outlast.adapters.system import SystemWorld
from outlast.ports import Changes

async def main():
    engine = SqliteEngine(Path(sys.argv[1]), SystemWorld())
    await engine.declare("shop", [])
    deliveries = await engine.receive("shop", 8)
    work = await engine.begin("shop")
    {before}
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
LATER = "datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)"


async def counts_after_a_death(path: Path, before: str) -> Sequence[int]:
    """Posts eight messages, lets a process do this and be killed, and returns what the next one is told."""
    engine = SqliteEngine(path, SystemWorld())
    work = await engine.begin("")
    await work.commit(Changes(parcels=[Parcel(str(n), b"{}", queue="shop") for n in range(8)]))
    program = [sys.executable, "-c", PROGRAM.format(before=before), str(path)]
    died = await asyncio.to_thread(subprocess.run, program, capture_output=True, check=False)
    assert died.returncode == -9, died.stderr

    await engine.declare("shop", [])

    counts = [delivery.count for delivery in await engine.receive("shop", 8)]
    await engine.close()
    assert not list(path.with_name(path.name + "-wake").iterdir())
    return counts


@pytest.mark.parametrize(
    ("before", "counts"),
    [
        ("pass", [0] * 8),
        ("await work.first_sight(deliveries[2:5])", [0, 0, 1, 1, 1, 0, 0, 0]),
        ("await work.first_sight(deliveries); await work.rollback()", [0] * 8),
        ("await work.first_sight(deliveries); await work.commit(Changes())", [0] * 8),
        (
            f"await work.commit(Changes(claimed=deliveries[:2], claimed_until={LATER}));"
            'work = await engine.begin("shop"); await work.first_sight(deliveries)',
            [1] * 8,
        ),
        (f"await work.commit(Changes(claimed=deliveries[:2], claimed_until={LATER}))", [1, 1, 0, 0, 0, 0, 0, 0]),
    ],
    ids=["idle", "in a turn", "after a turn undone", "after a turn done", "in a turn, with claims", "with claims"],
)
async def test_what_the_dead_was_about_is_counted(tmp_path: Path, before: str, counts: list[int]) -> None:
    assert await counts_after_a_death(tmp_path / "shop.db", before) == counts
