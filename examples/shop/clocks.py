"""Clocks that jump: each process has a wall clock of its own, by libfaketime; the monotonic clock stays true.

What was set when is remembered in the machine's monotonic time, which all processes share.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from examples.shop.disk import Skipped

OFFSETS = (0, 90, -90, 3600, -3600)
"""Seconds by which a clock may be off."""
LIBRARY = "libfaketime.so.1"
PLACES = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime")
OUTDATED_SECONDS = 15.0
"""A process that waits for the file's lock, or stands still, may act on what it read from its clock so long ago."""


def find_library(places: Iterable[str] = PLACES) -> Path:
    """Where libfaketime is. Raises `Skipped`."""
    for place in places:
        for found in sorted(Path("/").glob(f"{place.lstrip('/')}/{LIBRARY}")):
            return found
    raise Skipped("libfaketime is not installed (Debian and Ubuntu have it as the package libfaketime).")


@dataclass(frozen=True, slots=True)
class Setting:
    """A process's clock, from some moment until it is set again."""

    offset: float
    since: float
    """When the clock may first have shown it, in seconds of the monotonic clock."""
    sure: float
    """From here on it shows this and nothing before it."""


class Clocks:
    """The wall clocks of the processes, by name. All are right at first."""

    def __init__(self, directory: Path, library: Path) -> None:
        self._directory = directory
        self._library = library
        self._settings: defaultdict[str, list[Setting]] = defaultdict(list)

    def environment(self, name: str) -> dict[str, str]:
        """What a process must be started with to have the clock of this name."""
        if name not in self._settings:
            self.set(name, 0)
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file(name)),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Otherwise files look younger or older, and Python would compile its modules at every start.
            "NO_FAKE_STAT": "1",
        }

    def set(self, name: str, offset: float) -> None:
        """From now on this clock shows so many seconds more than the machine's."""
        since = time.monotonic()
        file = self._file(name)
        beside = file.with_suffix(".new")
        beside.write_text(f"{offset:+}\n")
        beside.replace(file)  # at once: a reader never finds half of it
        self._settings[name].append(Setting(offset, since, time.monotonic()))

    def prove(self) -> None:
        """Sees whether a process that is started with such a clock goes by it. Raises `Skipped`."""
        self.set("proof", 3600)
        with subprocess.Popen(
            [sys.executable, "-c", "import time; print(time.time())"],
            env={**os.environ, **self.environment("proof")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            shown, complaint = process.communicate()
        self.forget(process.pid)
        del self._settings["proof"]
        self._file("proof").unlink()
        if process.returncode != 0 or not 3500 < float(shown) - time.time() < 3700:
            raise Skipped(f"{self._library} does not move the clock of {sys.executable}: {complaint.strip()}")

    def offset(self, name: str) -> float:
        """How far this clock is off now."""
        settings = self._settings.get(name)
        return settings[-1].offset if settings else 0

    def agree(self) -> None:
        """Sets all clocks to the latest time that any of them has shown: whatever is dated falls due soon."""
        latest = max((s.offset for settings in self._settings.values() for s in settings), default=0)
        for name in list(self._settings):
            self.set(name, latest)

    def apart(self, since: float, until: float) -> float:
        """By how much, at most, a date set in this time came earlier by another clock, or by the same one."""
        latest = self._shown(since - OUTDATED_SECONDS, until)
        earliest = self._shown(since, until)
        return max(latest) - min(earliest) if latest and earliest else 0.0

    def forget(self, pid: int) -> None:
        """Takes away what libfaketime leaves of a process."""
        for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
            (Path("/dev/shm") / name).unlink(missing_ok=True)

    def _shown(self, since: float, until: float) -> list[float]:
        """The offsets that any clock may have had in this time."""
        found: list[float] = []
        for settings in self._settings.values():
            ends = [later.sure for later in settings[1:]] + [float("inf")]
            found += [s.offset for s, end in zip(settings, ends, strict=True) if s.since <= until and end >= since]
        return found

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}.clock"


def no_difference(since: float, until: float) -> float:
    """All processes have the machine's clock."""
    return 0.0
