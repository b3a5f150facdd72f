"""What `outlast.run` does to its process, and a worker by itself does not."""

from __future__ import annotations

import subprocess
import sys

from outlast.worker import NEW_OBJECTS

PROGRAM = """
import asyncio, gc, os, signal
from outlast import Service, Worker, run

def look() -> None:
    print(gc.get_freeze_count() > 0, gc.get_threshold()[0])

async def main() -> None:
    async with Worker([Service("shop")], url="memory://"):
        look()
    await run(Worker([Service("shop")], url="memory://"), ready=lambda: (look(), os.kill(os.getpid(), signal.SIGTERM)))

asyncio.run(main())
"""


def test_a_process_that_is_a_workers_spares_the_collector() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=False)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["False 700", f"True {NEW_OBJECTS}"]
