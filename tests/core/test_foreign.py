"""Classes of other libraries as fields of messages and state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from outlast import Event, Workflow, on, starts
from outlast.core.message import Envelope
from outlast.core.naming import Catalogue, encode
from outlast.errors import Undecodable
from outlast.testing import Scenario


@dataclass
class Address:
    street: str
    since: date


class Line:
    """A model with pydantic's two methods, and nothing else that msgspec could know it by."""

    def __init__(self, sku: str, price: Decimal) -> None:
        self.sku, self.price = sku, price

    def model_dump(self, *, mode: str) -> dict[str, str]:
        assert mode == "json"
        return {"sku": self.sku, "price": str(self.price)}

    @classmethod
    def model_validate(cls, value: dict[str, Any]) -> Line:
        if set(value) != {"sku", "price"}:
            raise ValueError(f"it has {sorted(value)}")
        return cls(value["sku"], Decimal(value["price"]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Line) and (self.sku, self.price) == (other.sku, other.price)

    __hash__ = None  # type: ignore[assignment]


class OrderPlaced(Event):
    order_id: str
    address: Address
    lines: list[Line]


class OrderPriced(Event):
    order_id: str


class Pricing(Workflow, key="order_id"):
    lines: list[Line] = []

    @starts
    def placed(self, event: OrderPlaced) -> None:
        self.lines = event.lines

    @on
    def priced(self, event: OrderPriced) -> None:
        assert self.lines[0].price == Decimal("9.80")
        self.complete()


def sealed(body: bytes) -> Envelope:
    sent_at = datetime(2026, 1, 1, tzinfo=UTC)
    return Envelope(id="1", type="order-placed", conversation="1", sent_at=sent_at, body=msgspec.Raw(body))


def test_a_message_may_hold_what_other_libraries_made() -> None:
    placed = OrderPlaced(
        order_id="1", address=Address("High Street", date(2020, 1, 1)), lines=[Line("a", Decimal("9.80"))]
    )

    assert Catalogue([OrderPlaced]).decode(sealed(encode(placed))) == placed


def test_a_model_that_refuses_its_value_makes_the_message_undecodable() -> None:
    body = b'{"order_id":"1","address":{"street":"x","since":"2020-01-01"},"lines":[{"sku":"a"}]}'

    with pytest.raises(Undecodable, match="Line"):
        Catalogue([OrderPlaced]).decode(sealed(body))


def test_a_workflow_keeps_such_values_as_its_state() -> None:
    order = Scenario(Pricing)

    order.when(OrderPlaced(order_id="1", address=Address("x", date(2020, 1, 1)), lines=[Line("a", Decimal("9.80"))]))

    order.when(OrderPriced(order_id="1")).completes()


def test_a_value_that_nothing_can_write_is_refused_by_name() -> None:
    class Secret:
        pass

    with pytest.raises(TypeError, match="Secret cannot be written"):
        encode({"value": Secret()})
