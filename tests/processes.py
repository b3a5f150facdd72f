"""Programs in processes of their own, for what only a real process can suffer."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def program(source: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Runs this source with these arguments; killed at the end, if it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-c", source, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.communicate()


def ends(process: subprocess.Popen[str], *, within: float) -> tuple[int, str]:
    """Its exit code and what it wrote to standard error."""
    _, complaints = process.communicate(timeout=within)
    return process.returncode, complaints


def wait_for(condition: Callable[[], object], *, within: float = 10.0) -> None:
    """Waits, without an event loop, until the condition holds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def lines(path: Path) -> list[str]:
    """The lines that programs have appended to a file so far."""
    return path.read_text().splitlines() if path.exists() else []
