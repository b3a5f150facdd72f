"""The 830 orders of the Northwind sample data, with what each one costs."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from examples.shop.messages import Address

LINES = Path(__file__).with_name("data") / "northwind-order-lines.csv"
CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Order:
    """An order as a customer places it."""

    order_id: str
    total: Decimal
    ship_to: Address
    ship_within: timedelta = timedelta(days=1)


def read_orders(path: Path = LINES) -> list[Order]:
    """The orders in the order of the file: price after discount of every line, plus the freight, in cents."""
    totals: dict[str, Decimal] = {}
    addresses: dict[str, Address] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            order_id = line["order_id"]
            if order_id not in totals:
                totals[order_id] = Decimal(line["freight"])
                addresses[order_id] = Address(
                    name=line["ship_name"],
                    street=line["ship_address"],
                    city=line["ship_city"],
                    region=line["ship_region"],
                    postal_code=line["ship_postal_code"],
                    country=line["ship_country"],
                )
            price = Decimal(line["quantity"]) * Decimal(line["unit_price"])
            totals[order_id] += price * (1 - Decimal(line["discount"]))
    return [Order(order_id, total.quantize(CENT), addresses[order_id]) for order_id, total in totals.items()]
