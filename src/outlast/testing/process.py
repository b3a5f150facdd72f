"""One simulated process: a real worker, on an engine that fails, in a world whose time is virtual."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

from outlast.core.routing import HandlerPlan
from outlast.errors import Unavailable
from outlast.ports import Changes, Delivery
from outlast.runtime.context import Context, Transaction
from outlast.runtime.service import Service
from outlast.signals import Signal
from outlast.testing.faults import FaultyEngine
from outlast.testing.loop import OWNER, VirtualLoop
from outlast.testing.tape import BROKEN_BROKERS, Dice, Fault
from outlast.worker import Worker

T = TypeVar("T")

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
POLL = timedelta(seconds=0.25)
"""After so long a message is found whose notification was lost."""
LEASE = timedelta(seconds=30)
PAUSE_SECONDS = 75.0
"""Longer than any claim is valid without being renewed."""
DELAY_SECONDS = 3.0
AWAY_SECONDS = 6 * 3600.0
RESTART_SECONDS = 1.0
RARE_POLL = timedelta(hours=12)
"""The workers' own poll; the simulation wakes them instead when a poll would find something."""


class SimulatedWorld:
    """Virtual time (off by some seconds, if need be), and ids and dice that depend on the seed only."""

    def __init__(self, loop: VirtualLoop, ids: Callable[[], str], dice: Dice, *, skew_seconds: int = 0) -> None:
        self._loop = loop
        self._dice = dice
        self._skew = timedelta(seconds=skew_seconds)
        self._at = -1.0
        self._now = EPOCH
        self.new_id = ids

    def now(self) -> datetime:
        at = self._loop.time()
        if at != self._at:
            self._at, self._now = at, EPOCH + timedelta(seconds=at) + self._skew
        return self._now

    def dice(self) -> float:
        return self._dice.throw()


