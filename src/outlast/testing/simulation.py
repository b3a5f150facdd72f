"""Whole services in one process and in virtual time, with everything that can go wrong, repeatable by one seed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Coroutine, Generator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Self, TypeVar

from outlast.client import Client, Sent
from outlast.core.message import Command, Event
from outlast.core.workflow import Workflow
from outlast.errors import Misuse
from outlast.ports import Address, Changes, DeadLetter
from outlast.runtime.service import Service
from outlast.testing.broker import SimulatedBroker
from outlast.testing.faults import Faults
from outlast.testing.loop import Stuck
from outlast.testing.process import RESTART_SECONDS
from outlast.testing.stage import NEVER_FAILS, NO_TAPE, Plot, Stage
from outlast.testing.tape import Tape
from outlast.testing.telling import tell

T = TypeVar("T")
WorkflowT = TypeVar("WorkflowT", bound=Workflow)

PATIENCE = timedelta(days=30)
"""How long, in virtual time, a world may take to become quiet."""


class Broken(AssertionError):
    """A rule was broken in a simulated run. The text tells the run, and how to repeat it."""

    def __init__(self, text: str, *, tape: Tape, problems: Sequence[str]) -> None:
        super().__init__(text)
        self.tape = tape
        self.problems = list(problems)


class Effects:
    """What fakes have done to the outside: a ledger that remembers idempotency keys, as a good gateway does."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        """How often it was asked for, repetitions included, by what and subject."""
        self._keys: dict[tuple[str, str], set[str]] = {}

    def record(self, what: str, subject: str, *, idempotency_key: str) -> bool:
        """Notes an effect; false if it was a repetition, which changes nothing outside."""
        self.calls[what, subject] += 1
        keys = self._keys.setdefault((what, subject), set())
        is_new = idempotency_key not in keys
        keys.add(idempotency_key)
        return is_new

    def count(self, what: str, subject: str) -> int:
        """How often it happened outside: once for each idempotency key."""
        return len(self._keys.get((what, subject), ()))


class Simulation:
    """Services in one simulated world: `sim = Simulation([ordering, payment])`, then `publish`, `run_until_quiet`.

    Every service runs in `workers` processes of its own, with the real worker, turn, relay and retries. With a
    `seed` and `faults`, things go wrong at random, and always in the same way; with a `tape`, exactly as it says.
    `run_until_quiet` checks the invariants of `docs/proof.md` and raises `Broken`.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        seed: int = 0,
        faults: Faults = NEVER_FAILS,
        tape: Tape | str = NO_TAPE,
        engine: str = "memory",
        workers: int = 1,
        batch: int = 256,
    ) -> None:
        self.plot = Plot(
            services=services,
            seed=seed,
            faults=faults,
            tape=Tape.parse(tape) if isinstance(tape, str) else tape,
            engine=engine,
            workers=workers,
            batch=batch,
        )
        self.effects = Effects()
        self.stage = Stage(self.plot)
        self.client = Client(engine=self.stage.engine, world=self.stage.world)

    @classmethod
    def of(cls, plot: Plot) -> Self:
        """The simulation of a plot."""
        simulation = cls.__new__(cls)
        simulation.plot = plot
        simulation.effects = Effects()
        simulation.stage = Stage(plot)
        simulation.client = Client(engine=simulation.stage.engine, world=simulation.stage.world)
        return simulation

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the world, without letting anything in it tidy up."""
        self.stage.close()

    @property
    def now(self) -> datetime:
        """Virtual time. It begins on 1 January 2030."""
        return self.stage.world.now()

    @property
    def broker(self) -> SimulatedBroker:
        """The simulated broker: `sim.broker.down(for_=timedelta(days=1))`. Only of an engine that has one."""
        if self.stage.broker is None:
            raise Misuse(f"a simulation on {self.plot.engine!r} has no broker. Use engine='rabbitmq' or 'nats'.")
        self.stage.books.is_calm = False
        self.stage.is_disturbed = True
        return self.stage.broker

    @property
    def tape(self) -> Tape:
        """All that went otherwise than usual so far: `Simulation(..., tape=sim.tape)` repeats this run."""
        return self.stage.met

    @property
    def crashes(self) -> int:
        """How many processes have died so far."""
        return self.stage.crashes

    @property
    def seen(self) -> Counter[str]:
        """How often rare situations were met: a conflict retried, a duplicate dropped, a stale claim refused..."""
        return self.stage.books.seen

    @property
    def hash(self) -> str:
        """A fingerprint of everything that happened: the same for the same seed or tape."""
        digest = hashlib.blake2b(digest_size=8)
        for process, effect in self.stage.trace:
            digest.update(f"{process} {effect}\n".encode())
        for line in self.stage.lines:
            digest.update(f"{line.at} {line.process} ".encode())
            if isinstance(line.what, Changes):
                for entry in line.what.history:
                    digest.update(entry.packet + entry.outcome.encode())
            else:
                digest.update(line.what.encode())
        return digest.hexdigest()

    def override(self, kind: type[T], fake: T) -> None:
        """Gives handlers this instead of what their service provides. Before the first run."""
        if self.stage.is_started:
            raise Misuse(f"{kind.__name__} was overridden after the services had been started. Do it first.")
        self.plot.overrides[kind] = fake

    def publish(self, event: Event, *, id: str | None = None, after: timedelta | None = None) -> Sent:
        """Publishes an event, as a client would."""
        return self.do(self.client.publish(event, id=id, after=after))

    def send(self, command: Command[Any], *, id: str | None = None, after: timedelta | None = None) -> Sent:
        """Sends a command, as a client would."""
        return self.do(self.client.send(command, id=id, after=after))

    def do(self, call: Coroutine[Any, Any, T]) -> T:
        """Waits for anything, in virtual time: `sim.do(sim.client.request(...))`."""
        self.stage.start()
        result: T = self.stage.loop.run_until_complete(call)
        return result

    def run(self, for_: timedelta) -> None:
        """Lets some time pass."""
        stage = self.stage
        stage.start()
        stage.pending += 1  # even a quiet world goes on
        try:
            stage.loop.run_until_quiet(stage.loop.time() + for_.total_seconds())
        finally:
            stage.pending -= 1

    def run_until_quiet(self, *, within: timedelta = PATIENCE) -> None:
        """Runs until every message is consumed and nothing is dated, and checks that all rules were kept."""
        stage = self.stage
        stage.start()
        try:
            if not stage.loop.run_until_quiet(stage.loop.time() + within.total_seconds()):
                stage.books.forbid("I13", f"the world was not quiet after {within}")
        except Stuck as error:
            if not stage.books.problems:
                stage.books.forbid("I13", str(error))
        self.check()

    @contextmanager
    def in_order(self) -> Generator[None]:
        """What happens in here takes its usual order: `interleave` and shuffling leave it alone.

        So a scenario says where its race begins and ends, and orders of what comes before are not multiplied by it.
        """
        self.stage.is_in_order = True
        try:
            yield
        finally:
            self.stage.is_in_order = False

    def down(self, service: str, *, for_: timedelta) -> None:
        """Stops the processes of a service in good order, and starts them again after a while."""
        self.stage.start()
        self.stage.books.is_calm = False
        self.stage.note(None, f"{service} is taken down for {for_}")
        for process in self.stage.alive(service):
            process.stop()
            self.stage.outside(for_.total_seconds(), self.stage.begin, service)

    def kill(self, service: str) -> None:
        """Kills the processes of a service; they are started again after a second."""
        for process in self.stage.alive(service):
            self.stage.ended(process, RESTART_SECONDS)

    def instance(self, workflow: type[WorkflowT], key: object) -> WorkflowT | None:
        """The state of an instance, completed or not; `None` if there is none."""
        name = workflow.__options__.name
        for service in self.plot.services:
            state = self.stage.backstage.state(Address(service.name, name, str(key)))
            if state is not None:
                found: WorkflowT = service.routes.plans[name].decode(state).state
                return found
        return None

    def is_done(self, workflow: type[Workflow], key: object) -> bool:
        """Whether an instance is there and completed."""
        name = workflow.__options__.name
        found = self.stage.backstage.remains(self.now).instances
        return any(done for at, (_, done) in found.items() if (at.workflow, at.key) == (name, str(key)))

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """What was set aside, oldest first."""
        return self.stage.backstage.remains(self.now).dead

    def check(self) -> None:
        """Raises `Broken` if any rule was broken so far."""
        books = self.stage.books
        if not books.problems:
            remains = self.stage.backstage.remains(self.now)
            books.settled(remains)
            for address in books.stuck(remains):
                books.forbid("I1", f"{address.workflow} {address.key!r} waits for ever: nothing is on its way to it")
            for complaint in self.stage.loop.complaints:
                books.forbid("I12", complaint)
        if books.problems:
            raise self.broken(books.problems)

    def broken(self, problems: Sequence[str]) -> Broken:
        """The error for these problems, with the story of this run."""
        tape = self.tape
        shown = "\n".join(f"  {problem}" for problem in problems[:8])
        again = f"Repeat it with Simulation(..., seed={self.plot.seed}, tape={str(tape)!r})."
        return Broken(f"{shown}\n\n{self.story()}\n\n{again}", tape=tape, problems=problems)

    def story(self) -> str:
        """What happened, told as messages and crashes."""
        return tell(self.stage.lines, self.stage.books.envelope)
