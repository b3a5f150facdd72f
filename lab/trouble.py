"""How a process comes by the trouble that the schedule has for it: small files, put there and taken away from outside.

Every service asks at the same two places, before its work and when its work is committed, in all four ways.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from lab.books import Books
from lab.business import Rows

SLOW_SECONDS = 1.0
"""How long a slow service waits before each piece of work."""


class OutOfOrder(Exception):
    """The service fails, as it does when something that it needs is broken."""


class AnswerLost(Exception):
    """The work is done, and who asked for it does not hear of it."""


class Trouble:
    """The trouble of one service."""

    def __init__(self, directory: Path, service: str) -> None:
        self._slow = directory / f"{service}.slow"
        self._failing = directory / f"{service}.failing"
        self._lost = directory / f"{service}.lost"
        self._kill = directory / f"{service}.kill"

    @asynccontextmanager
    async def around(self) -> AsyncGenerator[None]:
        """Before the work the service may be slow or fail; after it, somebody may be killed in mid-call."""
        if self._slow.exists():
            await asyncio.sleep(SLOW_SECONDS)
        if self._failing.exists():
            raise OutOfOrder("out of order")
        yield
        self._strike()

    @property
    def loses_answers(self) -> bool:
        """Whether answers of this service do not arrive."""
        return self._lost.exists()

    def answer(self) -> None:
        """Raises `AnswerLost` while answers do not arrive."""
        if self.loses_answers:
            raise AnswerLost("the work is done, and its outcome is lost on the way")

    def _strike(self) -> None:
        """kill -9 for the process that the file names, once; it may be this one."""
        try:
            victim = int(self._kill.read_text())
            self._kill.unlink()
        except FileNotFoundError:
            return
        os.kill(victim, signal.SIGKILL)


class Desk:
    """Where a service works: its books, and its trouble."""

    def __init__(self, books: Books, trouble: Trouble) -> None:
        self.books = books
        self.trouble = trouble

    @asynccontextmanager
    async def work(self) -> AsyncGenerator[Rows]:
        """One piece of work in one transaction of the service's own database."""
        async with self.trouble.around(), self.books.transaction() as rows:
            yield rows
