"""The hand-written limit on RabbitMQ and PostgreSQL: quorum queues, publisher confirms, one acknowledgement a batch.

`python -m bench.limit_rabbitmq amqp://… postgresql://… --orders 20000 --batch 256`, with `--client pika` for pika's
AsyncioConnection in place of the thin connection: the difference is what the library costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json

import asyncpg
import pika

from bench import limit_broker, thin_amqp
from bench.limit_broker import QUEUES, Outgoing
from bench.pika_wire import PikaWire

BATCH = 256


class ThinWire(thin_amqp.Connection):
    def publish(self, messages: list[Outgoing]) -> asyncio.Future[None]:
        return self.publish_to([(QUEUES[queue], body) for queue, body in messages])


CLIENTS = {"thin": ThinWire, "pika": PikaWire}


async def measure(amqp: str, postgres: str, *, orders: int, batch: int, client: str = "thin") -> dict[str, object]:
    admin = await thin_amqp.Connection.open(amqp)

    async def connect(queue: int | None) -> limit_broker.Wire:
        wire = await CLIENTS[client].open(amqp)
        if queue is not None:
            await wire.consume(QUEUES[queue], prefetch=4 * batch)
        return wire

    try:
        for queue in QUEUES:
            await admin.delete(queue)
            await admin.declare(queue)
        rate = await limit_broker.measure(connect, postgres, orders=orders, batch=batch)
    finally:
        for queue in QUEUES:
            await admin.delete(queue)
        await admin.close()
    return {
        "limit": "rabbitmq",
        "orders_per_second": round(rate),
        "orders": orders,
        "batch": batch,
        "client": client,
        "rabbitmq": admin.server,
        "postgres": await limit_broker.server_version(postgres),
        "asyncpg": asyncpg.__version__,
        "pika": pika.__version__,
    }


def run(amqp: str, postgres: str, orders: int, *, batch: int = BATCH, client: str = "thin") -> float:
    """Orders per second."""
    return asyncio.run(measure(amqp, postgres, orders=orders, batch=batch, client=client))["orders_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description="The hand-written limit on RabbitMQ and PostgreSQL.")
    parser.add_argument("amqp")
    parser.add_argument("postgres")
    parser.add_argument("--orders", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--client", choices=CLIENTS, default="thin")
    print(json.dumps(asyncio.run(measure(**vars(parser.parse_args())))))


if __name__ == "__main__":
    main()
