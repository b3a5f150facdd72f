"""The order workflow on natsaga: NATS JetStream between the services, the saga's state and outbox in PostgreSQL.

The only library found that keeps durable workflow state on NATS. `python natsaga_app.py payment|warehouse` is one of
the services; natsaga's own programs are its listener and the relay of its outbox.
"""

import asyncio
import json
import os
import sys

import nats
from nats.js.api import ConsumerConfig
from natsaga.core.saga import Saga
from natsaga.core.step import Step
from natsaga.orchestrator import SagaOrchestrator
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine


class Fulfilment(Saga):
    saga_type = "fulfilment"

    @classmethod
    def steps(cls) -> list[Step]:
        return [
            Step("payment", action_subject="payment.make", compensation_subject="payment.refund", timeout_seconds=300),
            Step("label", action_subject="label.create", compensation_subject="label.void", timeout_seconds=300),
        ]


engine = create_async_engine(os.environ["OUTBOX_DATABASE_URL"], pool_size=20)
orchestrator = SagaOrchestrator(async_sessionmaker(engine, expire_on_commit=False))
orchestrator.register(Fulfilment)


def make_payment(order_id: str) -> dict[str, str]:
    return {"order_id": order_id, "payment_id": f"pay-{order_id[:8]}"}


def create_label(order_id: str) -> dict[str, str]:
    return {"order_id": order_id, "label": f"label-{order_id[:8]}"}


async def serve(service: str) -> None:
    subject, work = {"payment": ("payment.make", make_payment), "warehouse": ("label.create", create_label)}[service]
    connection = await nats.connect(os.environ["NATSAGA_NATS_URL"])
    stream = connection.jetstream()
    config = ConsumerConfig(ack_wait=30, max_ack_pending=1000)
    subscription = await stream.pull_subscribe(subject, durable=service, stream="COMMANDS", config=config)

    async def handle(message) -> None:
        command = json.loads(message.data)
        answer = {"outcome": "success", "result": work(command["saga_payload"]["order_id"])}
        to = f"{subject}.response.{command['saga_id']}.{command['step_index']}"
        await stream.publish(to, json.dumps(answer).encode(), stream="ANSWERS")
        await message.ack()

    while True:
        try:
            messages = await subscription.fetch(50, timeout=5)
        except nats.errors.TimeoutError:
            continue
        await asyncio.gather(*[handle(message) for message in messages])


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
