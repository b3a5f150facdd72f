"""Measures natsaga: relay, listener, two services, and a client. Prints one line of JSON.

`python natsaga_run.py nats://… postgresql://… ORDERS`, in a virtual environment of its own
(natsaga_requirements.txt). The server must run with `sync_interval: always`. Streams and database are its own, and
are deleted in the end.
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
import nats
from nats_outbox.core.models import create_tables
from natsaga.core.models import Base

HERE = Path(__file__).parent
DATABASE = "outlast_bench_natsaga"
WINDOW = 32
STREAMS = {
    "COMMANDS": ["payment.make", "payment.refund", "label.create", "label.void"],
    "ANSWERS": ["payment.*.response.>", "label.*.response.>"],
}


@contextlib.contextmanager
def programs() -> Iterator[None]:
    beside = Path(sys.executable).parent
    listener = ["listener", "start", "--app", "natsaga_app:orchestrator", "--stream-name", "ANSWERS"]
    commands = [
        [beside / "nats-outbox", "relay", "start", "--log-level", "WARNING"],
        [beside / "natsaga", *listener, "--nats-url", os.environ["NATSAGA_NATS_URL"]],
        [sys.executable, HERE / "natsaga_app.py", "payment"],
        [sys.executable, HERE / "natsaga_app.py", "warehouse"],
    ]
    running = [
        subprocess.Popen(command, cwd=HERE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in commands
    ]
    try:
        yield
    finally:
        for program in running:
            program.terminate()
        for program in running:
            program.wait()


async def complete(look: asyncpg.Connection, orders: int) -> None:
    """Places orders and waits for all of them, never with more than a window of them under way."""
    from natsaga_app import Fulfilment, orchestrator

    open_orders = 0
    while orders or open_orders:
        count = min(orders, WINDOW - open_orders)
        placed = [orchestrator.start(Fulfilment, {"order_id": str(uuid.uuid4())}) for _ in range(count)]
        await asyncio.gather(*placed)
        orders -= count
        await asyncio.sleep(0.02)
        open_orders = await look.fetchval("SELECT count(*) FROM saga_state WHERE status <> 'completed'")


async def measure(url: str, orders: int) -> float:
    from natsaga_app import engine

    await create_tables(engine)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    look = await asyncpg.connect(url)
    try:
        with programs():
            await complete(look, 20)
            begin = time.perf_counter()
            await complete(look, orders)
            return orders / (time.perf_counter() - begin)
    finally:
        await look.close()
        await engine.dispose()


async def main(nats_url: str, url: str, orders: int) -> None:
    own = urlsplit(url)._replace(path=f"/{DATABASE}")
    os.environ |= {
        "OUTBOX_DATABASE_URL": own._replace(scheme="postgresql+asyncpg").geturl(),
        "OUTBOX_NATS_URL": nats_url,
        "OUTBOX_STREAM_NAME": "COMMANDS",
        "OUTBOX_POLLING_INTERVAL": "0.05",
        "OUTBOX_BATCH_SIZE": "500",
        "OUTBOX_METRICS_PORT": "0",
        "NATSAGA_NATS_URL": nats_url,
        "NATSAGA_METRICS_PORT": "0",
    }
    admin = await asyncpg.connect(url)
    server = await nats.connect(nats_url)
    await admin.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
    await admin.execute(f"CREATE DATABASE {DATABASE}")
    try:
        for stream, subjects in STREAMS.items():
            await server.jetstream().add_stream(name=stream, subjects=subjects)
        rate = await measure(own.geturl(), orders)
    finally:
        for stream in STREAMS:
            await server.jetstream().delete_stream(stream)
        await admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
    version = server.connected_server_version
    figures = {
        "peer": "natsaga",
        "orders_per_second": round(rate),
        "orders": orders,
        "topology": "services",
        "nats": f"{version.major}.{version.minor}.{version.patch}",
        "postgres": await admin.fetchval("SHOW server_version"),
        "natsaga": importlib.metadata.version("natsaga"),
    }
    await server.close()
    await admin.close()
    print(json.dumps(figures))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
