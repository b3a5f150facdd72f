"""An engine that fails on demand: every call is an effect, and at every effect something can go wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Protocol, TypeVar

from outlast.errors import Conflict, Unavailable
from outlast.ports import OUTBOX, Address, Changes, Delivery, Engine, Receipt, Statements, Stored, Work
from outlast.testing.invariants import Books
from outlast.testing.tape import PUBLISHING, RECEIVING, Dice, Fault, fits
from outlast.testing.turnstile import Ticket, Turnstile

T = TypeVar("T")

OF_BROKERS = ("cut", "outage", "refusal")


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """How often what goes wrong, as a share of all effects. `Faults()` is a world in which nothing does."""

    crash: float = 0.0
    error: float = 0.0
    pause: float = 0.0
    delay: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    partial: float = 0.0
    deaf: float = 0.0
    away: float = 0.0
    shuffle: float = 0.0
    """The share of choices between processes that are made at random instead of in order."""
    skew_seconds: int = 0
    """How far the clocks of processes are off at most."""
    cut: float = 0.0
    outage: float = 0.0
    refusal: float = 0.0
    """In a world that has a broker: lost connections, a broker that is away, and one that does not take messages in."""

    @classmethod
    def swarm(cls, seed: int) -> Faults:
        """Some of the faults at some rates; for a quarter of the seeds none at all."""
        dice = Dice(seed ^ 0x5EED)
        rates: dict[str, Any] = {"shuffle": dice.throw()}
        if dice.throw() < 0.25:
            return cls(**rates)
        for item in fields(cls):
            if item.name not in ("shuffle", "skew_seconds", *OF_BROKERS) and dice.throw() < 0.5:
                rates[item.name] = dice.throw() ** 2 * 0.06
        if dice.throw() < 0.25:
            rates["skew_seconds"] = 1 + dice.below(120)
        for name in OF_BROKERS:
            if dice.throw() < 0.5:
                rates[name] = dice.throw() ** 2 * 0.06
        return cls(**rates)

    def rates(self, effect: str, *, has_broker: bool) -> Sequence[tuple[float, Fault]]:
        """The rate of each fault that this effect can have."""
        found: list[tuple[float, Fault]] = [
            (self.crash / 2, Fault.CRASH_BEFORE),
            (self.crash / 2, Fault.CRASH_AFTER),
            (self.error / 2, Fault.ERROR_BEFORE),
            (self.error / 2, Fault.ERROR_AFTER),
            (self.pause / 4, Fault.PAUSE),
            (self.delay, Fault.DELAY),
            (self.deaf, Fault.DEAF),
            (self.away / 20, Fault.AWAY),
        ]
        found += zip((self.duplicate, self.reorder, self.partial), RECEIVING, strict=True)
        if has_broker:
            found += [(self.cut, Fault.CUT), (self.outage / 10, Fault.OUTAGE)]
            found += [(self.refusal, fault) for fault in PUBLISHING]
        return [(rate, fault) for rate, fault in found if rate and fits(fault, effect)]

    def calm(self) -> Faults:
        """The same clocks and order, and nothing that fails."""
        return replace(Faults(), shuffle=self.shuffle, skew_seconds=self.skew_seconds)


class Vessel(Protocol):
    """The simulated process that an engine belongs to."""

    name: str
    is_patient: bool
    """It waits for a lock until it gets it."""

    @property
    def is_over(self) -> bool:
        """Its process is dead, or the simulation has ended."""
        ...

    async def effect(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """Carries out one effect, or what the tape says instead."""
        ...

    def hand_over(self, service: str, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """What is handed over instead of what is waiting."""
        ...

    def hears(self, notify: Callable[[], None]) -> Callable[[], None]:
        """A notification that may be late."""
        ...

    def wrote(self, service: str, changes: Changes) -> None:
        """A commit succeeded, whether or not the process learns so."""
        ...


class FaultyEngine:
    """The engine of one simulated process."""

    def __init__(self, inner: Engine, vessel: Vessel, books: Books, turnstile: Turnstile | None) -> None:
        self.inner = inner
        self.vessel = vessel
        self.books = books
        self.turnstile = turnstile
        self.connection_type = inner.connection_type
        self.connection_waits = inner.connection_waits
        self.turns_at_once = inner.turns_at_once

    @property
    def trouble(self) -> str:
        return self.inner.trouble

    async def declare(self, service: str, topics: Sequence[str]) -> None:
        await self.vessel.effect("declare", lambda: self._alone(lambda: self.inner.declare(service, topics)))

    async def receive(self, service: str, limit: int) -> Sequence[Delivery]:
        found = await self.vessel.effect("receive", lambda: self.inner.receive(service, limit))
        return self.vessel.hand_over(service, found)

    async def begin(self, service: str) -> Work:
        opened: list[FaultyWork] = []

        async def begin() -> Work:
            ticket = await self._enter(self.turnstile) if self.turnstile is not None else None
            work = FaultyWork(await self.inner.begin(service), service, self, ticket)
            opened.append(work)
            return work

        try:
            return await self.vessel.effect("begin", begin)
        except Unavailable:
            for work in opened:  # begun, though we were told that it failed
                await work.rollback()
            raise

    async def acknowledge(self, service: str, deliveries: Sequence[Delivery]) -> None:
        await self.vessel.effect("acknowledge", lambda: self.inner.acknowledge(service, deliveries))

    async def relay(self, now: datetime, limit: int) -> datetime | None:
        return await self.vessel.effect("relay", lambda: self._alone(lambda: self.inner.relay(now, limit)))

    def listen(self, name: str, notify: Callable[[], None]) -> None:
        self.inner.listen(name, self.vessel.hears(notify))

    def reply_to(self, request: str) -> str:
        return self.inner.reply_to(request)

    async def reply(self, request: str) -> bytes | None:
        return await self.vessel.effect("reply", lambda: self._alone(lambda: self.inner.reply(request)))

    async def close(self) -> None:
        await self.inner.close()

    def wake(self) -> None:
        """What the engine's own polls would do, which are rare here."""

    async def _enter(self, turnstile: Turnstile) -> Ticket:
        return await turnstile.enter(self.vessel, is_patient=self.vessel.is_patient)

    async def _alone(self, call: Callable[[], Awaitable[T]]) -> T:
        if self.turnstile is None:
            return await call()
        ticket = await self._enter(self.turnstile)
        try:
            return await call()
        finally:
            self.turnstile.leave(ticket)


