"""The sample data, as the shop reads it."""

from __future__ import annotations

from decimal import Decimal

from examples.shop.gateway import CARD_LIMIT
from examples.shop.orders import read_orders
from examples.shop.warehouse import NOT_EXPORTED_TO


def test_there_are_830_orders_with_their_totals() -> None:
    orders = read_orders()

    assert len({order.order_id for order in orders}) == 830
    # 12 * 14.00 + 10 * 9.80 + 5 * 34.80, and 32.38 freight
    assert orders[0].total == Decimal("472.38")
    assert max(order.total for order in orders) < CARD_LIMIT


def test_both_ways_of_refusing_an_address_occur() -> None:
    addresses = [order.ship_to for order in read_orders()]

    assert sum(not address.postal_code for address in addresses) == 19
    assert sum(address.country in NOT_EXPORTED_TO for address in addresses) == 16
