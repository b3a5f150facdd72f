"""Handlers that may wait: claimed, carried out side by side, and brought back for a turn to commit.

A batch of handlers runs in one task, one after the other. Only a handler that really waits keeps that task
for itself, and the rest of the batch goes on in a new one. So a handler that does not wait costs no task.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from outlast.core.instance import listed
from outlast.errors import TimeLimitExceeded
from outlast.ports import Delivery
from outlast.runtime.context import Context
from outlast.runtime.host import Host, Letter

T = TypeVar("T")


class Flight:
    """The handlers of one service that are running now."""

    def __init__(self, host: Host, landed: Callable[[], None]) -> None:
        self.host = host
        self.landed = landed
        self.finished: list[Letter] = []
        """Carried out (or failed), to be committed by a turn."""
        self.flying: dict[Any, Letter] = {}
        """By receipt: claimed, and not finished yet."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._given_up = False
        self._hurry = asyncio.Event()

    def start(self, letters: Sequence[Letter]) -> None:
        """Carries these letters out. A suspect without a waiting handler is finished as it is."""
        waiting: deque[Letter] = deque()
        for letter in letters:
            if letter.runs_outside:
                self.flying[letter.delivery.receipt] = letter
                waiting.append(letter)
            else:
                self.finished.append(letter)
        if waiting:
            self._spawn(waiting)

    def take_finished(self) -> list[Letter]:
        """Those that are finished and were not taken before."""
        finished, self.finished = self.finished, []
        return finished

    @property
    def claims(self) -> list[Delivery]:
        """The deliveries whose handlers are running."""
        return [letter.delivery for letter in self.flying.values()]

    async def settle(self, longest: timedelta) -> None:
        """Waits until something that runs has ended or `cut_short` is called, but no longer than this."""
        hurry = asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait(
                [*self._tasks, hurry], timeout=longest.total_seconds(), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            hurry.cancel()

    @property
    def is_hurried(self) -> bool:
        """Whether `cut_short` was called."""
        return self._hurry.is_set()

    def cut_short(self) -> None:
        """Ends `settle` at once, and whoever calls it again does not wait either."""
        self._hurry.set()

    async def abandon(self) -> list[Delivery]:
        """Cancels what is running and returns its deliveries, to be released."""
        self._given_up = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)
        abandoned = self.claims
        self.flying.clear()
        return abandoned

    def _spawn(self, letters: deque[Letter]) -> None:
        task = asyncio.get_running_loop().create_task(self._carry_out(letters))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, letters: deque[Letter]) -> None:
        while letters:
            letter = letters.popleft()
            handler = letter.handler
            assert handler is not None
            deadline: asyncio.TimerHandle | None = None
            expired = False
            task = asyncio.current_task()
            assert task is not None

            def waits(limit: timedelta = handler.plan.time_limit, task: asyncio.Task[Any] = task) -> None:
                nonlocal deadline, letters
                rest, letters = letters, deque[Letter]()
                if rest:
                    self._spawn(rest)

                def expire() -> None:
                    nonlocal expired
                    expired = True
                    task.cancel()

                deadline = asyncio.get_running_loop().call_later(limit.total_seconds(), expire)

            try:
                letter.returned = await Watched(self._handle(letter), waits)
            except asyncio.CancelledError as error:
                if self._given_up:
                    raise
                letter.error = error
                if expired:
                    letter.error = TimeLimitExceeded(
                        f"{handler.plan.name} ran longer than its time limit of {handler.plan.time_limit} and was "
                        "cancelled. Give it more with handles(time_limit=...), or let it wait less."
                    )
            except BaseException as error:  # whatever ends a handler ends its message's attempt, not the worker
                letter.error = error
            finally:
                if deadline is not None:
                    deadline.cancel()
            if self.flying.pop(letter.delivery.receipt, None) is not None:
                self.finished.append(letter)
                self.landed()

    async def _handle(self, letter: Letter) -> list[Any]:
        handler, envelope = letter.handler, letter.envelope
        assert handler is not None
        assert envelope is not None
        arguments = handler.arguments(Context(envelope, self.host.name, self.host.world.now()))
        function = handler.plan.function
        message = self.host.message_of(letter)
        if handler.plan.is_async:
            return listed(await function(message, **arguments), function)
        # What it returns may be a generator, which has to run in the thread too.
        return await in_thread(lambda: listed(function(message, **arguments), function))


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
