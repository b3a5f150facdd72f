"""outlast in several processes: services apart, or all of them in each of several processes, and a client."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event

import psutil
from servers.others import cpu_of

from bench.orders import ordering, payment, placed, warehouse
from bench.stand import Look, Stand, System
from outlast import Client, Worker, run
from outlast.adapters.system import SystemWorld
from outlast.engines import inspector_of, open_engine

WINDOW = 200
LOOK_SECONDS = 0.02
READY_SECONDS = 60
STALLED_SECONDS = 60
SERVICES = {service.name: service for service in (ordering, payment, warehouse)}
APART = tuple((name,) for name in SERVICES)
"""Each service in a process of its own."""
TOGETHER = tuple(SERVICES)
"""All of them in one process."""


def serve(names: Sequence[str], url: str, begin: Event, ready: Event) -> None:
    """These services, from `begin` until SIGTERM."""
    begin.wait()
    asyncio.run(run(Worker([SERVICES[name] for name in names], url=url), ready=ready.set))


@contextlib.contextmanager
def workers(url: str, processes: Sequence[Sequence[str]], begin: Event) -> Iterator[list[BaseProcess]]:
    """A process for each group of services. They take no messages before `begin` is set."""
    context = multiprocessing.get_context("spawn")
    ready = [event(is_set=False) for _ in processes]
    running = [
        context.Process(target=serve, args=(names, url, begin, each))
        for names, each in zip(processes, ready, strict=True)
    ]
    for process in running:
        process.start()
    try:
        yield running
    finally:
        begin.set()
        for process, each in zip(running, ready, strict=True):
            each.wait(READY_SECONDS)  # one that the others left nothing to do may still be starting
            process.terminate()
        for process in running:
            process.join()
            assert process.exitcode == 0, process


def event(*, is_set: bool) -> Event:
    made = multiprocessing.get_context("spawn").Event()
    if is_set:
        made.set()
    return made


async def until_ready(url: str) -> None:
    """Waits until every service is subscribed."""
    engine, _ = open_engine(url)
    try:
        async with asyncio.timeout(READY_SECONDS):
            while sum(queue.workers for queue in await inspector_of(engine).queues()) < len(SERVICES):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_SECONDS)  # other processes have no event to wait for
    finally:
        await engine.close()


async def until_done(look: Look, orders: int) -> None:
    """Waits until so many orders are done; fails if nothing more becomes done."""
    done, moved_at = -1, time.perf_counter()
    while (now_done := look.done()) < orders:
        if now_done > done:
            done, moved_at = now_done, time.perf_counter()
        elif time.perf_counter() - moved_at > STALLED_SECONDS:
            raise TimeoutError(f"{done} of {orders} orders are done, and no more for {STALLED_SECONDS} s.")
        await asyncio.sleep(LOOK_SECONDS)  # other processes have no event to wait for


async def place(url: str, orders: int) -> None:
    """Places orders one by one, as web handlers do, a window of them at once."""
    new_id = SystemWorld().new_id
    async with Client(url) as client:
        for first in range(0, orders, WINDOW):
            numbers = range(first, min(first + WINDOW, orders))
            await asyncio.gather(*[client.publish(placed(n, new_id())) for n in numbers])


async def place_in_bulk(url: str, orders: int) -> None:
    new_id = SystemWorld().new_id
    async with Client(url) as client:
        for first in range(0, orders, WINDOW):
            await client.send_all(*[placed(n, new_id()) for n in range(first, min(first + WINDOW, orders))])


async def throughput(system: System, orders: int) -> float:
    """Orders per second, from the first order placed to the last one done."""
    await until_ready(system.url)
    with system.look() as look:
        begin = time.perf_counter()
        await place(system.url, orders)
        await until_done(look, orders)
        return orders / (time.perf_counter() - begin)


async def latency(system: System, orders: int) -> list[float]:
    """Milliseconds from publishing one order on an idle system to its instance being done, sorted."""
    await until_ready(system.url)
    new_id = SystemWorld().new_id
    found: list[float] = []
    with system.look() as look:
        async with Client(system.url) as client:
            for number in range(orders + 5):
                order_id = new_id()
                begin = time.perf_counter()
                await client.publish(placed(number, order_id))
                while not look.is_done(order_id):  # noqa: ASYNC110
                    await asyncio.sleep(0.0005)
                found.append((time.perf_counter() - begin) * 1000)
                await asyncio.sleep(0.02)
    return sorted(found[5:])  # the first ones open connections


def measure(stand: Stand, orders: int) -> float:
    """Orders per second with three services in three processes."""
    with stand.fresh() as system, workers(system.url, APART, event(is_set=True)):
        return asyncio.run(throughput(system, orders))


def measure_latency(stand: Stand, orders: int) -> list[float]:
    with stand.fresh() as system, workers(system.url, APART, event(is_set=True)):
        return asyncio.run(latency(system, orders))


@dataclass
class Share:
    """How fast orders were carried out that all waited in the beginning, and by whose work."""

    orders_per_second: float
    our_cores: float
    server_cores: float


async def subscribe(url: str) -> None:
    """Lets every service subscribe, so that what is published from now on waits for it."""
    async with Worker(list(SERVICES.values()), url=url):
        pass


def competing(stand: Stand, processes: int, orders: int) -> Share:
    """With so many processes that each run all three services; the client has placed all orders before."""
    with stand.fresh() as system:
        asyncio.run(subscribe(system.url))
        asyncio.run(place_in_bulk(system.url, orders))
        gate = event(is_set=False)
        with workers(system.url, [TOGETHER] * processes, gate) as running, system.look() as look:
            gate.set()
            return asyncio.run(carried_out(stand, look, orders, [psutil.Process(each.pid) for each in running]))


async def carried_out(stand: Stand, look: Look, orders: int, ours: Sequence[psutil.Process]) -> Share:
    """Measures from the moment at which the first process is seen to be at work."""
    while not look.begun():  # noqa: ASYNC110
        await asyncio.sleep(LOOK_SECONDS / 4)
    begin, our_cpu, server_cpu = time.perf_counter(), sum(map(cpu_of, ours)), stand.cpu()
    await until_done(look, orders)
    seconds = time.perf_counter() - begin
    return Share(
        orders_per_second=orders / seconds,
        our_cores=(sum(map(cpu_of, ours)) - our_cpu) / seconds,
        server_cores=(stand.cpu() - server_cpu) / seconds,
    )
