"""What the three services say to each other. This file is all that they share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from outlast import Command, Event

# Ordering: what became of an order.


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where an order goes. Some countries have no regions, and some addresses no postal code."""

    name: str = ""
    street: str = ""
    city: str = ""
    region: str = ""
    postal_code: str = ""
    country: str = ""


class OrderPlaced(Event):
    order_id: str
    total: Decimal
    ship_to: Address
    ship_within: timedelta = timedelta(days=1)
    """How long after payment the customer waits for a shipping label before the money goes back."""


class OrderShipped(Event):
    order_id: str
    tracking: str


class OrderRefunded(Event):
    order_id: str
    reason: str


class OrderCancelled(Event):
    order_id: str
    reason: str


class ShippingOverdue(Event):
    """The timer that a paid order sets for itself."""

    order_id: str


# Payment: what it is asked, and what it answers.


class PaymentCompleted(Event):
    order_id: str
    payment_id: str
    amount: Decimal


class PaymentDeclined(Event):
    order_id: str
    reason: str


class MakePayment(Command[PaymentCompleted | PaymentDeclined], to="payment"):
    order_id: str
    amount: Decimal


class PaymentRefunded(Event):
    order_id: str
    payment_id: str
    amount: Decimal


class RefundPayment(Command[PaymentRefunded], to="payment"):
    order_id: str
    payment_id: str
    amount: Decimal


# Warehouse: likewise.


class ShippingLabelCreated(Event):
    order_id: str
    tracking: str


class ShippingFailed(Event):
    order_id: str
    reason: str


class CreateShippingLabel(Command[ShippingLabelCreated | ShippingFailed], to="warehouse"):
    order_id: str
    ship_to: Address


class ShippingCancelled(Event):
    """There is no valid label for this order, and there will be none."""

    order_id: str


OVERDUE = "no label in time"


class CancelShipping(Command[ShippingCancelled], to="warehouse"):
    order_id: str
    reason: str
