"""Handlers that may wait: claimed, carried out side by side, and brought back for a turn to commit.

A batch of handlers runs in one task, one after the other. Only a handler that really waits keeps that task
for itself, and the rest of the batch goes on in a new one. So a handler that does not wait costs no task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from outlast.core.instance import listed
from outlast.ports import Delivery
from outlast.runtime.host import Host, Letter
from outlast.runtime.waiting import TimeLimit, Watched, in_thread

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
        """Carries out letters one after the other, until one of them waits: then the rest go on without it."""
        while letters:
            letter = letters.popleft()
            assert letter.handler is not None
            limit = TimeLimit(letter.handler.plan.name, letter.handler.plan.time_limit)

            def waits(limit: TimeLimit = limit) -> None:
                nonlocal letters
                limit.start()
                rest, letters = letters, deque[Letter]()
                if rest:
                    self._spawn(rest)

            try:
                letter.returned = await Watched(self._handle(letter), waits)
            except asyncio.CancelledError as error:
                if self._given_up:
                    raise
                letter.error = limit.exceeded or error
            except BaseException as error:  # whatever ends a handler ends its message's attempt, not the worker
                letter.error = error
            finally:
                limit.stop()
            if self.flying.pop(letter.delivery.receipt, None) is not None:
                self.finished.append(letter)
                self.landed()

    async def _handle(self, letter: Letter) -> list[Any]:
        handler, envelope = letter.handler, letter.envelope
        assert handler is not None
        assert envelope is not None
        arguments = handler.arguments(envelope, self.host.name, self.host.world)
        function = handler.plan.function
        message = self.host.message_of(letter)
        if handler.plan.is_async:
            return listed(await function(message, **arguments), function)
        # What it returns may be a generator, which has to run in the thread too.
        return await in_thread(lambda: listed(function(message, **arguments), function))