class Theatre(Protocol):
    """What a process asks of the simulation that it belongs to."""

    loop: VirtualLoop
    is_over: bool

    async def stand(self, process: Process, effect: str) -> Fault | None:
        """Waits for its turn, and learns what goes wrong."""
        ...

    def ended(self, process: Process, restart_seconds: float) -> None:
        """The process is gone and is to be started again."""
        ...

    def outside(self, delay_seconds: float, call: Callable[..., None], *args: Any) -> None:
        """Calls something later, whatever becomes of this process."""
        ...

    def ran(self, process: Process, context: Context) -> None:
        """A handler is run."""
        ...

    def wrote(self, process: Process, service: str, changes: Changes) -> None:
        """A commit succeeded."""
        ...

    def observe(self, process: Process, signal: Signal) -> None:
        """The runtime of the process says something."""
        ...

    def failed(self, process: Process, error: BaseException) -> None:
        """The worker itself ended by an error."""
        ...

    def repeat(self, service: str, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """The deliveries, and one that was handed over before."""
        ...

    def handed(self, process: Process, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """A process is handed over these deliveries, or a share of them."""
        ...

    def befall(self, process: Process, fault: Fault) -> None:
        """Something happens to the broker, or to the way there."""
        ...

    def note(self, process: Process | None, text: str) -> None:
        """Adds a line to the story."""
        ...


class Process:
    """A process of one service. It lives until it crashes or is stopped."""

    is_patient = False

    def __init__(self, name: str, service: Service, theatre: Theatre, world: SimulatedWorld) -> None:
        self.name = name
        self.service = service
        self.theatre = theatre
        self.world = world
        self.is_dead = False
        self.is_paused = False
        self.is_ready = False
        self.held: list[tuple[asyncio.Handle, Any]] = []
        self.engine: FaultyEngine | None = None
        self.worker: Worker | None = None
        self._fault: Fault | None = None
        self._started = asyncio.Event()
        self._deaf_until = -1.0
        self._wakes: list[Callable[[], None]] = []

    @property
    def is_over(self) -> bool:
        return self.is_dead or self.theatre.is_over

    def start(self, engine: FaultyEngine, *, batch: int, overrides: Mapping[Any, Any]) -> None:
        """Starts its worker, in a context that marks everything as belonging to this process."""
        self.engine = engine
        self.worker = Worker(
            [self._watched(self.service)],
            engine=engine,
            world=self.world,
            poll=RARE_POLL,
            lease=LEASE,
            batch=batch,
            overrides=overrides,
            observe=lambda signal: self.theatre.observe(self, signal),
        )
        context = copy_context()
        context.run(OWNER.set, self)
        self.theatre.loop.create_task(self._live(), name=self.name, context=context)

    async def _live(self) -> None:
        assert self.worker is not None
        try:
            await self.worker.__aenter__()
        except Unavailable as error:
            self.theatre.note(self, f"could not start: {error}")
            self.theatre.ended(self, RESTART_SECONDS)
            return
        except Exception as error:  # a service that can never start is not one that is away
            self.theatre.failed(self, error)
            return
        self.is_ready = True
        self._started.set()
        try:
            await self.worker.failed()
        except Exception as error:  # a worker that ends by itself is what the simulation looks for
            self.theatre.failed(self, error)

    def stop(self) -> None:
        """Stops the worker in good order, as on SIGTERM."""

        async def stop() -> None:
            assert self.worker is not None
            assert self.engine is not None
            await self._started.wait()  # a signal that comes before is heard only then
            self.is_ready = False
            await self.worker.stop()
            await self.engine.close()
            self.is_dead = True

        context = copy_context()
        context.run(OWNER.set, self)
        self.theatre.loop.create_task(stop(), name=f"{self.name} stops", context=context)

    def wake(self) -> None:
        """What a poll would do."""
        for notify in self._wakes:
            notify()
        if self.engine is not None:
            self.engine.wake()

    async def effect(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        fault = self._fault = await self.theatre.stand(self, name)
        if fault is None:
            return await call()
        match fault:
            case Fault.CRASH_BEFORE | Fault.AWAY:
                await self._crash(AWAY_SECONDS if fault is Fault.AWAY else RESTART_SECONDS)
            case Fault.ERROR_BEFORE:
                raise self._unavailable(name)
            case Fault.PAUSE:
                await self._pause()
            case Fault.DELAY:
                await asyncio.sleep(DELAY_SECONDS)
            case Fault.DEAF:
                self._deaf_until = self.theatre.loop.time() + POLL.total_seconds()
            case _ if fault in BROKEN_BROKERS:
                self.theatre.befall(self, fault)
            case _:
                pass
        result = await call()
        if fault is Fault.CRASH_AFTER:
            await self._crash(RESTART_SECONDS)
        if fault is Fault.ERROR_AFTER:
            raise self._unavailable(name)
        return result

    def hand_over(self, service: str, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        match self._fault:
            case Fault.DUPLICATE:
                deliveries = self.theatre.repeat(service, deliveries)
            case Fault.REORDER:
                deliveries = list(reversed(deliveries))
            case Fault.PARTIAL:
                deliveries = self.share(deliveries)
            case _:
                pass
        return self.theatre.handed(self, deliveries)

    def share(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Every second one; the others are for the processes with other numbers, as with a broker."""
        return deliveries[int(self.name.rpartition(".")[2]) % 2 :: 2] or deliveries

    def hears(self, notify: Callable[[], None]) -> Callable[[], None]:
        def heard() -> None:
            late = self._deaf_until - self.theatre.loop.time()
            if self.is_over:
                return
            if late > 0:
                self.theatre.outside(late, notify)
            else:
                notify()

        self._wakes.append(notify)
        return heard

    def wrote(self, service: str, changes: Changes) -> None:
        self.theatre.wrote(self, service, changes)

    async def _crash(self, restart_seconds: float) -> None:
        self.theatre.ended(self, restart_seconds)
        # Never resumed: what is dead does not clean up.
        await self.theatre.loop.create_future()

    async def _pause(self) -> None:
        def resume() -> None:
            self.is_paused = False
            self.theatre.note(self, "goes on")
            self.theatre.loop.resume(self)

        self.is_paused = True
        self.theatre.outside(PAUSE_SECONDS, resume)
        await asyncio.sleep(0)

    def _unavailable(self, effect: str) -> Unavailable:
        return Unavailable(f"{effect} failed, because the simulation says so. Look at the tape.")

    def _watched(self, service: Service) -> Service:
        """The service with handlers whose beginning and end are effects too."""
        watched = copy.copy(service)
        watched.routes = copy.copy(service.routes)
        watched.routes.handlers = {name: self._effected(plan) for name, plan in service.routes.handlers.items()}
        return watched

    def _effected(self, plan: HandlerPlan) -> HandlerPlan:
        connection_type = self.engine.connection_type if self.engine is not None else None
        if any(kind in (Transaction, connection_type) for _, kind in plan.needs):
            return plan  # it runs inside the turn, between two effects
        function = plan.function

        async def handler(message: Any, *, outlast_context: Context, **arguments: Any) -> Any:
            async def run() -> Any:
                self.theatre.ran(self, outlast_context)
                returned = function(message, **arguments)
                return await returned if inspect.isawaitable(returned) else returned

            return await self.effect("handler", run)

        return replace(
            plan,
            function=handler,
            is_async=True,
            needs=(*plan.needs, ("outlast_context", Context)),
        )
