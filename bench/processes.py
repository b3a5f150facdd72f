"""outlast in four processes on one file: three services and a client with a window of orders in flight."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from bench.orders import ordering, payment, placed, warehouse
from outlast import Client, Worker, run
from outlast.adapters.system import SystemWorld
from outlast.engines import inspector_of, open_engine

WINDOW = 200
SERVICES = {service.name: service for service in (ordering, payment, warehouse)}


def serve(name: str, url: str) -> None:
    """One service, until SIGTERM."""
    asyncio.run(run(Worker([SERVICES[name]], url=url)))


@contextlib.contextmanager
def services(url: str) -> Iterator[None]:
    """The three services, each in a process of its own, ready to work."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=serve, args=(name, url)) for name in SERVICES]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
            assert process.exitcode == 0, process


async def until_ready(url: str) -> None:
    """Waits until every service is subscribed."""
    engine, _ = open_engine(url)
    while sum(queue.workers for queue in await inspector_of(engine).queues()) < len(SERVICES):  # noqa: ASYNC110
        await asyncio.sleep(0.02)  # other processes have no event to wait for
    await engine.close()


def done(path: Path) -> int:
    """How many orders are done: by looking at the rows, not by asking outlast."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        [[count]] = connection.execute("SELECT count(*) FROM outlast_instances WHERE done")
    return count


async def throughput(path: Path, orders: int) -> float:
    """Orders per second, from the first order placed to the last one done."""
    url = f"sqlite:///{path}"
    await until_ready(url)
    new_id = SystemWorld().new_id
    async with Client(url) as client:
        begin = time.perf_counter()
        for first in range(0, orders, WINDOW):
            numbers = range(first, min(first + WINDOW, orders))
            await asyncio.gather(*[client.publish(placed(n, new_id())) for n in numbers])
        while done(path) < orders:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # other processes have no event to wait for
        return orders / (time.perf_counter() - begin)


async def latency(path: Path, orders: int) -> list[float]:
    """Milliseconds from publishing one order on an idle system to its instance being done, sorted."""
    url = f"sqlite:///{path}"
    await until_ready(url)
    new_id = SystemWorld().new_id
    look = sqlite3.connect(path, isolation_level=None)
    found: list[float] = []
    async with Client(url) as client:
        for number in range(orders):
            order_id = new_id()
            begin = time.perf_counter()
            await client.publish(placed(number, order_id))
            while not look.execute("SELECT 1 FROM outlast_instances WHERE key = ? AND done", (order_id,)).fetchone():
                time.sleep(0.0003)  # noqa: ASYNC251  # nothing else runs here; the services need the cores
            found.append((time.perf_counter() - begin) * 1000)
            await asyncio.sleep(0.02)
    return sorted(found)


def measure(path: Path, orders: int) -> float:
    with services(f"sqlite:///{path}"):
        return asyncio.run(throughput(path, orders))


def measure_latency(path: Path, orders: int) -> list[float]:
    with services(f"sqlite:///{path}"):
        return asyncio.run(latency(path, orders))
