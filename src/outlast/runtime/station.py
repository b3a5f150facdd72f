"""One service at work in this process: the loop around `turn`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from outlast.errors import Unavailable
from outlast.ports import Address, Changes, Delivery
from outlast.runtime.flight import Flight
from outlast.runtime.host import Host, Letter
from outlast.runtime.housekeeping import idle
from outlast.runtime.turn import turn
from outlast.signals import Interrupted, Stopped

PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.05, 1.0
"""How long it rests after a failure of the engine; longer each time, until something succeeds."""


@dataclass(eq=False, slots=True)
class Taken:
    """What one turn is about: letters that handlers have finished, and letters that were waiting."""

    finished: list[Letter]
    waiting: list[Letter]

    @property
    def letters(self) -> list[Letter]:
        return self.finished + self.waiting

    @property
    def claims(self) -> list[Letter]:
        """Those whose handlers begin as soon as it is committed."""
        return [letter for letter in self.waiting if letter.runs_outside and not letter.is_claimed]


class Station:
    """Takes turns until it is stopped. Where more waits than a turn takes, the next one begins before that one ends.

    How many are under way at once is the engine's to say: it pays where a turn waits for a server. No two of them are
    about the same instance, so none overrules another, and what is for one instance is decided in order. Those of a
    service whose handlers share the transaction do not overlap: the locks of one's rows would hold up the other's.
    """

    def __init__(self, host: Host, *, concurrency: int, batch: int, poll: timedelta) -> None:
        self.host = host
        self.concurrency = concurrency
        self.batch = batch
        self.poll = poll
        self.wake = asyncio.Event()
        self.is_stopping = False
        self.flight = Flight(host, self.wake.set)
        self._has_handlers_inside = any(handler.in_transaction for handler in host.handlers.values())
        self._only_waits = not self._has_handlers_inside and not host.service.routes.workflows
        """Whether all that it takes needs room."""
        self._left_doubted = False
        """What is doubted stands before others, and has no room."""
        self._finished: list[Letter] = []
        """Carried out, and not taken by a turn yet."""
        self._under_way: list[Taken] = []
        self._unawaited: set[asyncio.Task[None]] = set()
        """Turns that go on while the next one begins."""
        self._renewed_at = 0.0
        self._pause = 0.0

    async def run(self) -> None:
        """Takes turns until stopped; what goes wrong with the engine is retried for ever."""
        self.host.engine.listen(self.host.name, self.wake.set)
        self._renewed_at = asyncio.get_running_loop().time()
        try:
            while not self.is_stopping:
                self.wake.clear()
                try:
                    progressed = await self._once()
                except Exception as error:  # the engine's, or a bug: in both cases the others go on, and this is told
                    self.host.observe(Interrupted(self.host.name, error))
                    self._pause = min(max(PAUSE_SECONDS, self._pause * 2), PAUSE_SECONDS_MAX)
                    await asyncio.sleep(self._pause)
                    continue
                if progressed:
                    await asyncio.sleep(0)  # lets the handlers that this turn claimed run
                else:
                    await idle(self.wake, self.poll)
            await self._end_turns()
        finally:
            for task in self._unawaited:
                task.cancel()
            await self._end_turns()

    async def stop(self, grace: timedelta) -> None:
        """Takes no more, finishes what runs within the grace period, commits it, and releases the rest."""
        self.is_stopping = True
        self.wake.set()
        await self._drain(grace)
        abandoned = await self.flight.abandon()
        try:
            await self._commit_finished()
        except Unavailable as error:  # then these are handed over again when their lease ends
            self.host.observe(Interrupted(self.host.name, error))
        try:
            if abandoned:
                work = await self.host.engine.begin(self.host.name)
                await work.commit(Changes(released=abandoned))
        except Unavailable as error:
            self.host.observe(Interrupted(self.host.name, error))
        self.host.observe(Stopped(self.host.name, len(abandoned)))

    async def _once(self) -> bool:
        """Takes a turn, if there is something to do; False if there was not. Raises what an earlier one failed with."""
        for task in [task for task in self._unawaited if task.done()]:
            self._unawaited.discard(task)
            task.result()
        await self._renew_claims()
        limit = self._limit()
        taken = self._take(await self.host.engine.receive(self.host.name, limit) if limit > 0 else [])
        if not (taken.finished or taken.waiting):
            self._pause = 0.0
            return False
        if len(taken.waiting) == limit > 0 and self._may_overlap:  # for there is probably more
            task = asyncio.get_running_loop().create_task(self._turn(taken))
            self._unawaited.add(task)
            task.add_done_callback(lambda _: self.wake.set())
        else:
            await self._turn(taken)
        return True

    @property
    def _may_overlap(self) -> bool:
        if self._has_handlers_inside or self._pause:
            return False
        return len(self._unawaited) + 1 < self.host.engine.turns_at_once

    async def _end_turns(self) -> None:
        """Waits for the turns that go on, and tells what went wrong with them."""
        for ended in await asyncio.gather(*self._unawaited, return_exceptions=True):
            if isinstance(ended, Exception):
                self.host.observe(Interrupted(self.host.name, ended))
        self._unawaited.clear()

    def _turn(self, taken: Taken) -> Coroutine[Any, Any, None]:
        """To be awaited, or made a task of. It counts as under way from now on."""
        self._under_way.append(taken)
        return self._take_turn(taken)

    async def _take_turn(self, taken: Taken) -> None:
        try:
            await turn(self.host, taken.letters, self.flight.start)
            self._pause = 0.0
        except BaseException:
            self._finished = taken.finished + self._finished  # an engine that fails does not cost what handlers did
            raise
        finally:
            self._under_way.remove(taken)

    def _take(self, deliveries: Sequence[Delivery]) -> Taken:
        """What has finished, and what is waiting as far as there is room for it."""
        # Taken after the waiting: what finished meanwhile is still ours, even if its claim has run out.
        self._finished += self.flight.take_finished()
        elsewhere = {letter.delivery.receipt for letter in self._finished} | self.flight.flying.keys()
        for taken in self._under_way:
            elsewhere.update([letter.delivery.receipt for letter in taken.letters])
        waiting = [self.host.open(d) for d in deliveries if d.receipt not in elsewhere]
        suspects = [w for w in waiting if w.delivery.count >= self.host.patience.alone_after]
        if suspects:
            # One that may kill its process is handled while nothing else is, so that it can take nothing along.
            waiting = [] if elsewhere else suspects[:1]
        busy = self._busy()
        finished = [letter for letter in self._finished if is_free(letter, busy)]
        self._finished = [letter for letter in self._finished if not is_free(letter, busy)] if busy else []
        return Taken(finished, self._with_room([letter for letter in waiting if is_free(letter, busy)]))

    def _busy(self) -> set[Address]:
        """The instances that turns under way are about."""
        return {address for taken in self._under_way for letter in taken.letters for _, address in letter.targets}

    def _limit(self) -> int:
        """How much to receive: no more than there is room for, if all of it needs room and none stands in the way."""
        if not self._only_waits:
            return self.batch
        room = self._room()
        return self.batch if room > 0 and self._left_doubted else min(self.batch, room)

    def _room(self) -> int:
        """How many more handlers may run."""
        return self.concurrency - len(self.flight.flying) - sum(len(taken.claims) for taken in self._under_way)

    def _with_room(self, waiting: list[Letter]) -> list[Letter]:
        """Those whose handlers may begin now, and all that need no room because they do not wait."""
        patience, room = self.host.patience, self._room()
        # What runs was counted once more when it was claimed.
        few = patience.few - sum(claim.count > patience.few_after for claim in self.flight.claims)
        few -= sum(letter.delivery.count >= patience.few_after for taken in self._under_way for letter in taken.claims)
        letters: list[Letter] = []
        self._left_doubted = False
        for letter in waiting:
            if letter.runs_outside and letter.error is None:
                is_doubted = letter.delivery.count >= patience.few_after
                if room <= 0 or (is_doubted and few <= 0):
                    self._left_doubted |= is_doubted
                    continue
                room -= 1
                few -= is_doubted
            letters.append(letter)
        return letters

    async def _renew_claims(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._renewed_at > self.host.lease.total_seconds() / 3 and self.flight.flying:
            self._renewed_at = now
            work = await self.host.engine.begin(self.host.name)
            until = self.host.world.now() + self.host.lease
            await work.commit(Changes(renewed=self.flight.claims, claimed_until=until))

    async def _drain(self, grace: timedelta) -> None:
        """Waits for what is running; meanwhile its claims are renewed, and what has finished is committed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace.total_seconds()
        while self.flight.flying and not self.flight.is_hurried and (rest := deadline - loop.time()) > 0:
            await self.flight.settle(min(timedelta(seconds=rest), self.host.lease / 3))
            try:
                await self._commit_finished()
                await self._renew_claims()
            except Unavailable as error:
                self.host.observe(Interrupted(self.host.name, error))

    async def _commit_finished(self) -> None:
        finished, self._finished = self._finished + self.flight.take_finished(), []
        if finished:
            await self._turn(Taken(finished, []))


def is_free(letter: Letter, busy: set[Address]) -> bool:
    """Whether no turn under way is about an instance that it is for."""
    return not busy or busy.isdisjoint([address for _, address in letter.targets])
