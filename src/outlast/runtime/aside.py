"""Where a handler runs that shares the turn: never in the worker's own task.

Timeouts and task groups remember the task that they were entered in and cancel it when they see fit, also after the
handler has ended. The worker's own would end by that, and its service with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Aside:
    """A task that is over and stands in for the running one, so that to cancel it does nothing."""

    def __init__(self) -> None:
        self._over: asyncio.Task[None] | None = None

    def call(self, function: Callable[[], T]) -> T:
        """Calls a function that takes the stand-in for its task."""
        loop = asyncio.get_running_loop()
        own = asyncio.current_task()
        assert own is not None
        if self._over is None or self._over.get_loop() is not loop:
            self._over = loop.create_task(_nothing(), name="outlast handler in a turn")
            self._over.cancel()
        # What the standard library offers to those who write tasks of their own.
        asyncio._leave_task(loop, own)
        asyncio._enter_task(loop, self._over)
        try:
            return function()
        finally:
            asyncio._leave_task(loop, self._over)
            asyncio._enter_task(loop, own)


async def _nothing() -> None:
    pass
