"""Wrong messages. Every marked line is refused by mypy and by pyright, and no other line is."""

from decimal import Decimal

from outlast import Command, Event


class OrderPlaced(Event):
    order_id: str
    total: Decimal


class PaymentCompleted(Event):
    order_id: str


class MakePayment(Command[PaymentCompleted], to="payment"):
    order_id: str
    amount: Decimal


order = OrderPlaced(order_id="1", total=Decimal(5))

OrderPlaced(order_id="1", sum=Decimal(5))  # refused: no such field
OrderPlaced(order_id="1")  # refused: a field is missing
OrderPlaced("1", Decimal(5))  # refused: fields are given by name
OrderPlaced(order_id=1, total=Decimal(5))  # refused: the wrong type
order.total = Decimal(6)  # refused: messages are frozen
print(order.amount)  # refused: no such field


class NoOwner(Command[PaymentCompleted], to=payment):  # refused: `to` is a name  # noqa: F821
    order_id: str


class NumberedOwner(Command[PaymentCompleted], to=5):  # refused: `to` is text
    order_id: str


class Addressed(Event, to="payment"):  # refused: an event has no owner
    order_id: str


class Versioned(Event, version="2"):  # refused: a version is a number
    order_id: str


class Unknown(Event, topic="orders"):  # refused: no such keyword
    order_id: str
