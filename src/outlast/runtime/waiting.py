"""Calling code that may wait: noticing that it does, limiting how long, and keeping what blocks in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Coroutine, Generator
from datetime import timedelta
from typing import Any, TypeVar

from outlast.errors import TimeLimitExceeded

T = TypeVar("T")


class TimeLimit:
    """Cancels the task that starts it when the time is over."""

    def __init__(self, name: str, limit: timedelta) -> None:
        self.name = name
        self.limit = limit
        self.exceeded: TimeLimitExceeded | None = None
        """Set when it was this limit that cancelled the task."""
        self._alarm: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """The time runs from now on, for the task that calls this."""
        task = asyncio.current_task()
        assert task is not None
        self._alarm = asyncio.get_running_loop().call_later(self.limit.total_seconds(), self._expire, task)

    def stop(self) -> None:
        """The time is not over, and will not be."""
        if self._alarm is not None:
            self._alarm.cancel()

    def _expire(self, task: asyncio.Task[Any]) -> None:
        self.exceeded = TimeLimitExceeded(
            f"{self.name} ran longer than its time limit of {self.limit} and was cancelled. Give it more with "
            "handles(time_limit=...), or let it wait less."
        )
        task.cancel()


class Watched:
    """Awaits a coroutine, and says so once if it really has to wait.

    The coroutine has a context of its own: the context variables that it sets are not seen by the next one.
    """

    __slots__ = ("context", "coroutine", "waits")

    def __init__(self, coroutine: Coroutine[Any, Any, T], waits: Callable[[], None]) -> None:
        self.coroutine = coroutine
        self.waits = waits
        self.context = contextvars.copy_context()

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, run = self.coroutine, self.context.run
        try:
            awaited = run(coroutine.send, None)
        except StopIteration as stop:
            return stop.value
        self.waits()
        while True:
            try:
                sent = yield awaited
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:  # handed on, as `yield from` would
                step: Callable[[Any], Any] = coroutine.throw
                value: Any = error
            else:
                step = coroutine.send
                value = sent
            try:
                awaited = run(step, value)
            except StopIteration as stop:
                return stop.value


async def in_thread(function: Callable[[], T]) -> T:
    """Calls a function in a thread of its own, and returns what it returned.

    A pool would have as many threads as the machine has cores, and the process could not end while one of
    them is blocked. Cancelling does not stop the function; what it returns then is dropped.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(returned: Any, error: BaseException | None) -> None:
        if result.done():
            return
        if error is None:
            result.set_result(returned)
        elif isinstance(error, StopIteration):  # no future can carry it
            result.set_exception(RuntimeError(f"the handler raised {error!r}"))
        else:
            result.set_exception(error)

    def run() -> None:
        returned, failure = None, None
        try:
            returned = context.run(function)
        except BaseException as error:  # handed to whoever waits
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is gone, and so is everyone who waited
            loop.call_soon_threadsafe(settle, returned, failure)

    threading.Thread(target=run, name="outlast handler", daemon=True).start()
    return await result
