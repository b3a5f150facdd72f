"""A worker: takes turns for one or several services until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from outlast.engines import inspector_of, open_engine, patience_of
from outlast.errors import Misuse, Unavailable
from outlast.ports import Changes, Engine, World
from outlast.runtime.context import bind, prepare
from outlast.runtime.flight import Flight
from outlast.runtime.host import Host, Letter
from outlast.runtime.housekeeping import Housekeeping, idle
from outlast.runtime.retention import too_short
from outlast.runtime.service import Service
from outlast.runtime.turn import turn
from outlast.signals import Interrupted, Observer, Signal, Started, Stopped, Warned, unobserved

BATCH = 256
CONCURRENCY = 100
LEASE = timedelta(seconds=30)
GRACE = timedelta(seconds=30)
KEEP_HISTORY = timedelta(days=7)
POLL = timedelta(seconds=0.25)
"""How long at most a message waits whose notification was lost."""


class Station:
    """One service at work in this process: the loop around `turn`."""

    def __init__(self, host: Host, *, concurrency: int, batch: int, poll: timedelta) -> None:
        self.host = host
        self.concurrency = concurrency
        self.batch = batch
        self.poll = poll
        self.wake = asyncio.Event()
        self.is_stopping = False
        self.flight = Flight(host, self.wake.set)
        self._finished: list[Letter] = []
        self._renewed_at = 0.0
        self._pause = 0.0

    async def run(self) -> None:
        """Takes turns until stopped; what goes wrong with the engine is retried for ever."""
        self.host.engine.listen(self.host.name, self.wake.set)
        self._renewed_at = asyncio.get_running_loop().time()
        while not self.is_stopping:
            self.wake.clear()
            try:
                progressed = await self.once()
                self._pause = 0.0
            except Exception as error:  # the engine's, or a bug: in both cases the others go on, and this is told
                self.host.observe(Interrupted(self.host.name, error))
                self._pause = min(max(0.05, self._pause * 2), 1.0)
                await asyncio.sleep(self._pause)
                continue
            if progressed:
                await asyncio.sleep(0)  # lets the handlers that this turn claimed run
            else:
                await idle(self.wake, self.poll)

    async def once(self) -> bool:
        """One turn, if there is something to do. False if there was not."""
        await self._renew_claims()
        letters = await self._next_letters()
        if not letters:
            return False
        await turn(self.host, letters, self.flight.start)
        self._finished = []
        return True

    async def _next_letters(self) -> list[Letter]:
        """What has finished, and what is waiting as far as there is room for it."""
        deliveries = await self.host.engine.receive(self.host.name, self.batch)
        # Taken after the waiting: what finished meanwhile is still ours, even if its claim has run out.
        # Kept until its turn is committed: an engine that fails must not cost what handlers have done.
        self._finished += self.flight.take_finished()
        in_flight = {letter.delivery.receipt for letter in self._finished} | self.flight.flying.keys()
        waiting = [self.host.open(d) for d in deliveries if d.receipt not in in_flight]
        suspects = [w for w in waiting if w.delivery.count >= self.host.patience.alone_after]
        if suspects:
            # One that may kill its process is handled while nothing else is, so that it can take nothing along.
            return self._finished if in_flight else suspects[:1]
        return self._finished + self._with_room(waiting)

    def _with_room(self, waiting: Sequence[Letter]) -> list[Letter]:
        """Those whose handlers may begin now, and all that need no room because they do not wait."""
        patience = self.host.patience
        room = self.concurrency - len(self.flight.flying)
        # What runs was counted once more when it was claimed.
        few = patience.few - sum(claim.count > patience.few_after for claim in self.flight.claims)
        letters: list[Letter] = []
        for letter in waiting:
            if letter.runs_outside and letter.error is None:
                is_doubted = letter.delivery.count >= patience.few_after
                if room <= 0 or (is_doubted and few <= 0):
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
            finished = self._finished + self.flight.take_finished()
            try:
                self._finished = finished
                if finished:
                    await turn(self.host, finished, self.flight.start)
                self._finished = []
                await self._renew_claims()
            except Unavailable as error:
                self.host.observe(Interrupted(self.host.name, error))

    async def stop(self, grace: timedelta) -> None:
        """Takes no more, finishes what runs within the grace period, commits it, and releases the rest."""
        self.is_stopping = True
        self.wake.set()
        await self._drain(grace)
        abandoned = await self.flight.abandon()
        try:
            finished = self._finished + self.flight.take_finished()
            if finished:
                await turn(self.host, finished, self.flight.start)
        except Unavailable as error:  # then these are handed over again when their lease ends
            self.host.observe(Interrupted(self.host.name, error))
        try:
            if abandoned:
                work = await self.host.engine.begin(self.host.name)
                await work.commit(Changes(released=abandoned))
        except Unavailable as error:
            self.host.observe(Interrupted(self.host.name, error))
        self.host.observe(Stopped(self.host.name, len(abandoned)))


class Worker:
    """Runs services in this process: `async with Worker([ordering], url="sqlite:///shop.db"): ...`.

    On entry every service is subscribed and ready; on exit it stops as on SIGTERM: takes no more messages,
    lets running handlers finish for `grace`, and gives back what is left. `run` does the same until a signal.

    `concurrency` bounds the handlers that run at once per service, `batch` the messages per turn, `lease` how long
    a message stays hidden after the process that handles it has gone silent, `keep_history` how far back
    conversations can be looked at. `overrides` replaces what services provide, by type, in tests.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        url: str | None = None,
        engine: Engine | None = None,
        world: World | None = None,
        concurrency: int = CONCURRENCY,
        batch: int = BATCH,
        lease: timedelta = LEASE,
        grace: timedelta = GRACE,
        poll: timedelta = POLL,
        keep_history: timedelta = KEEP_HISTORY,
        overrides: Mapping[Any, Any] | None = None,
        observe: Observer = unobserved,
        version: str = "",
    ) -> None:
        names = [service.name for service in services]
        if not services or len(set(names)) != len(names):
            raise Misuse(f"a worker was given the services {names!r}. Give it at least one, and each only once.")
        if concurrency < 1 or batch < 1:
            raise Misuse(f"a worker needs concurrency and batch of at least 1, not {concurrency} and {batch}.")
        self.services = list(services)
        self.engine = engine
        self.world = world
        self.grace = grace
        self.concurrency, self.batch, self.lease, self.poll = concurrency, batch, lease, poll
        self.keep_history = keep_history
        self.overrides = overrides or {}
        self.observe = harmless(observe)
        self.version = version
        self.stations: list[Station] = []
        self._url = url
        self._owns_engine = engine is None
        self._tasks: list[asyncio.Task[None]] = []
        self._housekeeping: Housekeeping | None = None
        self._starting: asyncio.Timeout | None = None
        self._is_entered = asyncio.Event()
        self._stopping: asyncio.Future[None] | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._starting is not None or self._stopping is not None:
            raise Misuse("a worker runs once. Make a new one to start its services again.")
        try:
            async with asyncio.timeout(None) as self._starting:
                await self._start()
        except BaseException as error:
            await self._let_go()
            was_stopped = isinstance(error, TimeoutError) and self._starting is not None and self._starting.expired()
            if not was_stopped:
                raise
        finally:
            self._is_entered.set()
        return self

    async def _start(self) -> None:
        if self.engine is None:
            self.engine, self.world = open_engine(self._url, self.world)
        elif self.world is None:
            raise Misuse("a worker that is given an engine must be given the world too: Worker(..., world=...).")
        engine, world = self.engine, self.world
        assert world is not None
        for service in self.services:
            handlers = await bind(
                service, connection_type=engine.connection_type, overrides=self.overrides, stack=self._stack
            )
            host = Host(
                service.name,
                service,
                engine,
                world,
                handlers,
                self.observe,
                lease=self.lease,
                host_name=socket.gethostname(),
                version=self.version,
            )
            self.stations.append(Station(host, concurrency=self.concurrency, batch=self.batch, poll=self.poll))
        for service in self.services:
            await prepare(service, engine)
            await engine.declare(service.name, service.routes.topics)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(station.run()) for station in self.stations]
        self._housekeeping = Housekeeping(
            engine,
            world,
            self.observe,
            poll=self.poll,
            inspector=inspector_of(engine) if self._owns_engine else None,
            keep_history=self.keep_history,
        )
        self._tasks += [loop.create_task(duty) for duty in self._housekeeping.duties()]
        for service in self.services:
            self.observe(Started(service.name, type(engine).__name__))
        patience = patience_of(engine)
        if patience is not None:
            for warning in too_short(self.services, keep_history=self.keep_history, patience=patience):
                self.observe(Warned(warning))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self, grace: timedelta | None = None) -> None:
        """Stops within the grace period. A second call waits for the first one to end.

        A worker that is just starting is stopped at once, and its block is entered all the same, as it is when the
        stop comes a moment later.
        """
        if self._stopping is not None:
            await asyncio.shield(self._stopping)
            return
        self._stopping = asyncio.get_running_loop().create_future()
        try:
            if self._starting is not None and not self._is_entered.is_set():
                self._starting.reschedule(asyncio.get_running_loop().time())
                await self._is_entered.wait()
            if self._tasks:
                await self._stop(self.grace if grace is None else grace)
        finally:
            self._stopping.set_result(None)

    async def _stop(self, grace: timedelta) -> None:
        assert self.engine is not None
        for task in self._tasks[len(self.stations) :]:
            task.cancel()
        for station in self.stations:
            station.is_stopping = True
            station.wake.set()
        await asyncio.wait(self._tasks, timeout=grace.total_seconds() + 1)
        await asyncio.gather(*(station.stop(grace) for station in self.stations), return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._let_go()

    async def _let_go(self) -> None:
        try:
            await self._stack.aclose()
        finally:
            if self._owns_engine and self.engine is not None:
                await self.engine.close()

    @property
    def trouble(self) -> str:
        """What does not work at the moment, for a health check; empty when all is well."""
        told_by = self._housekeeping or self.engine
        return told_by.trouble if told_by is not None else "the worker is not running"

    def hurry(self) -> None:
        """Makes a stop that is under way end at once: what runs is cancelled and given back."""
        for station in self.stations:
            station.flight.cut_short()

    async def failed(self) -> None:
        """Waits until a part of the worker ends with an error, and raises it. Only a bug makes it end."""
        if not self._tasks:
            return
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()


def harmless(observe: Observer) -> Observer:
    """An observer whose own failures the event loop is told of, and nothing else suffers from."""

    def observed(signal: Signal) -> None:
        try:
            observe(signal)
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"an observer failed at {type(signal).__name__}", "exception": error}
            )

    return observed


async def run(worker: Worker, *, ready: Callable[[], None] = lambda: None) -> None:
    """Runs a worker until SIGTERM or SIGINT; a second signal makes it stop at once."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if asked.is_set():
            worker.hurry()
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    async with worker:
        ready()
        waiting = loop.create_task(asked.wait())
        failing = loop.create_task(worker.failed())
        await asyncio.wait([waiting, failing], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if failing.done():
            failing.result()
        failing.cancel()
