"""Wrong calls. Every marked line is refused by mypy and by pyright, and no other line is."""

import sqlite3
from datetime import timedelta

from outlast import Client, Command, Event, Worker


class OrderPlaced(Event):
    order_id: str


class PaymentCompleted(Event):
    payment_id: str


class MakePayment(Command[PaymentCompleted], to="payment"):
    order_id: str


class RefundPayment(Command[None], to="payment"):
    payment_id: str


async def calls(client: Client, connection: sqlite3.Connection) -> None:
    await client.send(OrderPlaced(order_id="1"))  # refused: an event is published
    await client.publish(MakePayment(order_id="1"))  # refused: a command is sent
    await client.send(MakePayment)  # refused: a class is no message
    await client.send(MakePayment(order_id="1"), after=5)  # refused: a duration is a timedelta
    await client.send(MakePayment(order_id="1"), id=7)  # refused: an id is text
    await client.request(MakePayment(order_id="1"))  # refused: a request has a time limit
    await client.request(OrderPlaced(order_id="1"), timeout=timedelta(1))  # refused: nothing answers an event
    answer: OrderPlaced = await client.request(MakePayment(order_id="1"), timeout=timedelta(1))  # refused
    paid = await client.request(MakePayment(order_id="1"), timeout=timedelta(1))
    print(answer, paid.order_id)  # refused: the answer has no such field
    nothing = await client.request(RefundPayment(payment_id="1"), timeout=timedelta(1))  # refused by mypy
    print(nothing.payment_id)  # refused: it is not answered
    await client.cancel("id")  # refused: what was sent is cancelled
    async with client.transaction(connection) as outgoing:
        outgoing.send(OrderPlaced(order_id="1"))  # refused: an event is published
        outgoing.publish(MakePayment(order_id="1"))  # refused: a command is sent


Client(5)  # refused: a URL is text
Worker(["ordering"], url="memory://")  # refused: a name is no service
Worker([], url="memory://", lease=30)  # refused: a duration is a timedelta
