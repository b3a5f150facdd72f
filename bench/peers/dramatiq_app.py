"""The order workflow as a Dramatiq pipeline on RabbitMQ, three workers, the finished order marked in PostgreSQL.

Of the durable peers measured in this topology it was the fastest. It keeps no workflow state: no query, no
compensation, no timers. Durable queues, persistent messages, publisher confirms, acknowledged after work.
"""

import os
import threading

import dramatiq
import psycopg
from dramatiq.brokers.rabbitmq import RabbitmqBroker

broker = RabbitmqBroker(url=os.environ["BENCH_AMQP_URL"], confirm_delivery=True)
dramatiq.set_broker(broker)
local = threading.local()


def database() -> psycopg.Connection:
    if not hasattr(local, "connection"):
        local.connection = psycopg.connect(os.environ["BENCH_POSTGRES_URL"], autocommit=True)
    return local.connection


@dramatiq.actor(queue_name="bench-payment")
def make_payment(order_id: str) -> dict[str, str]:
    return {"order_id": order_id, "payment_id": f"pay-{order_id[:8]}"}


@dramatiq.actor(queue_name="bench-warehouse")
def create_label(payment: dict[str, str]) -> dict[str, str]:
    return {"order_id": payment["order_id"], "label": f"label-{payment['order_id'][:8]}"}


@dramatiq.actor(queue_name="bench-orders")
def finish(label: dict[str, str]) -> None:
    database().execute("UPDATE bench_orders SET done = true WHERE id = %s", (label["order_id"],))


def place(order_id: str) -> None:
    """The order's row, then the pipeline that carries it through."""
    database().execute("INSERT INTO bench_orders (id) VALUES (%s)", (order_id,))
    dramatiq.pipeline([make_payment.message(order_id), create_label.message(), finish.message()]).run()
