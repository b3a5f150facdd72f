"""One run: a system, a schedule, its customers; then the audit, and the figures."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from lab.audit import Findings, Ledgers, audit
from lab.customers import Told, northwind, shop_for
from lab.ledgers import read_ledgers
from lab.schedule import Schedule
from lab.stage import Servers, Stage, set_stage
from lab.workflow import LEASE

LOOK_SECONDS = 0.25
STILL_SECONDS = LEASE.total_seconds() + 2.0
"""Ledgers in which nothing has moved for so long, with every program up, will not move any more. Above the lease, since
a workflow may wait for that one to end; the others get as long."""


@dataclass(frozen=True)
class Outcome:
    """What a run has left, for `figures`."""

    told: Sequence[Told]
    ledgers: Ledgers
    findings: Findings
    settled_seconds: float | None
    """From the end of the last fault, or from the last answer if that came later; `None`: never."""
    lasted: Sequence[tuple[str, float]] = ()
    """Each fault, and how many seconds it took until all was well again."""


async def run(name: str, schedule: Schedule, servers: Servers) -> Outcome:
    """Sends a system through a schedule, and waits until its ledgers are settled or will not be."""
    async with set_stage(name, servers) as stage:
        enduring = asyncio.create_task(stage.endure(schedule))
        told = await shop_for(
            stage.settings.url_of(stage.system.way.front),
            northwind(schedule.orders),
            per_second=schedule.per_second,
            weather=stage.weather,
        )
        await enduring
        return await settle(stage, told, since=monotonic())


async def settle(stage: Stage, told: Sequence[Told], *, since: float) -> Outcome:
    """Looks until the audit finds nothing, or until nothing moves any more."""
    moved_at, before = since, Ledgers()
    while True:
        ledgers = await asyncio.to_thread(read_ledgers, stage.settings.books)
        findings, now = audit(told, ledgers), monotonic()
        if findings.is_settled:
            return Outcome(told, ledgers, findings, now - since, stage.lasted)
        if ledgers != before:
            moved_at, before = now, ledgers
        elif now - moved_at > STILL_SECONDS:
            return Outcome(told, ledgers, findings, None, stage.lasted)
        await asyncio.sleep(LOOK_SECONDS)


def measure(name: str, schedule: Schedule, servers: Servers) -> Outcome:
    """`run`, for callers without an event loop."""
    return asyncio.run(run(name, schedule, servers))
