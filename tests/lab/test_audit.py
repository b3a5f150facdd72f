"""The audit finds what is planted, and nothing in books that are in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest
from examples.shop.messages import Address
from examples.shop.orders import Order
from lab.audit import ASTRAY, WRONG, Entry, Ledgers, Row, audit
from lab.customers import ACCEPTED, DECLINED, REFUSED, Told


def told(order_id: str, outcome: str) -> Told:
    return Told(Order(order_id, Decimal("9.50"), Address()), at=0.0, weather="", outcome=outcome)


CUSTOMERS = [told("shipped", ACCEPTED), told("refunded", DECLINED), told("turned away", REFUSED)]
IN_ORDER = Ledgers(
    orders=[Row("shipped", "9.50", "shipped"), Row("refunded", "9.50", "refunded")],
    payments=[
        Entry("shipped", "charge", "9.50"),
        Entry("refunded", "charge", "9.50"),
        Entry("refunded", "refund", "9.50"),
    ],
    shipments=[Entry("shipped", "shipment", "")],
)


def with_payment(*entries: Entry) -> Ledgers:
    return replace(IN_ORDER, payments=[*IN_ORDER.payments, *entries])


def with_shipment(order_id: str) -> Ledgers:
    return replace(IN_ORDER, shipments=[*IN_ORDER.shipments, Entry(order_id, "shipment", "")])


PLANTED: dict[str, tuple[Ledgers, str]] = {
    "paid_not_shipped": (replace(IN_ORDER, shipments=[]), "shipped"),
    "shipped_not_paid": (with_payment(Entry("shipped", "refund", "9.50")), "shipped"),
    "charged_twice": (with_payment(Entry("shipped", "charge", "9.50")), "shipped"),
    "refunded_twice": (with_payment(Entry("refunded", "refund", "9.50")), "refunded"),
    "shipped_twice": (with_shipment("shipped"), "shipped"),
    "wrong_amount": (
        replace(IN_ORDER, orders=[Row("shipped", "9.51", "shipped"), *IN_ORDER.orders[1:]]),
        "shipped",
    ),
    "forgotten": (replace(IN_ORDER, payments=IN_ORDER.payments[1:], shipments=[]), "shipped"),
    "status_wrong": (
        replace(IN_ORDER, orders=[Row("shipped", "9.50", "placed"), *IN_ORDER.orders[1:]]),
        "shipped",
    ),
    "refused_and_shipped": (with_shipment("turned away"), "turned away"),
}


def test_nothing_is_found_in_books_that_are_in_order() -> None:
    findings = audit(CUSTOMERS, IN_ORDER)

    assert findings.is_settled
    assert not any([*findings.wrong.values(), *findings.astray.values()])


def test_every_claim_has_a_planted_case() -> None:
    assert set(PLANTED) == set(WRONG) | set(ASTRAY)


@pytest.mark.parametrize("claim", PLANTED)
def test_what_is_planted_is_found(claim: str) -> None:
    ledgers, order_id = PLANTED[claim]

    findings = audit(CUSTOMERS, ledgers)

    assert (findings.wrong | findings.astray)[claim] == [order_id]
    assert findings.inconsistent == ([] if claim == "status_wrong" else [order_id])


def test_an_order_that_stays_placed_keeps_its_shop_from_being_settled() -> None:
    rows = [*IN_ORDER.orders, Row("turned away", "9.50", "placed")]

    findings = audit(CUSTOMERS, replace(IN_ORDER, orders=rows))

    assert findings.inconsistent == []
    assert not findings.is_settled


@pytest.mark.parametrize("change", [lambda ledgers: replace(ledgers, orders=[]), lambda ledgers: ledgers])
def test_goods_without_a_customer_are_found(change: Callable[[Ledgers], Ledgers]) -> None:
    findings = audit([], change(with_shipment("nobody's")))

    assert "nobody's" in findings.wrong["shipped_not_paid"]
