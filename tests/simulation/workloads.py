"""Three systems to be disturbed: orders, a fan-in of five parts, and an answer that races a timer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from outlast import Command, Context, Event, Failed, Retry, Service, Workflow, on, starts
from outlast.testing.simulation import Effects, Simulation


class OrderPlaced(Event):
    order_id: str
    total: Decimal


class PaymentCompleted(Event):
    order_id: str
    payment_id: str


class MakePayment(Command[PaymentCompleted], to="payment"):
    order_id: str
    amount: Decimal


class LabelCreated(Event):
    order_id: str


class CreateLabel(Command[LabelCreated], to="warehouse"):
    order_id: str


class PaymentOverdue(Event):
    order_id: str


class Refunded(Event):
    order_id: str


class Refund(Command[Refunded], to="payment"):
    order_id: str


class Fulfilment(Workflow, key="order_id"):
    payment_id: str | None = None
    overdue: bool = False
    events: int = 0

    @starts
    def placed(self, event: OrderPlaced) -> MakePayment:
        self.events += 1
        self.after(timedelta(days=2), PaymentOverdue(order_id=event.order_id))
        return MakePayment(order_id=event.order_id, amount=event.total)

    @on
    def paid(self, event: PaymentCompleted) -> CreateLabel:
        self.events += 1
        self.payment_id = event.payment_id
        self.cancel(PaymentOverdue)
        return CreateLabel(order_id=event.order_id)

    @on
    def late(self, event: PaymentOverdue) -> None:
        self.overdue = True

    @on
    def shipped(self, event: LabelCreated) -> None:
        self.events += 1
        self.complete()

    @on
    def cannot_ship(self, event: Failed[CreateLabel]) -> Refund:
        return Refund(order_id=self.key)

    @on
    def cannot_pay(self, event: Failed[MakePayment]) -> None:
        self.complete()

    @on
    def refunded(self, event: Refunded) -> None:
        self.complete()


@dataclass
class Outside:
    """The world beyond the services: a ledger, and orders that it refuses."""

    effects: Effects
    refused: frozenset[str] = frozenset()


ordering = Service("ordering", workflows=[Fulfilment])
payment = Service("payment", retry=Retry(immediate=1, delayed=8))
warehouse = Service("warehouse", retry=Retry(immediate=1, delayed=8))


@payment.handles
async def make_payment(command: MakePayment, outside: Outside, context: Context) -> PaymentCompleted:
    await asyncio.sleep(0.01)
    outside.effects.record("charge", command.order_id, idempotency_key=context.idempotency_key)
    return PaymentCompleted(order_id=command.order_id, payment_id=f"payment-{command.order_id}")


@payment.handles
async def refund(command: Refund, outside: Outside, context: Context) -> Refunded:
    outside.effects.record("refund", command.order_id, idempotency_key=context.idempotency_key)
    return Refunded(order_id=command.order_id)


@warehouse.handles(retry=Retry(immediate=1, delayed=8, give_up_on=(ValueError,)))
async def create_label(command: CreateLabel, outside: Outside, context: Context) -> LabelCreated:
    if command.order_id in outside.refused:
        raise ValueError(f"no such address: {command.order_id}")
    outside.effects.record("label", command.order_id, idempotency_key=context.idempotency_key)
    return LabelCreated(order_id=command.order_id)


ORDERS = [ordering, payment, warehouse]


def orders(sim: Simulation, *ids: str, refused: frozenset[str] = frozenset()) -> None:
    """Places orders; each must be paid once, shipped once or refunded, and end."""
    sim.override(Outside, Outside(sim.effects, refused))
    ids = ids or ("a",)
    for order_id in ids:
        sim.publish(OrderPlaced(order_id=order_id, total=Decimal("9.50")))
    sim.run_until_quiet()
    for order_id in ids:
        check_order(sim, order_id, is_refused=order_id in refused)


def check_order(sim: Simulation, order_id: str, *, is_refused: bool) -> None:
    """What must hold of one order when everything is quiet."""
    dead = {letter.type for letter in sim.dead_letters if letter.key == order_id}
    charged, labelled, refunded = (sim.effects.count(what, order_id) for what in ("charge", "label", "refund"))
    # What died with its process five times is set aside, and nobody knows how far it had come.
    assert max(charged, labelled, refunded) <= 1, f"order {order_id}: {charged}, {labelled}, {refunded} effects"
    if dead - {"make-payment", "create-label"}:
        assert sim.crashes >= 5, f"order {order_id} has dead letters: {dead}"
        return
    assert sim.is_done(Fulfilment, order_id), f"order {order_id} never ended"
    assert charged == 1 or (charged == 0 and "make-payment" in dead), f"order {order_id} was charged {charged} times"
    if "make-payment" in dead:
        assert labelled == refunded == 0, f"order {order_id} went on though its payment was set aside"
    elif "create-label" in dead:
        assert refunded == 1, f"order {order_id} was not refunded"
    else:
        assert (labelled, refunded) == (1, 0), f"order {order_id}: {labelled} labels and {refunded} refunds"
    if sim.crashes < 5:
        assert dead == ({"create-label"} if is_refused else set()), f"order {order_id} has dead letters: {dead}"
