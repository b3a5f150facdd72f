"""A worker: takes turns for one or several services until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from outlast.engines import inspector_of, open_engine, patience_of
from outlast.errors import Misuse
from outlast.ports import Engine, World
from outlast.runtime.context import bind, prepare
from outlast.runtime.host import Host
from outlast.runtime.housekeeping import Housekeeping
from outlast.runtime.retention import too_short
from outlast.runtime.service import Service
from outlast.runtime.station import Station
from outlast.signals import Observer, Signal, Started, Warned, unobserved

BATCH = 256
CONCURRENCY = 100
LEASE = timedelta(seconds=30)
GRACE = timedelta(seconds=30)
KEEP_HISTORY = timedelta(days=7)
NEW_OBJECTS = 10_000
"""So many are made before the collector of cycles looks at them, in a process that is a worker's."""
POLL = timedelta(seconds=0.25)
"""How long at most a message waits whose notification was lost."""


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


def spare_collector() -> None:
    """Lets Python's collector of cycles look at new objects less often, and never again at those that there are now.

    A turn makes thousands of objects and needs none of them when it ends, but the collector looks at all of them
    several times meanwhile, which costs a tenth of the time of a busy process. For a process that is a worker.
    """
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)


async def run(worker: Worker, *, ready: Callable[[], None] = lambda: None) -> None:
    """Runs a worker until SIGTERM or SIGINT; a second signal makes it stop at once.

    The process is the worker's: Python's collector of cycles is set up for it, see `spare_collector`.
    """
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if asked.is_set():
            worker.hurry()
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    async with worker:
        spare_collector()
        ready()
        waiting = loop.create_task(asked.wait())
        failing = loop.create_task(worker.failed())
        await asyncio.wait([waiting, failing], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if failing.done():
            failing.result()
        failing.cancel()
