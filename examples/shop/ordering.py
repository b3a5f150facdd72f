"""Ordering: takes orders, and sees each one through to a shipping label or a refund.

python -m examples.shop.ordering
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from examples.shop.messages import (
    OVERDUE,
    Address,
    CancelShipping,
    CreateShippingLabel,
    MakePayment,
    OrderCancelled,
    OrderPlaced,
    OrderRefunded,
    OrderShipped,
    PaymentCompleted,
    PaymentDeclined,
    PaymentRefunded,
    RefundPayment,
    ShippingCancelled,
    ShippingFailed,
    ShippingLabelCreated,
    ShippingOverdue,
)
from examples.shop.orders import Order
from examples.shop.program import run_program
from outlast import Client, Failed, Outgoing, Service, Transaction, Workflow, on, starts

ORDERS = """
CREATE TABLE IF NOT EXISTS orders (
    order_id TEXT PRIMARY KEY,
    total TEXT NOT NULL,
    status TEXT NOT NULL            -- placed, paid; then shipped, refunded or cancelled
)
"""


class Fulfilment(Workflow, key="order_id"):
    """One order: payment, then the label; and the money back if there is no label in time."""

    total: Decimal = Decimal(0)
    ship_to: Address = Address()
    ship_within: timedelta = timedelta(days=1)
    payment_id: str = ""
    given_up: str = ""
    """Why there will be no shipment; empty as long as there may be one."""

    @starts
    def placed(self, event: OrderPlaced) -> MakePayment:
        self.total, self.ship_to, self.ship_within = event.total, event.ship_to, event.ship_within
        return MakePayment(order_id=event.order_id, amount=event.total)

    @on
    def declined(self, event: PaymentDeclined) -> OrderCancelled:
        self.complete()
        return OrderCancelled(order_id=event.order_id, reason=event.reason)

    @on
    def paid(self, event: PaymentCompleted) -> CreateShippingLabel:
        self.payment_id = event.payment_id
        self.after(self.ship_within, ShippingOverdue(order_id=event.order_id))
        return CreateShippingLabel(order_id=event.order_id, ship_to=self.ship_to)

    @on
    def shipped(self, event: ShippingLabelCreated) -> OrderShipped | None:
        if self.given_up:
            return None  # The label came too late: the warehouse voids it before it says ShippingCancelled.
        self.complete()
        return OrderShipped(order_id=event.order_id, tracking=event.tracking)

    @on
    def overdue(self, event: ShippingOverdue) -> CancelShipping:
        # The label may be on its way, so the refund waits until the warehouse says that it is void.
        self.given_up = OVERDUE
        return CancelShipping(order_id=event.order_id, reason=OVERDUE)

    @on
    def cannot_ship(self, event: ShippingFailed) -> RefundPayment | None:
        if self.given_up:
            return None
        self._give_up(event.reason)
        return self._refund()

    @on
    def label_failed(self, event: Failed[CreateShippingLabel]) -> CancelShipping | None:
        # Given up, which is not the same as not done: the last attempt may have died after the label was made.
        if self.given_up:
            return None
        self._give_up(event.reason)
        return CancelShipping(order_id=self.key, reason=event.reason)

    @on
    def cancelled(self, event: ShippingCancelled) -> RefundPayment:
        return self._refund()

    @on
    def refunded(self, event: PaymentRefunded) -> OrderRefunded:
        self.complete()
        return OrderRefunded(order_id=event.order_id, reason=self.given_up)

    def _give_up(self, reason: str) -> None:
        self.given_up = reason
        self.cancel(ShippingOverdue)

    def _refund(self) -> RefundPayment:
        return RefundPayment(order_id=self.key, payment_id=self.payment_id, amount=self.total)


ordering = Service("ordering", workflows=[Fulfilment])


async def place_order(client: Client, order: Order) -> bool:
    """Takes an order, once however often it is asked: when this returns, the rest will happen.

    False if it was taken before.
    """
    async with client.transaction() as outgoing:
        return await enter_order(outgoing, order)


async def enter_order(outgoing: Outgoing, order: Order) -> bool:
    """Writes the order's row and publishes it, as a part of what the transaction commits. False if it was there."""
    is_new = await outgoing.execute(
        "INSERT INTO orders VALUES (?, ?, 'placed') ON CONFLICT DO NOTHING RETURNING order_id",
        (order.order_id, str(order.total)),
    )
    if is_new:
        outgoing.publish(
            OrderPlaced(
                order_id=order.order_id,
                total=order.total,
                ship_to=order.ship_to,
                ship_within=order.ship_within,
            )
        )
    return bool(is_new)


@ordering.prepares
async def tables(transaction: Transaction) -> None:
    await transaction.execute(ORDERS)


@ordering.handles
async def note_status(
    event: PaymentCompleted | OrderShipped | OrderRefunded | OrderCancelled, transaction: Transaction
) -> None:
    """Keeps the order's row up to date. The row and the consumption of the event commit together."""
    status = {
        PaymentCompleted: "paid",
        OrderShipped: "shipped",
        OrderRefunded: "refunded",
        OrderCancelled: "cancelled",
    }[type(event)]
    await transaction.execute("UPDATE orders SET status = ? WHERE order_id = ?", (status, event.order_id))


if __name__ == "__main__":
    run_program(ordering)
