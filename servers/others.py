"""How much of the machine other programs use while something is measured."""

from __future__ import annotations

import contextlib
import time

import psutil


class Others:
    """Programs other than this one, its servers and its processes, from the making of this on."""

    def __init__(self) -> None:
        self._began_at = time.perf_counter()
        self._before = _their_cpu()

    def cores(self) -> float:
        """How many cores they have kept busy."""
        spent = time.perf_counter() - self._began_at
        return round(max(0.0, _their_cpu() - self._before) / spent, 2)


def _their_cpu() -> float:
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + times.irq + times.softirq - cpu_of(psutil.Process())


def cpu_of(process: psutil.Process) -> float:
    """Seconds of CPU of a process and its children, those that have ended included."""
    spent = 0.0
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            spent += times.user + times.system + times.children_user + times.children_system
    return spent
