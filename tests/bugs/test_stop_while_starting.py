"""What became of a worker that was told to stop before it had started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from outlast import Command, Service, Worker
from outlast.engines import inspector_of, open_engine
from outlast.errors import Misuse
from outlast.signals import Signal


class Gateway:
    pass


class Work(Command[None], to="shop"):
    pass


def shop(steps: list[str], entered: asyncio.Event) -> Service:
    """It has a gateway that is there at once, and a handler that needs a password, which never comes."""
    service = Service("shop")

    @asynccontextmanager
    async def gateway() -> AsyncIterator[Gateway]:
        steps.append("opened")
        yield Gateway()
        steps.append("closed")

    @asynccontextmanager
    async def password() -> AsyncIterator[str]:
        entered.set()
        await asyncio.Event().wait()
        yield ""

    service.provide(Gateway, gateway)
    service.provide(str, password)

    @service.handles
    async def work(command: Work, gateway: Gateway, password: str) -> None:
        pass

    return service


async def test_a_worker_that_is_just_starting_can_be_stopped(url: str) -> None:
    """A stop while a worker was starting failed with a ValueError of asyncio, and the worker went on to start.

    Now the start ends, what it had opened is closed, and nobody is told that the services had begun.
    """
    steps: list[str] = []
    signals: list[Signal] = []
    entered = asyncio.Event()
    worker = Worker([shop(steps, entered)], url=url, observe=signals.append)

    async def live() -> None:
        async with worker:
            steps.append("block")
            await worker.failed()

    living = asyncio.create_task(live())
    await entered.wait()
    async with asyncio.timeout(5):
        await asyncio.gather(worker.stop(), worker.stop())
        await living

    assert steps == ["opened", "closed", "block"]
    assert signals == []
    engine, _ = open_engine(url)
    assert all(queue.workers == 0 for queue in await inspector_of(engine).queues())
    await engine.close()
    with pytest.raises(Misuse, match="runs once"):
        await worker.__aenter__()


async def test_a_worker_that_was_stopped_first_does_not_start(sqlite_url: str) -> None:
    worker = Worker([Service("shop")], url=sqlite_url)

    await worker.stop()

    with pytest.raises(Misuse, match="runs once"):
        await worker.__aenter__()


async def test_who_is_cancelled_while_it_starts_a_worker_is_cancelled(sqlite_url: str) -> None:
    steps: list[str] = []
    entered = asyncio.Event()
    worker = Worker([shop(steps, entered)], url=sqlite_url)
    starting = asyncio.create_task(worker.__aenter__())
    await entered.wait()

    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    assert steps == ["opened", "closed"]
    await worker.stop()
