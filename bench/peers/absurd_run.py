"""Measures Absurd: its workers, and a client that places orders over four connections. Prints one line of JSON.

`python absurd_run.py postgresql://… ORDERS [services|steps]`, in a virtual environment of its own
(absurd_requirements.txt). Everything happens in a database of its own, which is dropped in the end.
"""

import asyncio
import importlib.metadata
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from absurd_sdk import Absurd, AsyncAbsurd
from absurdctl import BUNDLED_SCHEMA_SQL

HERE = Path(__file__).parent
DATABASE = "outlast_bench_absurd"
WINDOW = 200
WORKERS = {"services": ("ordering", "payment", "warehouse"), "steps": ("steps", "steps")}


async def complete(url: str, queue: str, orders: int) -> None:
    """Places orders and waits for all of them, never with more than a window of them under way.

    Without the window a deep queue slows the peer down: each claim sorts all that waits.
    """
    clients = [AsyncAbsurd(url, queue_name=queue) for _ in range(4)]
    look = await psycopg.AsyncConnection.connect(url, autocommit=True)
    query = f"SELECT count(*) FROM absurd.t_{queue} WHERE state <> 'completed'"

    async def some(client: AsyncAbsurd, count: int) -> None:
        for _ in range(count):
            await client.spawn("order", {"order_id": str(uuid.uuid4())}, queue=queue)

    open_orders = 0
    while orders or open_orders:
        count = min(orders, WINDOW - open_orders)
        await asyncio.gather(*[some(client, count // 4 + (n < count % 4)) for n, client in enumerate(clients)])
        orders -= count
        await asyncio.sleep(0.02)
        [open_orders] = await (await look.execute(query)).fetchone()
    for closing in (*clients, look):
        await closing.close()


def measure(url: str, orders: int, topology: str) -> float:
    queue = WORKERS[topology][0]
    connection = psycopg.connect(url, autocommit=True)
    connection.execute(BUNDLED_SCHEMA_SQL)
    setup = Absurd(url)
    for name in set(WORKERS[topology]):
        setup.create_queue(name)
    setup.close()
    environment = {**os.environ, "BENCH_PEER_URL": url}
    workers = [
        subprocess.Popen([sys.executable, HERE / "absurd_app.py", name], env=environment) for name in WORKERS[topology]
    ]

    try:
        asyncio.run(complete(url, queue, 50))
        begin = time.perf_counter()
        asyncio.run(complete(url, queue, orders))
        return orders / (time.perf_counter() - begin)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
        connection.close()


def main(url: str, orders: int, topology: str = "services") -> None:
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
        admin.execute(f"CREATE DATABASE {DATABASE}")
        try:
            rate = measure(urlsplit(url)._replace(path=f"/{DATABASE}").geturl(), orders, topology)
        finally:
            admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
        figures = {
            "peer": "absurd",
            "orders_per_second": round(rate),
            "orders": orders,
            "topology": topology,
            "postgres": admin.execute("SHOW server_version").fetchone()[0],
            "absurd": importlib.metadata.version("absurd-sdk"),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
