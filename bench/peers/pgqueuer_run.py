"""Measures PgQueuer: three workers, and a client that places orders over six connections. Prints one line of JSON.

`python pgqueuer_run.py postgresql://… ORDERS`, in a virtual environment of its own (pgqueuer_requirements.txt).
Everything happens in a database of its own, which is dropped in the end.
"""

import asyncio
import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import uvloop
from pgqueuer import AsyncpgDriver, Queries

HERE = Path(__file__).parent
DATABASE = "outlast_bench_pgqueuer"
WINDOW = 200


async def complete(url: str, orders: int) -> None:
    """Places orders and waits for all of them, never with more than a window of them under way."""
    clients = [await asyncpg.connect(url) for _ in range(6)]
    look = await asyncpg.connect(url)

    async def some(client: asyncpg.Connection, count: int) -> None:
        queries = Queries(AsyncpgDriver(client))
        for _ in range(count):
            order_id = str(uuid.uuid4())
            async with client.transaction():
                await client.execute("INSERT INTO orders (id) VALUES ($1)", order_id)
                await queries.enqueue("payment", order_id.encode())

    open_orders = 0
    while orders or open_orders:
        count = min(orders, WINDOW - open_orders)
        await asyncio.gather(*[some(client, count // 6 + (n < count % 6)) for n, client in enumerate(clients)])
        orders -= count
        await asyncio.sleep(0.02)
        open_orders = await look.fetchval("SELECT count(*) FROM orders WHERE NOT done")
    for closing in (*clients, look):
        await closing.close()


@contextlib.contextmanager
def workers(url: str) -> Iterator[None]:
    environment = {**os.environ, "BENCH_PEER_URL": url}
    running = [
        subprocess.Popen([sys.executable, HERE / "pgqueuer_app.py", service], env=environment)
        for service in ("ordering", "payment", "warehouse")
    ]
    try:
        yield
    finally:
        for worker in running:
            worker.terminate()
        for worker in running:
            worker.wait()


async def measure(url: str, orders: int) -> float:
    setup = await asyncpg.connect(url)
    await setup.execute("CREATE TABLE orders (id text PRIMARY KEY, done boolean NOT NULL DEFAULT false)")
    await Queries(AsyncpgDriver(setup)).install()
    await setup.close()
    with workers(url):
        await complete(url, 50)
        begin = time.perf_counter()
        await complete(url, orders)
        return orders / (time.perf_counter() - begin)


async def main(url: str, orders: int) -> None:
    admin = await asyncpg.connect(url)
    await admin.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
    await admin.execute(f"CREATE DATABASE {DATABASE}")
    try:
        rate = await measure(urlsplit(url)._replace(path=f"/{DATABASE}").geturl(), orders)
    finally:
        await admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
    figures = {
        "peer": "pgqueuer",
        "orders_per_second": round(rate),
        "orders": orders,
        "topology": "services",
        "postgres": await admin.fetchval("SHOW server_version"),
        "pgqueuer": importlib.metadata.version("pgqueuer"),
    }
    await admin.close()
    print(json.dumps(figures))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
