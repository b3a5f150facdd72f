"""What a worker does beside its turns: moving what is due, cleaning away what is kept no longer, telling of trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

from outlast.ports import RELAY, Engine, Inspector, World
from outlast.signals import Interrupted, Observer, Recovered, Troubled

RELAYED_AT_ONCE = 1000
CLEAN_EVERY = timedelta(minutes=1)
CLEANED_AT_ONCE = 500
BRISK_SECONDS = 0.05
"""The pause where there is more to clean: as fast as a broker can bring messages, each of which leaves a row."""
BORNE = 3
"""Failures of the cleaning in a row, from which on it is trouble."""


class Housekeeping:
    """Of one worker. `inspector`: what cleans, if it is this worker's business to clean."""

    def __init__(
        self,
        engine: Engine,
        world: World,
        observe: Observer,
        *,
        poll: timedelta,
        inspector: Inspector | None,
        keep_history: timedelta,
    ) -> None:
        self.engine = engine
        self.world = world
        self.observe = observe
        self.poll = poll
        self.inspector = inspector
        self.keep_history = keep_history
        self._failures = 0
        self._failure = ""

    @property
    def trouble(self) -> str:
        """What does not work at the moment; empty when all is well."""
        return self.engine.trouble or self._failure

    def duties(self) -> list[Coroutine[Any, Any, None]]:
        """What is to be run at the same time, each until it is cancelled."""
        return [self._relay(), *([self._clean(self.inspector)] if self.inspector is not None else [])]

    async def _relay(self) -> None:
        """Moves due letters into their queues: timers, retries, delayed messages."""
        wake = asyncio.Event()
        self.engine.listen(RELAY, wake.set)
        is_troubled = False
        while True:
            wake.clear()
            rest = self.poll
            if bool(self.trouble) != is_troubled:
                is_troubled = not is_troubled
                self.observe(Troubled(self.trouble) if is_troubled else Recovered())
            try:
                due = await self.engine.relay(self.world.now(), limit=RELAYED_AT_ONCE)
                if due is not None:
                    rest = min(max(due - self.world.now(), timedelta(milliseconds=1)), self.poll)
            except Exception as error:  # whatever it is, what is due must not wait for a restart
                self.observe(Interrupted("relay", error))
            await idle(wake, rest)

    async def _clean(self, inspector: Inspector) -> None:
        """Deletes, little by little, what is kept no longer: history, completed instances, ids."""
        while True:
            try:
                now = self.world.now()
                removed = await inspector.clean(now, now - self.keep_history, CLEANED_AT_ONCE)
                self._failures, self._failure = 0, ""
            except Exception as error:  # it is tried again, and nothing else waits for it
                self.observe(Interrupted("cleaning", error))
                removed = 0
                self._failures += 1
                if self._failures >= BORNE:
                    self._failure = f"what is kept no longer cannot be deleted, so the database grows: {error}"
            await asyncio.sleep(BRISK_SECONDS if removed >= CLEANED_AT_ONCE else CLEAN_EVERY.total_seconds())


async def idle(wake: asyncio.Event, longest: timedelta) -> None:
    """Waits for the event, but not for ever."""
    handle = asyncio.get_running_loop().call_later(longest.total_seconds(), wake.set)
    try:
        await wake.wait()
    finally:
        handle.cancel()
