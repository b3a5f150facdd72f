"""Where a handler runs that shares the turn's transaction: never in the worker's own task.

Timeouts and task groups remember the task that they were entered in and cancel it when they see fit, also after the
handler has ended. The worker's own would end by that, and its service with it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextvars import copy_context
from datetime import timedelta
from typing import Any

from outlast.core.annotations import name_of_function
from outlast.core.instance import listed
from outlast.errors import BadHandler
from outlast.runtime.waiting import TimeLimit


class Inside:
    """Calls handlers inside a turn, each in a context of its own: what one sets there the next does not see."""

    def __init__(self) -> None:
        self._over: asyncio.Task[None] | None = None
        """A task that is over and stands in for the running one, so that to cancel it does nothing."""

    def at_once(self, function: Callable[..., Any], call: Callable[[], Any]) -> list[Any]:
        """Lets `call` call this handler, which must end without waiting, since the driver's calls block."""
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
            return copy_context().run(_finish, function, call)
        finally:
            asyncio._leave_task(loop, self._over)
            asyncio._enter_task(loop, own)

    async def in_time(self, function: Callable[..., Any], call: Callable[[], Any], time_limit: timedelta) -> list[Any]:
        """Lets `call` call this handler, whose driver is awaited; it lasts no longer than its time limit."""
        limit = TimeLimit(name_of_function(function), time_limit)

        async def whole() -> list[Any]:
            limit.start()
            try:
                returned = call()
                return listed(await returned if inspect.isawaitable(returned) else returned, function)
            finally:
                limit.stop()

        task = asyncio.get_running_loop().create_task(whole(), name="outlast handler in a turn")
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:  # the worker is stopping, and the turn with it
            task.cancel()
            await asyncio.wait([task])
            raise
        if task.cancelled() and limit.exceeded is not None:
            raise limit.exceeded
        return task.result()


def _finish(function: Callable[..., Any], call: Callable[[], Any]) -> list[Any]:
    returned = call()
    if not inspect.iscoroutine(returned):
        return listed(returned, function)
    try:
        returned.send(None)
    except StopIteration as stop:
        return listed(stop.value, function)
    returned.close()
    raise BadHandler(
        f"{name_of_function(function)} shares the turn's transaction and waited for something else. That would hold up "
        "every writer. Do the waiting in a handler without the transaction, and the rows in a second one that its "
        "answer leads to."
    )


async def _nothing() -> None:
    pass
