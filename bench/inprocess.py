"""outlast in one process: the three services and the client on one event loop."""

from __future__ import annotations

import asyncio
import os
import time

from bench.orders import ordering, payment, placed, warehouse
from outlast import Client, Worker
from outlast.adapters.system import SystemWorld
from outlast.engines import inspector_of
from outlast.signals import Signal, Turned

BATCH = 512


async def measure(url: str, orders: int, *, random_keys: bool = False) -> tuple[float, float]:
    """Seconds, and seconds of CPU, for so many orders, placing included; every order is seen to be done."""
    new_id = (lambda: os.urandom(18).hex()) if random_keys else SystemWorld().new_id
    done = asyncio.Event()
    left = 3 * orders

    def observe(signal: Signal) -> None:
        nonlocal left
        if isinstance(signal, Turned) and signal.service == "ordering":
            left -= signal.handled
            if left <= 0:
                done.set()

    services = [ordering, payment, warehouse]
    async with (
        Worker(services, url=url, batch=BATCH, concurrency=BATCH, observe=observe) as worker,
        Client(engine=worker.engine, world=worker.world) as client,
    ):
        begin, cpu = time.perf_counter(), time.process_time()
        for first in range(0, orders, BATCH):
            numbers = range(first, min(first + BATCH, orders))
            await client.send_all(*[placed(n, new_id()) for n in numbers])
        await done.wait()
        spent = time.perf_counter() - begin, time.process_time() - cpu
        assert worker.engine is not None
        (status,) = await inspector_of(worker.engine).workflows()
        assert status.done >= orders
    return spent


def run(url: str, orders: int) -> float:
    """Orders per second."""
    seconds, _ = asyncio.run(measure(url, orders))
    return orders / seconds
