"""What is told of attempts to connect that overlap, without a server: the attempts end as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from outlast.adapters.postgres import connections
from outlast.adapters.postgres.connections import OwnConnection, Server
from outlast.errors import Unavailable


class Attempted(Server):
    """A server of which each attempt to connect waits for its outcome."""

    def __init__(self) -> None:
        super().__init__("", "the database", synchronous_commit="on", dice=lambda: 0.0)
        self.attempts: list[asyncio.Future[Any]] = []

    async def _open(self, settings: Mapping[str, str]) -> OwnConnection:
        self.attempts.append(asyncio.get_running_loop().create_future())
        return await self.attempts[-1]

    async def begin(self) -> asyncio.Task[OwnConnection]:
        """One more attempt, under way."""
        task = asyncio.create_task(self.connect(plans=False))
        await asyncio.sleep(0)
        return task


async def test_an_attempt_that_was_overtaken_with_success_makes_no_trouble() -> None:
    server = Attempted()
    early, late = await server.begin(), await server.begin()

    server.attempts[1].set_result(None)
    await late
    server.attempts[0].set_exception(ConnectionRefusedError("nobody listens"))
    with pytest.raises(Unavailable, match="nobody listens"):
        await early

    assert server.trouble == ""
    next_one = await server.begin()
    server.attempts[2].set_result(None)
    await next_one


async def test_of_attempts_that_fail_the_last_is_told_until_one_succeeds() -> None:
    server = Attempted()
    tasks = [await server.begin(), await server.begin(), await server.begin()]

    for task, attempt in zip(tasks[:2], server.attempts[:2], strict=True):
        attempt.set_exception(ConnectionRefusedError("nobody listens"))
        with pytest.raises(Unavailable):
            await task
    assert "nobody listens" in server.trouble

    server.attempts[2].set_result(None)
    await tasks[2]
    assert server.trouble == ""


async def test_a_failure_after_which_nobody_needed_a_connection_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one for want of places at the server, when those that are open suffice from then on."""
    monkeypatch.setattr(connections, "TROUBLE_SECONDS", 0.05)
    server = Attempted()
    task = await server.begin()
    server.attempts[0].set_exception(ConnectionRefusedError("too many clients"))
    with pytest.raises(Unavailable):
        await task
    assert server.trouble

    await asyncio.sleep(0.06)

    assert server.trouble == ""
