"""Warehouse: gets shipping labels from a carrier, and keeps a list of shipments.

python -m examples.shop.warehouse
"""

from __future__ import annotations

from datetime import timedelta

from examples.shop.carrier import AddressRefused, Carrier, OrderVoided, open_carrier
from examples.shop.messages import (
    CancelShipping,
    CreateShippingLabel,
    ShippingCancelled,
    ShippingFailed,
    ShippingLabelCreated,
)
from examples.shop.program import run_program
from outlast import Context, Retry, Service, Transaction

NOT_EXPORTED_TO = frozenset({"Argentina"})

warehouse = Service("warehouse")
warehouse.provide(Carrier, open_carrier)


@warehouse.prepares
async def tables(transaction: Transaction) -> None:
    await transaction.execute(
        """
        CREATE TABLE IF NOT EXISTS shipments (  -- no unique column: an entry made twice is to be seen
            order_id TEXT NOT NULL,
            tracking TEXT NOT NULL
        )
        """
    )


@warehouse.handles(retry=Retry(first=timedelta(seconds=0.5), give_up_on=(AddressRefused,)))
async def create_label(
    command: CreateShippingLabel, carrier: Carrier, context: Context
) -> ShippingLabelCreated | ShippingFailed:
    """Gets a label. Where a refusal is foreseen it is an answer; where it is not, an error that ends the attempts.

    An `AddressRefused` makes the command a dead letter, and the workflow that sent it hears `Failed`.
    """
    if command.ship_to.country in NOT_EXPORTED_TO:
        return ShippingFailed(order_id=command.order_id, reason=f"we do not export to {command.ship_to.country}")
    try:
        tracking = await carrier.label(command.order_id, command.ship_to, idempotency_key=context.idempotency_key)
    except OrderVoided:
        return ShippingFailed(order_id=command.order_id, reason="the order was cancelled")
    return ShippingLabelCreated(order_id=command.order_id, tracking=tracking)


@warehouse.handles
async def cancel_shipping(command: CancelShipping, carrier: Carrier, context: Context) -> ShippingCancelled:
    """Voids the label of this order, and one that may be asked for later."""
    await carrier.void(command.order_id, reason=command.reason, idempotency_key=context.idempotency_key)
    return ShippingCancelled(order_id=command.order_id)


@warehouse.handles
async def keep_list(event: ShippingLabelCreated, transaction: Transaction) -> None:
    """Enters the shipment. The entry and the consumption of the event commit together."""
    await transaction.execute("INSERT INTO shipments VALUES (?, ?)", (event.order_id, event.tracking))


if __name__ == "__main__":
    run_program(warehouse)
