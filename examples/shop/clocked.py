"""Runs a service's program with a clock of its own: python -m examples.shop.clocked examples.shop.payment

libfaketime 0.9.10 takes every date that a process sleeps until for one of the wall clock. Python's `time.sleep`
names one of the monotonic clock, and fails with "Invalid argument". It is replaced here.
"""

from __future__ import annotations

import runpy
import select
import sys
import time


def sleep(seconds: float, /) -> None:
    """`time.sleep`, by a call that takes a duration and no date."""
    select.select([], [], [], seconds)


if __name__ == "__main__":
    setattr(time, "sleep", sleep)  # noqa: B010  (type checkers hold the name to its own function)
    runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
