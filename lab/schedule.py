"""The schedule of faults: a pure function of a seed, the same for every way to build the shop.

`MEANS` tells what each fault is for each way. A process that was killed is started again, which takes about a second.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

SLOW, FAILING, AWAY, KILLED, LOST, DATABASE = "slow", "failing", "away", "killed", "lost", "database"
MEANS = {
    SLOW: {
        "calls": "each piece of work of the service begins a second late",
        "workflow": "the same",
        "monolith": "that step of the transaction begins a second late",
    },
    FAILING: {
        "calls": "each piece of work of the service raises an error",
        "workflow": "the same",
        "monolith": "that step of the transaction raises an error",
    },
    AWAY: {
        "calls": "kill -9 for the service's process, which is started again when the time is over",
        "workflow": "the same",
        "monolith": "the same for the only process, whichever service it is",
    },
    KILLED: {
        "calls": "kill -9 in mid-call, when the work is committed and not answered yet; for Ordering, when the work of "
        "Payment is",
        "workflow": "kill -9 when the work is committed and its message not yet consumed; for Ordering, when the work "
        "of Payment is committed",
        "monolith": "kill -9 when the step is written and the transaction not yet committed",
    },
    LOST: {
        "calls": "the whole work is done, and its answer never comes",
        "workflow": "the whole work is done, and an error hides it from whoever is to consume its message",
        "monolith": "the transaction is committed, and its customer gets no answer",
    },
    DATABASE: {
        "calls": "kill -9 for the PostgreSQL in which all the databases are, and a start on what its disk has",
        "workflow": "the same; on SQLite there is no server, and nothing happens",
        "monolith": "the same",
    },
}
"""What each fault is: for the two ways that call over HTTP, for the workflow, and for the monolith."""
BEHIND = ("payment", "warehouse")
"""The services behind the one that takes the orders."""
FIRST_SECONDS = 1.0
GAP_SECONDS = 0.5
AFTER_SECONDS = {AWAY: 0.8, KILLED: 0.8, DATABASE: 1.5}
"""What it takes to be back: for a process its start, for the database that all find it again."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong."""

    at: float
    """Seconds after the first order."""
    kind: str
    who: tuple[str, ...]
    """The services that it befalls; none: the database."""
    seconds: float
    """How long it lasts. A process that was away or killed needs about a second more to start."""

    def __str__(self) -> str:
        return f"{self.at:5.1f} s  {self.kind:8}  {' and '.join(self.who) or '-':22}  for {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Schedule:
    """All that goes wrong in a run, and how many customers come meanwhile."""

    seed: int
    faults: tuple[Fault, ...]
    seconds: float
    """From the first order to the last one."""
    per_second: float = 20.0

    @property
    def orders(self) -> int:
        return int(self.seconds * self.per_second)

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {self.orders} orders in {self.seconds:g} s", *map(str, self.faults)]
        return "\n".join(lines)


def schedule(seed: int) -> Schedule:
    """Every kind of fault, in an order, for times and with victims that the seed decides."""
    dice = random.Random(f"seed {seed}")  # neighbouring numbers would begin alike
    slow, unheard = dice.sample(BEHIND, 2)
    kinds = [
        (SLOW, (slow,), dice.uniform(2.1, 2.5)),
        (LOST, (unheard,), dice.uniform(2.1, 2.5)),
        (FAILING, (dice.choice(BEHIND),), dice.uniform(0.8, 1.2)),
        (AWAY, (dice.choice(BEHIND),), dice.uniform(1.2, 1.6)),
        (AWAY, BEHIND, dice.uniform(1.2, 1.6)),
        (AWAY, ("ordering",), dice.uniform(0.3, 0.5)),
        (KILLED, ("ordering",), 0.1),
        (KILLED, ("payment",), 0.1),
        (KILLED, ("warehouse",), 0.1),
        (DATABASE, (), dice.uniform(0.2, 0.4)),
    ]
    return _laid_out(seed, dice.sample(kinds, len(kinds)))


def quick(seed: int) -> Schedule:
    """Five seconds with one of the worst faults and a kill, for a smoke run."""
    return _laid_out(seed, [(LOST, ("warehouse",), 2.2), (KILLED, ("payment",), 0.1)])


def calm(seconds: float) -> Schedule:
    """No faults at all."""
    return Schedule(0, (), seconds)


def _laid_out(seed: int, kinds: Sequence[tuple[str, tuple[str, ...], float]]) -> Schedule:
    """One fault after the other, each with time to get over it before the next."""
    faults: list[Fault] = []
    at = FIRST_SECONDS
    for kind, who, seconds in kinds:
        faults.append(Fault(round(at, 2), kind, who, round(seconds, 2)))
        at += seconds + GAP_SECONDS + AFTER_SECONDS.get(kind, 0.0)
    return Schedule(seed, tuple(faults), round(at, 1))
