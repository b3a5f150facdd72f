"""A shop on one file, in child processes that kill themselves just before a given SQL statement.

Killing before every statement in turn is killing between every two steps: before and after a transaction begins,
before and after its commit, and between any two things that a commit makes true.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from outlast import Client, Command, Event, Failed, Retry, Service, Transaction, Worker, Workflow, on, starts
from outlast.adapters.sqlite import SqliteEngine
from outlast.adapters.system import SystemWorld
from outlast.engines import inspector_of


class OrderPlaced(Event):
    order: str


class Paid(Event):
    order: str


class Shipped(Event):
    order: str


class Finished(Event):
    order: str
    reminded: int


class Reminder(Event):
    order: str


class Pay(Command[Paid], to="payment"):
    order: str


class Doomed(Command[None], to="payment"):
    order: str


class Ship(Command[Shipped], to="warehouse"):
    order: str


class Order(Workflow, key="order"):
    """Paid, reminded by a timer, shipped, finished; and beside it something fails for good."""

    reminded: int = 0
    payments: int = 0
    failures: int = 0

    @starts
    def placed(self, event: OrderPlaced) -> tuple[Doomed, Pay]:
        return Doomed(order=event.order), Pay(order=event.order)

    @on
    def failed(self, event: Failed[Doomed]) -> None:
        self.failures += 1

    @on
    def paid(self, event: Paid) -> None:
        self.payments += 1
        self.after(timedelta(milliseconds=1), Reminder(order=event.order))
        self.after(timedelta(days=1), Reminder(order=event.order), name="never")

    @on
    def remind(self, event: Reminder) -> Ship | None:
        if not self.failures:
            self.after(timedelta(milliseconds=1), event)
            return None
        self.reminded += 1
        return Ship(order=event.order)

    @on
    def shipped(self, event: Shipped) -> Finished:
        self.complete()
        return Finished(order=event.order, reminded=self.reminded)


def services() -> list[Service]:
    payment, warehouse, ledger = Service("payment"), Service("warehouse"), Service("ledger")

    @payment.handles
    async def pay(command: Pay, transaction: Transaction) -> Paid:
        await transaction.execute("INSERT INTO effects VALUES ('paid', ?)", (command.order,))
        return Paid(order=command.order)

    @payment.handles(retry=Retry(immediate=1, delayed=0))
    async def fail(command: Doomed, transaction: Transaction) -> None:
        await transaction.execute("INSERT INTO effects VALUES ('never', ?)", (command.order,))
        raise ValueError("for good")

    @warehouse.handles
    async def ship(command: Ship) -> Shipped:
        await asyncio.sleep(0)
        return Shipped(order=command.order)

    @ledger.handles
    async def note(event: Paid | Shipped | Finished, transaction: Transaction) -> None:
        await transaction.execute("INSERT INTO effects VALUES (?, ?)", (f"heard {type(event).__name__}", event.order))

    return [Service("ordering", workflows=[Order]), payment, warehouse, ledger]


EFFECTS = ["heard Finished", "heard Paid", "heard Shipped", "paid"]


class Countdown:
    """Counts the statements of an engine's connection, and kills this process before the one it is told."""

    def __init__(self, engine: SqliteEngine, last: int) -> None:
        self.count = 0
        self.last = last
        engine.connection.set_trace_callback(self.step)

    def step(self, statement: str) -> None:
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


async def process_one_order(path: Path, order: str, last: int) -> int:
    """Places an order and runs the shop until it is finished; returns how many statements that took."""
    world = SystemWorld()
    engine = SqliteEngine(path, world, synchronous="NORMAL")
    countdown = Countdown(engine, last)
    async with (
        Worker(services(), engine=engine, world=world, poll=timedelta(milliseconds=10), lease=timedelta(seconds=5)),
        Client(engine=engine, world=world) as client,
    ):
        await client.publish(OrderPlaced(order=order), id=order)
        look = sqlite3.connect(path)
        async with asyncio.timeout(8):
            while not look.execute("SELECT 1 FROM effects WHERE what = 'heard Finished'").fetchall():
                await asyncio.sleep(0.002)
            while any(q.waiting or q.claimed or q.dated for q in await inspector_of(engine).queues()):
                await asyncio.sleep(0.002)
        look.close()
    engine.connection.set_trace_callback(None)
    await engine.close()
    return countdown.count


