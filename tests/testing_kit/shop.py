"""An order workflow for the tests of the test kit: places, pays, ships, and compensates."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal

from outlast import Command, Event, Failed, Service, Workflow, on, starts


class OrderPlaced(Event):
    order_id: str
    total: Decimal


class OrderCancelled(Event):
    order_id: str


class PaymentCompleted(Event):
    payment_id: str


class PaymentOverdue(Event):
    order_id: str


class LabelCreated(Event):
    label: str
    printed: tuple[int, ...] = ()


class Shipped(Event):
    order_id: str
    at: datetime


class MakePayment(Command[PaymentCompleted], to="payment"):
    order_id: str
    amount: Decimal


class RefundPayment(Command[None], to="payment"):
    payment_id: str


class CreateLabel(Command[LabelCreated], to="warehouse"):
    order_id: str


class Fulfilment(Workflow, key="order_id", stash=timedelta(minutes=5)):
    payment_id: str | None = None
    reminders: int = 0

    @starts
    def placed(self, event: OrderPlaced) -> MakePayment:
        self.after(timedelta(hours=24), PaymentOverdue(order_id=event.order_id))
        return MakePayment(order_id=event.order_id, amount=event.total)

    @on
    def overdue(self, event: PaymentOverdue) -> MakePayment | None:
        self.reminders += 1
        if self.reminders == 3:
            self.complete()
            return None
        self.after(timedelta(hours=24), event)
        return MakePayment(order_id=self.key, amount=Decimal(0))

    @on
    def paid(self, event: PaymentCompleted) -> CreateLabel:
        self.cancel(PaymentOverdue)
        self.payment_id = event.payment_id
        return CreateLabel(order_id=self.key)

    @on
    def shipped(self, event: LabelCreated) -> Shipped:
        self.complete()
        return Shipped(order_id=self.key, at=self.now)

    @on
    def cannot_ship(self, event: Failed[CreateLabel]) -> RefundPayment:
        self.complete()
        return RefundPayment(payment_id=self.payment_id or "")

    @on
    def cancelled(self, event: OrderCancelled) -> None:
        if self.payment_id is not None:
            raise ValueError("too late")
        self.complete()


class Open:
    """A door that handlers wait at."""

    def __init__(self) -> None:
        self.door = asyncio.Event()


def services(*, warehouse_fails: bool = False) -> list[Service]:
    """A new set of services, so that tests share nothing."""
    ordering = Service("ordering", workflows=[Fulfilment])
    payment, warehouse = Service("payment"), Service("warehouse")

    @payment.handles
    async def pay(command: MakePayment) -> PaymentCompleted:
        return PaymentCompleted(payment_id=f"paid {command.order_id}")

    @payment.handles
    async def refund(command: RefundPayment) -> None: ...

    @warehouse.handles
    async def ship(command: CreateLabel, gate: Open) -> LabelCreated:
        await gate.door.wait()
        if warehouse_fails:
            raise ValueError("no printer")
        return LabelCreated(label=f"label {command.order_id}", printed=(1, 2))

    gate = Open()
    gate.door.set()
    warehouse.provide(Open, gate)
    return [ordering, payment, warehouse]
