"""The hand-written limit on NATS JetStream and PostgreSQL: a stream per queue, atomic batches, one ack per batch.

The server must run with `sync_interval: always`, or nothing here is durable; give its monitoring address to have
that looked up. `python -m bench.limit_nats nats://… postgresql://… --monitor http://… --orders 20000 --batch 450`
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import urllib.request

import asyncpg

from bench import limit_broker, thin_nats
from bench.limit_broker import QUEUES, Outgoing

BATCH = 450


class ThinWire(thin_nats.Connection):
    def publish(self, messages: list[Outgoing]) -> asyncio.Future:
        bodies: dict[int, list[bytes]] = {}
        for queue, body in messages:
            bodies.setdefault(queue, []).append(body)
        return asyncio.gather(*[self.publish_to(QUEUES[queue].encode(), each) for queue, each in bodies.items()])


async def measure(nats: str, postgres: str, *, orders: int, batch: int) -> dict[str, object]:
    admin = await thin_nats.Connection.open(nats)

    async def connect(queue: int | None) -> ThinWire:
        wire = await ThinWire.open(nats)
        if queue is not None:
            await wire.consume(QUEUES[queue], "limit", prefetch=4 * batch)
        return wire

    try:
        for queue in QUEUES:
            stream = {"name": queue, "subjects": [queue], "storage": "file", "num_replicas": 1, "allow_atomic": True}
            with contextlib.suppress(ConnectionError):
                await admin.call(f"STREAM.DELETE.{queue}")  # what an interrupted run may have left
            await admin.call(f"STREAM.CREATE.{queue}", stream)
        rate = await limit_broker.measure(connect, postgres, orders=orders, batch=batch)
    finally:
        for queue in QUEUES:
            await admin.call(f"STREAM.DELETE.{queue}")
        await admin.close()
    return {
        "limit": "nats",
        "orders_per_second": round(rate),
        "orders": orders,
        "batch": batch,
        "client": "thin",
        "nats": admin.server,
        "postgres": await limit_broker.server_version(postgres),
        "asyncpg": asyncpg.__version__,
    }


def run(nats: str, postgres: str, orders: int, batch: int = BATCH) -> float:
    """Orders per second."""
    return asyncio.run(measure(nats, postgres, orders=orders, batch=batch))["orders_per_second"]


def synchronous(monitor: str) -> bool:
    """Whether the server says that it syncs every write."""
    with urllib.request.urlopen(f"{monitor}/jsz?config=true") as response:
        return bool(json.load(response)["config"].get("sync_always"))


def main() -> None:
    parser = argparse.ArgumentParser(description="The hand-written limit on NATS JetStream and PostgreSQL.")
    parser.add_argument("nats")
    parser.add_argument("postgres")
    parser.add_argument("--orders", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--monitor", help="the server's monitoring address, to look up whether it syncs every write")
    arguments = parser.parse_args()
    figures = asyncio.run(measure(arguments.nats, arguments.postgres, orders=arguments.orders, batch=arguments.batch))
    if arguments.monitor:
        figures["sync_always"] = synchronous(arguments.monitor)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
