"""Payment: charges and refunds through a gateway, and keeps books of it.

python -m examples.shop.payment
"""

from __future__ import annotations

from examples.shop.gateway import CardDeclined, Gateway, open_gateway
from examples.shop.messages import (
    MakePayment,
    PaymentCompleted,
    PaymentDeclined,
    PaymentRefunded,
    RefundPayment,
)
from examples.shop.program import run_program
from outlast import Context, Service, Transaction

payment = Service("payment")
payment.provide(Gateway, open_gateway)


@payment.prepares
async def tables(transaction: Transaction) -> None:
    await transaction.execute(
        """
        CREATE TABLE IF NOT EXISTS payments (   -- no unique column: an entry made twice is to be seen
            order_id TEXT NOT NULL,
            kind TEXT NOT NULL,                 -- charge or refund
            amount TEXT NOT NULL,
            payment_id TEXT NOT NULL
        )
        """
    )


@payment.handles
async def make_payment(command: MakePayment, gateway: Gateway, context: Context) -> PaymentCompleted | PaymentDeclined:
    """Charges the card. This may run again after a crash: the gateway knows the key and charges once."""
    try:
        payment_id = await gateway.charge(command.order_id, command.amount, idempotency_key=context.idempotency_key)
    except CardDeclined as declined:
        return PaymentDeclined(order_id=command.order_id, reason=str(declined))
    return PaymentCompleted(order_id=command.order_id, payment_id=payment_id, amount=command.amount)


@payment.handles
async def refund_payment(command: RefundPayment, gateway: Gateway, context: Context) -> PaymentRefunded:
    """Gives the money back."""
    refund_id = await gateway.refund(command.order_id, command.amount, idempotency_key=context.idempotency_key)
    return PaymentRefunded(order_id=command.order_id, payment_id=refund_id, amount=command.amount)


@payment.handles
async def keep_books(event: PaymentCompleted | PaymentRefunded, transaction: Transaction) -> None:
    """Enters what the gateway did. The entry and the consumption of the event commit together."""
    kind = "charge" if isinstance(event, PaymentCompleted) else "refund"
    await transaction.execute(
        "INSERT INTO payments VALUES (?, ?, ?, ?)", (event.order_id, kind, str(event.amount), event.payment_id)
    )


if __name__ == "__main__":
    run_program(payment)
