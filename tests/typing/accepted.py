"""User code as the tutorial writes it. It runs, and both type checkers accept every line in strict mode."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import assert_type

import msgspec

from outlast import (
    Client,
    Command,
    Context,
    Event,
    Failed,
    Retry,
    Sent,
    Service,
    Transaction,
    Worker,
    Workflow,
    on,
    starts,
)
from outlast.testing import Scenario, Tracked


class OrderPlaced(Event):
    order_id: str
    total: Decimal
    lines: list[str] = msgspec.field(default_factory=list[str])


class PaymentCompleted(Event):
    order_id: str
    payment_id: str


class PaymentDeclined(Event):
    order_id: str
    reason: str


class PaymentOverdue(Event):
    order_id: str


class MakePayment(Command[PaymentCompleted | PaymentDeclined], to="payment"):
    order_id: str
    amount: Decimal


class RefundPayment(Command[None], to="payment", name="refund", version=2):
    payment_id: str


class ShippingLabelCreated(Event):
    order_id: str
    label: str


class CreateShippingLabel(Command[ShippingLabelCreated], to="warehouse"):
    order_id: str


class OrderShipped(Event):
    order_id: str
    at: datetime


class Fulfilment(Workflow, key="order_id", keep=timedelta(days=30), stash=timedelta(minutes=5)):
    total: Decimal = Decimal(0)
    payment_id: str | None = None
    labels: list[str] = msgspec.field(default_factory=list[str])

    @starts
    def placed(self, event: OrderPlaced) -> MakePayment:
        self.total = event.total
        self.after(timedelta(hours=24), PaymentOverdue(order_id=event.order_id))
        return MakePayment(order_id=event.order_id, amount=event.total)

    @on
    def overdue(self, event: PaymentOverdue) -> None:
        self.complete()

    @on
    def paid(self, event: PaymentCompleted) -> CreateShippingLabel:
        self.cancel(PaymentOverdue)
        self.payment_id = event.payment_id
        return CreateShippingLabel(order_id=self.key)

    @on(key="order_id")
    def declined(self, event: PaymentDeclined) -> None:
        self.complete()

    @on
    def shipped(self, event: ShippingLabelCreated) -> Iterator[OrderShipped | CreateShippingLabel]:
        self.labels.append(event.label)
        yield OrderShipped(order_id=self.key, at=self.now)
        self.complete()

    @on
    def cannot_ship(self, event: Failed[CreateShippingLabel]) -> RefundPayment | None:
        assert_type(event.command, CreateShippingLabel)
        self.complete()
        return RefundPayment(payment_id=self.payment_id) if self.payment_id else None


@dataclass
class Gateway:
    currency: str = "EUR"

    async def charge(self, amount: Decimal, *, idempotency_key: str) -> str:
        return f"{idempotency_key}/{amount}/{self.currency}"


ordering = Service("ordering", workflows=[Fulfilment])
payment = Service("payment")
warehouse = Service("warehouse")
payment.provide(Gateway, Gateway())
warehouse.provide(Gateway, lambda: Gateway("CHF"))


@payment.handles
async def make_payment(command: MakePayment, gateway: Gateway, context: Context) -> PaymentCompleted | PaymentDeclined:
    if command.amount <= 0:
        return PaymentDeclined(order_id=command.order_id, reason="nothing to pay")
    payment_id = await gateway.charge(command.amount, idempotency_key=context.idempotency_key)
    return PaymentCompleted(order_id=command.order_id, payment_id=payment_id)


@payment.handles(time_limit=timedelta(seconds=5))
def refund(command: RefundPayment) -> None: ...


@warehouse.handles
async def create_label(command: CreateShippingLabel, transaction: Transaction) -> ShippingLabelCreated:
    await transaction.execute("INSERT INTO labels VALUES (?)", (command.order_id,))
    return ShippingLabelCreated(order_id=command.order_id, label="L1")


@ordering.handles(retry=Retry(immediate=0, give_up_on=(ValueError,)))
def remind(event: PaymentOverdue | PaymentDeclined, context: Context) -> Iterator[OrderShipped | RefundPayment]:
    yield OrderShipped(order_id=event.order_id, at=context.now)
    yield RefundPayment(payment_id=context.headers.get("payment", ""))


@warehouse.handles
def stock(event: OrderPlaced, connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE stock SET reserved = reserved + 1")


async def client(url: str, connection: sqlite3.Connection) -> None:
    async with Worker([ordering, payment], url=url), Client(url) as client:
        sent = await client.send(MakePayment(order_id="1", amount=Decimal(5)), id="pay-1")
        assert_type(sent, Sent)
        await client.publish(OrderPlaced(order_id="1", total=Decimal(5)), after=timedelta(minutes=1))
        answer = await client.request(MakePayment(order_id="1", amount=Decimal(5)), timeout=timedelta(seconds=5))
        assert_type(answer, PaymentCompleted | PaymentDeclined)
        match answer:
            case PaymentCompleted(payment_id=payment_id):
                assert_type(payment_id, str)
            case PaymentDeclined(reason=reason):
                assert_type(reason, str)
        assert_type(await client.request(CreateShippingLabel(order_id="1"), timeout=timedelta(1)), ShippingLabelCreated)
        async with client.transaction(connection) as outgoing:
            outgoing.send(RefundPayment(payment_id="p"))
            outgoing.publish(OrderPlaced(order_id="2", total=Decimal(1)))


def test_a_refused_label_is_refunded(scenario: Scenario[Fulfilment]) -> None:
    scenario.when(OrderPlaced(order_id="1", total=Decimal(5))).sends(MakePayment(order_id="1", amount=Decimal(5)))
    scenario.waits(PaymentOverdue, timedelta(hours=24))
    scenario.when(PaymentCompleted(order_id="1", payment_id="p9")).sends(CreateShippingLabel).state(payment_id="p9")
    assert_type(scenario.workflow, Fulfilment)
    assert scenario.workflow.payment_id == "p9"
    scenario.fails(CreateShippingLabel, reason="no printer").sends(RefundPayment(payment_id="p9")).completes()


async def test_a_system_is_typed(engine_url: str) -> None:
    async with Tracked([ordering, payment], engine_url, overrides={Gateway: Gateway("USD")}) as system:
        await system.publish(OrderPlaced(order_id="1", total=Decimal(5)))
        answer = await system.request(MakePayment(order_id="1", amount=Decimal(5)))
        assert_type(answer, PaymentCompleted | PaymentDeclined)
        settled = await system.settled(timeout=timedelta(seconds=5))
        assert settled.dead == [], str(settled)
        assert_type(await system.state(Fulfilment, "1"), Fulfilment)


def test_the_type_follows_the_class() -> None:
    assert_type(Scenario(Fulfilment).advance(days=3).sends_nothing(), Scenario[Fulfilment])