def in_a_child(path: Path, order: str, last: int) -> int:
    """Forks, processes the order there, and returns the child's exit status (negative: the signal)."""
    child = os.fork()
    if child == 0:
        code = 1
        with suppress(BaseException):
            asyncio.run(process_one_order(path, order, last))
            code = 0
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def verdict(path: Path) -> dict[str, Any]:
    """What can be seen in the file of one order that was brought to its end."""
    connection = sqlite3.connect(path)
    try:
        return {
            "effects": [what for (what,) in connection.execute("SELECT what FROM effects ORDER BY what")],
            "done": [done for (done,) in connection.execute("SELECT done FROM outlast_instances")],
            "state": [state for (state,) in connection.execute("SELECT state FROM outlast_instances")],
            "dead": connection.execute("SELECT count(*) FROM outlast_dead").fetchone()[0],
            "dated": connection.execute("SELECT count(*) FROM outlast_dated").fetchone()[0],
            "stashed": connection.execute("SELECT count(*) FROM outlast_stash").fetchone()[0],
            "broken": connection.execute("PRAGMA integrity_check").fetchone()[0] != "ok",
        }
    finally:
        connection.close()


def fault_in(found: dict[str, Any]) -> str:
    """What is wrong with it; empty if nothing is."""
    if found["effects"] != EFFECTS:
        return f"the effects are {found['effects']}"
    if found["done"] != [1] or b'"reminded":1' not in found["state"][0] or b'"payments":1' not in found["state"][0]:
        return f"the instance is {found['state']}, done: {found['done']}"
    if b'"failures":1' not in found["state"][0] or found["dead"] != 1:
        return f"of one failure there are {found['dead']} dead letters and {found['state']}"
    left = {what: found[what] for what in ("dated", "stashed", "broken") if found[what]}
    return f"left behind: {left}" if left else ""


def new_file(folder: Path, name: str) -> Path:
    """A file with the table for the effects."""
    path = folder / f"{name}.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE effects (what TEXT, by TEXT)")
    connection.commit()
    connection.close()
    return path


def try_crashes(folder: Path, crashes: list[int], name: str) -> str:
    """Kills one child after the other before these statements, then lets one finish; returns what is wrong."""
    path = new_file(folder, name)
    codes = [in_a_child(path, "o-1", last) for last in crashes]
    if in_a_child(path, "o-1", 0) != 0:
        return "the last process did not finish"
    if any(code not in (0, -signal.SIGKILL) for code in codes):
        return f"the children ended with {codes}"
    return fault_in(verdict(path))


def main(folder: Path, first: int, step: int) -> None:
    """Tries every `step`-th crash point from `first` on, and some that follow one another."""
    path = new_file(folder, f"calm{first}")
    total = asyncio.run(process_one_order(path, "o-1", 0))
    assert fault_in(verdict(path)) == "", fault_in(verdict(path))
    tried = 0
    plans = [[last] for last in range(first, total + 1, step)]
    plans += [[last, (last * 7) % total + 1] for last in range(first, total + 1, step * 5)]
    plans += [[last * n % total + 1 for n in (1, 3, 5, 7, 11)] for last in range(first, total + 1, step * 9)]
    for plan in plans:
        wrong = try_crashes(folder, plan, "-".join(map(str, plan)))
        tried += 1
        if wrong:
            print(f"killed before statement {plan}: {wrong}")
    print(f"tried {tried} of {total}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
