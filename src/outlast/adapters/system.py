"""The machine's clock, dice and ids: the only file that may ask for them."""

from __future__ import annotations

import os
import random
import time
from datetime import UTC, datetime


class SystemWorld:
    """The World as it is. Ids are UUIDs of version 7 (RFC 9562), in order within one process."""

    def __init__(self) -> None:
        self._random = random.Random()
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def dice(self) -> float:
        return self._random.random()

    def new_id(self) -> str:
        # RFC 9562, section 6.2, method 1: within a millisecond a counter follows the timestamp.
        stamp = time.time_ns() // 1_000_000
        if stamp > self._stamp:
            self._begin(stamp)
        self._counter += 1
        if self._counter > 0xFFF:
            self._begin(self._stamp + 1)
        return f"{self._prefix}{self._counter:03x}{self._suffix}"

    def _begin(self, stamp: int) -> None:
        self._stamp = stamp
        self._counter = 0
        text = f"{stamp:012x}"
        self._prefix = f"{text[:8]}-{text[8:]}-7"

    def _reset(self) -> None:
        """Fresh chance for a process, so that no two of them make the same ids."""
        noise = os.urandom(16).hex()
        self._random.seed(os.urandom(16))
        self._suffix = f"-{8 + int(noise[0], 16) % 4:x}{noise[1:4]}-{noise[4:16]}"
        self._begin(0)