class FaultyWork:
    """A transaction of a simulated process."""

    def __init__(self, inner: Work, service: str, engine: FaultyEngine, ticket: Ticket | None) -> None:
        self.inner = inner
        self.service = service
        self.engine = engine
        self.ticket = ticket
        self.vessel = engine.vessel

    async def first_sight(self, deliveries: Sequence[Delivery]) -> set[Receipt]:
        fresh = await self.vessel.effect("first sight", lambda: self.inner.first_sight(deliveries))
        for delivery in deliveries if self.service != OUTBOX else ():
            if delivery.receipt not in fresh:
                self.engine.books.seen["stale claim refused" if delivery.count else "duplicate dropped"] += 1
        return fresh

    async def load(self, addresses: Sequence[Address]) -> Mapping[Address, Stored]:
        return await self.vessel.effect("load", lambda: self.inner.load(addresses))

    def savepoint(self) -> AbstractAsyncContextManager[Statements | None]:
        return self.inner.savepoint()

    async def commit(self, changes: Changes) -> None:
        async def commit() -> None:
            try:
                await self.inner.commit(changes)
            except Conflict:
                self.engine.books.seen["conflict retried"] += 1
                raise
            finally:
                self._leave()
            self.vessel.wrote(self.service, changes)

        try:
            await self.vessel.effect("commit", commit)
        except Unavailable:
            await self.rollback()  # as every engine does whose commit fails
            raise

    async def rollback(self) -> None:
        if self.vessel.is_over:
            return
        # Not an effect: whether a process dies before or after it forgets a transaction is all the same.
        await self.inner.rollback()
        self._leave()

    def _leave(self) -> None:
        if self.engine.turnstile is not None and self.ticket is not None:
            self.engine.turnstile.leave(self.ticket)
