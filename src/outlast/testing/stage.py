"""Behind a simulation: processes that are started, disturbed and started again, and one sequence of effects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from outlast.errors import Misuse
from outlast.ports import OUTBOX, Changes, Delivery
from outlast.runtime.context import Context
from outlast.runtime.service import Service
from outlast.signals import Signal, Turned
from outlast.testing.backstage import Backstage, MemoryBackstage, SqliteBackstage
from outlast.testing.broker import KINDS
from outlast.testing.brokered import BrokerBackstage
from outlast.testing.faults import Faults
from outlast.testing.invariants import Books, short
from outlast.testing.loop import Owner, VirtualLoop
from outlast.testing.orders import Choice
from outlast.testing.process import LEASE, POLL, Process, SimulatedWorld
from outlast.testing.tape import Dice, Fault, Tape, fits
from outlast.testing.telling import Line

T = TypeVar("T")

NEVER_FAILS = Faults()
NO_TAPE = Tape()
OUTLIVING_CLAIMS = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.AWAY, Fault.PAUSE)
"""Faults after which others may take what a process had claimed."""
HARMLESS = (Fault.DELAY, Fault.DEAF, Fault.REORDER, Fault.PARTIAL)
"""Faults after which a broker hands nothing over again."""
SILENCE_SECONDS = 60.0
"""So long after it was heard of for the last time a process is given up by a broker."""
EFFECTS_IN_VAIN = 3_000
"""So many effects without a commit that changes anything are an endless loop."""


ENGINES: Mapping[str, Callable[[], Backstage]] = {
    "memory": MemoryBackstage,
    "sqlite": SqliteBackstage,
    **{kind: partial(BrokerBackstage, kind) for kind in KINDS},
    **{f"{kind}?bundle=64": partial(BrokerBackstage, kind, bundle=64) for kind in KINDS},
}
"""What a simulated world can stand on."""


@dataclass(kw_only=True, slots=True)
class Plot:
    """What a run is made of. A run is a function of this, and of nothing else."""

    services: Sequence[Service]
    seed: int = 0
    faults: Faults = NEVER_FAILS
    tape: Tape = NO_TAPE
    engine: str = "memory"
    workers: int = 1
    """Processes of each service."""
    batch: int = 256
    is_shared_out: bool = False
    """Each worker of a service is handed other messages, as a broker does; else all are offered the same."""
    racing: str = ""
    """If set, only this service has several workers, and only its processes wait for each other."""
    choice_points: frozenset[str] | None = None
    """If set, only these effects let other processes go first; for all interleavings of a few."""
    overrides: dict[Any, Any] = field(default_factory=dict[Any, Any])


class Outside:
    """The process of whoever looks on: a client or a driver. Nothing ever fails there."""

    name = ""
    is_over = False
    is_patient = True
    """A scenario sends once; one that is told to try again would have to do so."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    async def effect(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        return await call()

    def hand_over(self, service: str, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return deliveries

    def hears(self, notify: Callable[[], None]) -> Callable[[], None]:
        return notify

    def wrote(self, service: str, changes: Changes) -> None:
        self.stage.wrote(self, service, changes)


class Stage:
    """Runs the processes of a plot. Everything that happens in them passes through `stand`."""

    def __init__(self, plot: Plot) -> None:
        if plot.engine not in ENGINES:
            raise Misuse(f"a simulation was given the engine {plot.engine!r}. It has {', '.join(ENGINES)}.")
        self.plot = plot
        self.services = {service.name: service for service in plot.services}
        self.topics: Mapping[str, list[str]] = {s.name: s.routes.topics for s in plot.services}
        self.trace: list[tuple[str, str]] = []
        """Process and name of every effect, in order; the numbers of a tape are positions in it."""
        self.choices: list[Choice] = []
        self.written: set[int] = set()
        """The numbers of the commits that were not refused."""
        self.is_in_order = False
        """Who comes first goes first, and that is no choice."""
        self.processes: list[Process] = []
        self.lines: list[Line] = []
        self.crashes = 0
        self.is_over = False
        self.is_started = False
        self.is_disturbed = False
        """Something happened after which a handler may have to run again."""
        self.faults_met: dict[int, Fault] = {}
        self.order_met: dict[int, int] = {}
        self.skews_met: dict[int, int] = {}
        self.pending = 0
        """What will still happen from outside: restarts, processes that go on."""
        self._is_random = plot.faults != NEVER_FAILS
        self._rates: dict[str, Sequence[tuple[float, Fault]]] = {}
        self._dice = Dice(plot.seed)
        self._world_dice = Dice(plot.seed + 1)
        self._ids = 0
        self._is_nudged = False
        self._progress_at = 0
        self._handed: dict[str, list[Delivery]] = {}
        self._runs: Counter[tuple[str, str, int]] = Counter()
        self._context = copy_context()
        self.loop = VirtualLoop(self._choose, self._is_quiet)
        skew = max([plot.faults.skew_seconds, *map(abs, plot.tape.skews.values())])
        self.books = Books(self._subscribers, skew=timedelta(seconds=skew))
        self.backstage: Backstage = ENGINES[plot.engine]()
        self.broker = self.backstage.broker if isinstance(self.backstage, BrokerBackstage) else None
        if self.broker is not None:
            self.broker.loop, self.broker.later = self.loop, self.outside
        self.world = SimulatedWorld(self.loop, self._new_id, self._world_dice)
        self.engine = self.backstage.engine(self.world, Outside(self), self.books)

    @property
    def met(self) -> Tape:
        """All that went otherwise than usual so far."""
        return Tape(dict(self.faults_met), dict(self.order_met), dict(self.skews_met))

    def start(self) -> None:
        """Starts every service, once."""
        if self.is_over:
            raise Misuse("this simulation is closed. Make a new one for another run.")
        if not self.is_started:
            self.is_started = True
            self.loop.run_until_complete(self.backstage.prepare(self.engine.inner, self.topics))
            for name in self.services:
                for _ in range(self.workers_of(name)):
                    self.begin(name)

    def close(self) -> None:
        """Ends the world, without letting anything in it tidy up."""
        if not self.is_over:
            self.is_over = True
            self.loop.close()
            self.backstage.close()

    def workers_of(self, service: str) -> int:
        """How many processes the service has."""
        return self.plot.workers if self.plot.racing in ("", service) else 1

    def alive(self, service: str) -> list[Process]:
        """The processes of a service."""
        return [p for p in self.processes if p.service.name == service and not p.is_dead]

    async def stand(self, process: Process, effect: str) -> Fault | None:
        plot = self.plot
        if plot.racing in ("", process.service.name) and (plot.choice_points is None or effect in plot.choice_points):
            await self.loop.stand()
        number = len(self.trace)
        if number > self._progress_at + EFFECTS_IN_VAIN:
            self.loop.halted = f"{EFFECTS_IN_VAIN} effects led to nothing: something runs hot"
        if self.books.problems:
            self.loop.halted = "a rule was broken"
        self.trace.append((process.name, effect))
        fault = self._fault_at(number, effect)
        if fault is not None:
            self.faults_met[number] = fault
            self.books.is_calm = False
            self.note(process, f"{str(fault).upper()} at {effect} (effect {number})")
            if fault in OUTLIVING_CLAIMS or (self.broker is not None and fault not in HARMLESS):
                self.is_disturbed = True
            if fault is Fault.PAUSE:
                self.outside(SILENCE_SECONDS, self.backstage.silent, process.engine and process.engine.inner)
        return fault

    def _fault_at(self, number: int, effect: str) -> Fault | None:
        if not self._is_random:
            fault = self.plot.tape.faults.get(number)
            return fault if fault is not None and fits(fault, effect) else None
        rates = self._rates.get(effect)
        if rates is None:
            rates = self._rates[effect] = self.plot.faults.rates(effect, has_broker=self.broker is not None)
        rest = self._dice.throw()
        for rate, fault in rates:
            rest -= rate
            if rest < 0:
                return fault
        return None

    def _choose(self, able: Sequence[Owner | None]) -> int:
        if self.is_in_order:
            return 0
        number, options = len(self.choices), len(able)
        self.choices.append(Choice(len(self.trace), able))
        if not self._is_random:
            choice = min(self.plot.tape.order.get(number, 0), options - 1)
        elif self.plot.faults.shuffle and self._dice.throw() < self.plot.faults.shuffle:
            choice = self._dice.below(options)
        else:
            choice = 0
        if choice:
            self.order_met[number] = choice
        return choice

    def _is_quiet(self) -> bool:
        if not self.pending and self.backstage.is_idle() and not any(p.is_paused for p in self.processes):
            return True
        if not self._is_nudged and self.backstage.next_expiry(self.world.now()) is not None:
            # The workers' own poll is rare here, so it is made up for as long as anything is claimed.
            self._is_nudged = True
            self.loop.call_later(LEASE.total_seconds() / 3 + POLL.total_seconds(), self._nudge, context=self._context)
        return False

    def _nudge(self) -> None:
        self._is_nudged = False
        for process in self.processes:
            if not process.is_dead:
                process.wake()

    def ended(self, process: Process, restart_seconds: float) -> None:
        if process.is_dead:
            return
        if not process.is_ready and process.name[-2:] != ".1":
            self.books.seen["crash during recovery"] += 1
        self.is_disturbed = True
        self.books.is_calm = False
        self.crashes += 1
        process.is_dead = True
        self.note(process, "is dead")
        assert process.engine is not None
        self.backstage.kill(process.engine.inner)
        if self.backstage.turnstile is not None:
            self.backstage.turnstile.forget(process)
        self.outside(restart_seconds, self.begin, process.service.name)

    def outside(self, delay_seconds: float, call: Callable[..., None], *args: Any) -> None:
        def run() -> None:
            self.pending -= 1
            call(*args)

        self.pending += 1
        self.loop.call_later(delay_seconds, run, context=self._context)

    def ran(self, process: Process, context: Context) -> None:
        run = (process.service.name, context.message_id, context.attempt)
        self._runs[run] += 1
        if self._runs[run] > 1:
            self.books.seen["handler run again"] += 1
            if not self.is_disturbed:
                self.books.forbid(
                    "I2",
                    f"{process.name} ran a handler again for #{short(context.message_id)}, attempt "
                    f"{context.attempt}, though no process had died or stood still",
                )

    def befall(self, process: Process, fault: Fault) -> None:
        assert process.engine is not None
        self.backstage.befall(process.engine.inner, fault)

    def wrote(self, process: Any, service: str, changes: Changes) -> None:
        if service == OUTBOX:  # what is in there has been sent, and is on its way
            if changes.handled:
                self._progress_at = len(self.trace)
            return
        if changes != Changes(renewed=changes.renewed, claimed_until=changes.claimed_until):
            self.lines.append(Line(self.loop.time(), process.name, changes))
        self.written.add(len(self.trace) - 1)
        if changes.handled or changes.parcels:
            self._progress_at = len(self.trace)
        self.books.committed(service, changes, self.world.now())

    def observe(self, process: Process, signal: Signal) -> None:
        if not isinstance(signal, Turned):
            self.books.seen[type(signal).__name__] += 1

    def failed(self, process: Process, error: BaseException) -> None:
        self.books.forbid("I12", f"the worker {process.name} ended by {type(error).__name__}: {error}")

    def repeat(self, service: str, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        receipts = {delivery.receipt for delivery in deliveries}
        before = [d for d in self._handed.get(service, ()) if d.receipt not in receipts]
        return [*deliveries, before[self._ids % len(before)]] if before else deliveries

    def handed(self, process: Process, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        if deliveries:
            service = process.service.name
            if self.plot.is_shared_out:
                deliveries = process.share(deliveries)
            self._handed.setdefault(service, []).extend(deliveries[:4])
            self.books.received(service, deliveries, self.world.now())
        return deliveries

    def note(self, process: Process | None, text: str) -> None:
        self.lines.append(Line(self.loop.time(), process.name if process is not None else "", text))

    def begin(self, name: str) -> None:
        """Starts one process of the service."""
        number = len(self.processes)
        skew = self._skew(number)
        generation = 1 + sum(process.service.name == name for process in self.processes)
        world = SimulatedWorld(self.loop, self._new_id, self._world_dice, skew_seconds=skew)
        process = Process(f"{name}.{generation}", self.services[name], self, world)
        self.processes.append(process)
        if generation > self.workers_of(name):
            self.note(process, "starts")
        engine = self.backstage.engine(world, process, self.books)
        process.start(engine, batch=self.plot.batch, overrides=self.plot.overrides)

    def _skew(self, number: int) -> int:
        limit = self.plot.faults.skew_seconds
        skew = self._dice.below(2 * limit + 1) - limit if limit else self.plot.tape.skews.get(number, 0)
        if skew:
            self.skews_met[number] = skew
            self.is_disturbed = True  # what one clock has claimed may be free by another
        return skew

    def _subscribers(self, topic: str) -> list[str]:
        return [name for name, topics in self.topics.items() if topic in topics]

    def _new_id(self) -> str:
        self._ids += 1
        return f"00000000-0000-7000-8000-{self._ids:012}"
