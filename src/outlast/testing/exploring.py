"""Searches through the runs of a scenario: every fault at every effect, every order of a race, or many seeds.

    explore(orders, [ordering, payment, warehouse])

A scenario is a function of a `Simulation`: it sends messages, runs the world, and asserts what must hold. The
first run that breaks a rule is shortened until nothing can be left out, and raised as `Broken`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from outlast.errors import OutlastError
from outlast.runtime.service import Service
from outlast.testing.broker import KINDS
from outlast.testing.faults import Faults
from outlast.testing.orders import Choice, Orders
from outlast.testing.simulation import Broken, Simulation
from outlast.testing.stage import NEVER_FAILS, Plot
from outlast.testing.tape import BROKEN_BROKERS, CRASHES, ERRORS, Fault, Tape, fits

Scenario = Callable[[Simulation], None]

EVERY_FAULT = (*CRASHES, *ERRORS)
RACES = frozenset({"receive", "load", "commit", "handler"})
"""The effects by which processes can notice each other."""
READING = frozenset({"receive", "begin", "first sight", "load", "acknowledge", "look"})
"""The effects that change nothing in the engine in memory."""
SAME_WHEN_READING = {Fault.CRASH_AFTER: Fault.CRASH_BEFORE, Fault.ERROR_AFTER: Fault.ERROR_BEFORE}
"""At an effect that only reads these do the same: nothing happened, and the process learns nothing."""
SHRINKING_RUNS = 1_000
"""So many runs are spent at most on shortening a tape."""
REPEATED = 50
"""Every so many runs one is repeated, to see that it does the same."""


@dataclass(slots=True)
class Explored:
    """What a search went through without finding anything."""

    runs: int = 0
    effects: int = 0
    """Effects in all runs together."""
    repeated: int = 0
    """Runs that were repeated, and did the same."""
    is_complete: bool = True
    """False if there was more to search than `limit`."""
    seen: Counter[str] = field(default_factory=Counter[str])
    """Rare situations, by the number of times that they were met."""

    def __str__(self) -> str:
        rest = "" if self.is_complete else " (not all)"
        return f"{self.runs:,} runs{rest}, {self.effects:,} effects, {self.repeated:,} runs repeated alike"

    def must_have_seen(self, *situations: str) -> None:
        """Raises `AssertionError` if one of these was never met: then the search is blind for it."""
        missing = [situation for situation in situations if not self.seen[situation]]
        if missing:
            raise AssertionError(
                f"the search never met: {', '.join(missing)}. It met {', '.join(sorted(self.seen))}. Sharpen the "
                "scenario, or raise the rate of the faults that lead there."
            )


@dataclass(slots=True)
class Run:
    """One run that went well."""

    trace: Sequence[tuple[str, str]]
    choices: Sequence[Choice]
    written: Collection[int]
    hash: str
    seen: Counter[str]

    def is_quiet(self, number: int) -> bool:
        """Whether one process alone went on from this choice to the next, and changed nothing."""
        first = self.choices[number].at
        last = self.choices[number + 1].at if number + 1 < len(self.choices) else len(self.trace)
        return all(
            process == self.trace[first][0] and (effect in READING or (effect == "commit" and at not in self.written))
            for at, (process, effect) in enumerate(self.trace[first:last], start=first)
        )


def explore(
    scenario: Scenario,
    services: Sequence[Service],
    *,
    faults: Iterable[Fault] | None = None,
    pairs: bool = False,
    engine: str = "memory",
    workers: int = 1,
    batch: int = 256,
) -> Explored:
    """Runs the scenario once for every one of these faults at every effect; with `pairs`, for every two of them.

    Unless they are named, all crashes and errors, and where there is a broker also what happens to that.

    In memory, a fault after an effect that only reads is left out: it does what the same fault before it does.
    The second fault of a pair is looked for in the run that has the first, so it may fall into the recovery.
    """
    plot = Plot(services=services, engine=engine, workers=workers, batch=batch)
    has_broker = engine.partition("?")[0] in KINDS
    kinds = tuple(faults) if faults is not None else (*EVERY_FAULT, *(BROKEN_BROKERS if has_broker else ()))
    found = Explored()
    usual = _counted(scenario, plot, found)
    reading = READING if engine == "memory" else READING - {"acknowledge"} if has_broker else frozenset[str]()
    for tape in _with_one_more(Tape(), usual, kinds, reading):
        run = _counted(scenario, replace(plot, tape=tape), found)
        if pairs:
            for pair in _with_one_more(tape, run, kinds, reading):
                _counted(scenario, replace(plot, tape=pair), found)
    return found


def interleave(
    scenario: Scenario,
    services: Sequence[Service],
    *,
    racing: str,
    workers: int = 2,
    choice_points: frozenset[str] = RACES,
    tape: Tape | None = None,
    limit: int = 100_000,
    is_reduced: bool = True,
) -> Explored:
    """Runs the scenario in every order in which the workers of the service `racing` get to these effects.

    Each of its workers is handed other messages, so that different messages for one instance can race. Keep the
    scenario small, since the number of orders grows very fast, and put what comes before the race into
    `with sim.in_order()`. Beyond `limit` runs the search ends.

    Orders that differ only in who reads first are taken once (see `outlast.testing.orders`); all of them are if
    `is_reduced` is false, or if the tape has faults.
    """
    plot = Plot(services=services, workers=workers, is_shared_out=True, racing=racing, choice_points=choice_points)
    faults: Mapping[int, Fault] = tape.faults if tape is not None else {}
    found = Explored()
    orders = Orders()
    while True:
        run = _counted(scenario, replace(plot, tape=Tape(faults, orders.order)), found)
        orders.went(run.choices, run.is_quiet if is_reduced and not faults else _never)
        if not orders.on():
            return found
        if found.runs >= limit:
            found.is_complete = False
            return found


def search(
    scenario: Scenario,
    services: Sequence[Service],
    *,
    seeds: Iterable[int],
    faults: Callable[[int], Faults] = Faults.swarm,
    engine: str = "memory",
    workers: Callable[[int], int] = lambda seed: 1 + seed % 2,
    batch: int = 256,
) -> Explored:
    """Runs the scenario once for each seed, with the faults and the workers that `faults` and `workers` give it."""
    found = Explored()
    for seed in seeds:
        plot = Plot(
            services=services, seed=seed, faults=faults(seed), engine=engine, workers=workers(seed), batch=batch
        )
        _counted(scenario, plot, found)
    return found


def shrink(scenario: Scenario, plot: Plot, broken: Broken) -> Broken:
    """The shortest tape that still breaks a rule: entries are left out, first many at once and then one by one."""
    best, left = broken, SHRINKING_RUNS
    size = (len(best.tape) + 1) // 2
    while size and left > 0:
        entries = best.tape.entries
        for first in range(0, len(entries), size):
            left -= 1
            shorter = best.tape.without(entries[first : first + size])
            attempt = _attempt(scenario, replace(plot, faults=NEVER_FAILS, tape=shorter))
            if isinstance(attempt, Broken) and len(attempt.tape) < len(best.tape):
                best = attempt
                break
        else:
            size = size // 2
    return best


def _never(number: int) -> bool:
    return False


def _counted(scenario: Scenario, plot: Plot, found: Explored) -> Run:
    run = _run(scenario, plot)
    found.runs += 1
    found.effects += len(run.trace)
    found.seen.update(run.seen)
    if found.runs % REPEATED == 1:
        found.repeated += 1
        again = _run(scenario, plot)
        if again.hash != run.hash:
            raise AssertionError(
                f"seed {plot.seed}, tape {str(plot.tape)!r} did something else when it was repeated. Something in the "
                "services depends on the clock, on chance, or on the order of a set; take it from Context, or "
                "override it."
            )
    return run


def _run(scenario: Scenario, plot: Plot) -> Run:
    """One run. Raises `Broken`, shortened, with the story."""
    found = _attempt(scenario, plot)
    if isinstance(found, Run):
        return found
    raise shrink(scenario, plot, found) from None


def _attempt(scenario: Scenario, plot: Plot) -> Run | Broken:
    with Simulation.of(replace(plot, overrides={})) as simulation:
        try:
            scenario(simulation)
        except Broken as broken:
            return broken
        except (AssertionError, OutlastError) as error:
            return simulation.broken([*simulation.stage.books.problems, f"{type(error).__name__}: {error}"])
        stage = simulation.stage
        return Run(stage.trace, stage.choices, stage.written, simulation.hash, simulation.seen)


def _with_one_more(tape: Tape, run: Run, kinds: Sequence[Fault], reading: Collection[str]) -> Iterator[Tape]:
    """This tape and one more fault, at any effect after those that it has."""
    first = max(tape.faults, default=-1) + 1
    for number in range(first, len(run.trace)):
        same = SAME_WHEN_READING if run.trace[number][1] in reading else {}
        for kind in kinds:
            if same.get(kind) not in kinds and fits(kind, run.trace[number][1]):
                yield Tape({**tape.faults, number: kind}, tape.order, tape.skews)
