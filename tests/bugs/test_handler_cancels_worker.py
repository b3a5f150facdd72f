"""What a handler in the turn did to the worker's own task."""

from __future__ import annotations

import asyncio

import pytest

from outlast import Event, Service, Transaction
from tests.system import running


class Asked(Event):
    how: str


class Noted(Event):
    key: str


@pytest.mark.complains
@pytest.mark.parametrize("how", ["group", "itself"])
async def test_a_handler_in_the_turn_cannot_cancel_its_worker(sqlite_url: str, how: str) -> None:
    """A handler with the transaction opened a task group. It is refused, since it waits; but its task ran on, and
    when that failed, the group cancelled the task that it was entered in: the worker's own. The process lived, and
    its service was never heard of again.
    """
    service, heard = Service("s"), list[str]()

    async def fail() -> None:
        raise ValueError("for the group")

    @service.handles
    async def ask(event: Asked, transaction: Transaction) -> None:
        if event.how == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    @service.handles
    async def note(event: Noted) -> None:
        heard.append(event.key)

    async with running(sqlite_url, service) as system:
        await system.client.publish(Asked(how=how))
        await system.quiet()
        await asyncio.sleep(0.05)
        await system.client.publish(Noted(key="1"))
        await system.quiet(within=5)
        assert heard == ["1"]
