"""The order workflow that every program here runs: five messages, three state changes, trivial handlers."""

from __future__ import annotations

from outlast import Command, Event, Service, Workflow, on, starts


class OrderPlaced(Event):
    order_id: str
    customer: str
    amount: int
    sku: str


class PaymentCompleted(Event):
    order_id: str
    payment_id: str


class MakePayment(Command[PaymentCompleted], to="payment"):
    order_id: str
    customer: str
    amount: int


class ShippingLabelCreated(Event):
    order_id: str
    label: str


class CreateShippingLabel(Command[ShippingLabelCreated], to="warehouse"):
    order_id: str
    customer: str
    sku: str


class Fulfilment(Workflow, key="order_id"):
    customer: str = ""
    sku: str = ""
    payment_id: str = ""
    label: str = ""

    @starts
    def placed(self, event: OrderPlaced) -> MakePayment:
        self.customer, self.sku = event.customer, event.sku
        return MakePayment(order_id=event.order_id, customer=event.customer, amount=event.amount)

    @on
    def paid(self, event: PaymentCompleted) -> CreateShippingLabel:
        self.payment_id = event.payment_id
        return CreateShippingLabel(order_id=event.order_id, customer=self.customer, sku=self.sku)

    @on
    def labelled(self, event: ShippingLabelCreated) -> None:
        self.label = event.label
        self.complete()


ordering = Service("ordering", workflows=[Fulfilment])
payment = Service("payment")
warehouse = Service("warehouse")


@payment.handles
async def make_payment(command: MakePayment) -> PaymentCompleted:
    return PaymentCompleted(order_id=command.order_id, payment_id=f"pay-{command.order_id[:8]}")


@warehouse.handles
async def create_label(command: CreateShippingLabel) -> ShippingLabelCreated:
    return ShippingLabelCreated(order_id=command.order_id, label=f"label-{command.order_id[:8]}")


def placed(number: int, order_id: str) -> OrderPlaced:
    """The order that every program places as its number `number`."""
    return OrderPlaced(order_id=order_id, customer=f"customer-{number % 1000}", amount=1999, sku=f"sku-{number % 97}")
