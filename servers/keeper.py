"""A process that outlives the program which started a server, just long enough to end that server.

A program that is killed cannot clean up. The keeper reads a pipe whose other end only that program holds: when the pipe
ends without a farewell, the program is gone, and the keeper ends the processes and removes their directory.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

GRACE_SECONDS = 6.5
"""PostgreSQL kills those of its children that do not react, be it that they are halted, after five seconds."""
LOOK_SECONDS = 0.02


class Keeper:
    """Ends what it was told to keep, and removes the directory if one is given, when this program ends before it."""

    def __init__(self, *, remove: Path | None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(remove or "")],
            stdin=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in a terminal must reach neither the keeper nor what it keeps
        )

    def keep(self, pid: int) -> None:
        """Ends this process too, if it comes to that."""
        self._tell(f"keep {pid}")

    def forget(self, pid: int) -> None:
        """This process has ended: its id may by now belong to another."""
        self._tell(f"forget {pid}")

    def release(self) -> None:
        """Nothing is left to end or to remove."""
        self._tell("farewell")
        self._process.communicate()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n".encode())


def send(pids: Iterable[int], number: int) -> set[int]:
    """Sends this signal, and returns those that are there to receive it."""
    there: set[int] = set()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            there.add(pid)
    return there


def end(pids: set[int]) -> None:
    """Ends these processes: by a signal at which PostgreSQL ends its children too, and if need be by force."""
    send(pids, signal.SIGCONT)
    left = send(pids, signal.SIGQUIT)
    deadline = time.monotonic() + GRACE_SECONDS
    while left and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        left = send(left, 0)
    send(left, signal.SIGKILL)


def main(remove: str) -> None:
    kept: set[int] = set()
    for line in sys.stdin:
        match line.split():
            case ["keep", pid]:
                kept.add(int(pid))
            case ["forget", pid]:
                kept.discard(int(pid))
            case _:
                return
    end(kept)
    if remove:
        shutil.rmtree(remove, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
