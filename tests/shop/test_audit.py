"""The audit sees what it is there for: every violation is planted once in books that are in order."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from examples.shop.audit import Books, OrderRow, audit
from examples.shop.ledger import Effect
from examples.shop.messages import OVERDUE

PRICE = Decimal("12.50")
PATIENCE = timedelta(seconds=2)


def effect(kind: str, order_id: str, key: str, amount: Decimal = PRICE, *, at: float = 100.0) -> Effect:
    moved = amount if kind in ("charge", "refund") else Decimal(0)
    return Effect(kind, order_id, moved, key, OVERDUE if kind == "void" else "", at)


ORDERLY = Books(
    accepted=dict.fromkeys(["sent", "back", "off", "late"], PATIENCE),
    orders=[
        OrderRow("sent", PRICE, "shipped"),
        OrderRow("back", PRICE, "refunded"),
        OrderRow("off", PRICE, "cancelled"),
        OrderRow("late", PRICE, "refunded"),
    ],
    charged=[
        effect("charge", "sent", "1"),
        effect("charge", "back", "2"),
        effect("refund", "back", "3"),
        effect("charge", "late", "4"),
        effect("refund", "late", "5"),
    ],
    shipped=[effect("label", "sent", "6"), effect("label", "late", "7"), effect("void", "late", "8", at=102.0)],
    payments=[
        ("sent", "charge", PRICE),
        ("back", "charge", PRICE),
        ("back", "refund", PRICE),
        ("late", "charge", PRICE),
        ("late", "refund", PRICE),
    ],
    shipments=["sent", "late"],
    repeats=2,
)


def with_status(status: str, *, of: str) -> list[OrderRow]:
    return [replace(row, status=status) if row.order_id == of else row for row in ORDERLY.orders]


def without(order_id: str) -> list[OrderRow]:
    return [row for row in ORDERLY.orders if row.order_id != order_id]


def test_orderly_books_are_clean() -> None:
    report = audit(ORDERLY, is_quiet=True)

    assert report.is_clean
    assert report.counts() == {
        "orders": 4,
        "shipped": 1,
        "refunded": 2,
        "cancelled": 1,
        "waiting": 0,
        "lost": 0,
        "charged_twice": 0,
        "refunded_twice": 0,
        "labelled_twice": 0,
        "labels_without_payment": 0,
        "refunded_and_shipped": 0,
        "contradictions": 0,
        "repeats_absorbed": 2,
        "timers_fired": 1,
        "timers_early": 0,
    }


@pytest.mark.parametrize(
    ("violation", "books", "orders"),
    [
        (
            "charged_twice",
            replace(
                ORDERLY,
                charged=[*ORDERLY.charged, effect("charge", "sent", "9")],
                payments=[*ORDERLY.payments, ("sent", "charge", PRICE)],
            ),
            ["sent"],
        ),
        (
            "refunded_twice",
            replace(
                ORDERLY,
                charged=[*ORDERLY.charged, effect("refund", "back", "9")],
                payments=[*ORDERLY.payments, ("back", "refund", PRICE)],
            ),
            ["back"],
        ),
        (
            "labelled_twice",
            replace(
                ORDERLY,
                shipped=[*ORDERLY.shipped, effect("label", "sent", "9")],
                shipments=[*ORDERLY.shipments, "sent"],
            ),
            ["sent"],
        ),
        (
            "labels_without_payment",
            replace(ORDERLY, charged=ORDERLY.charged[1:], payments=ORDERLY.payments[1:]),
            ["sent"],
        ),
        ("lost", replace(ORDERLY, orders=without("sent")), ["sent"]),
        ("lost", replace(ORDERLY, accepted={**ORDERLY.accepted, "gone": PATIENCE}), ["gone"]),
        ("lost", replace(ORDERLY, orders=with_status("paid", of="sent")), ["sent"]),
    ],
)
def test_a_planted_violation_is_reported_with_its_order(violation: str, books: Books, orders: list[str]) -> None:
    report = audit(books, is_quiet=True)

    assert getattr(report, violation) == orders
    assert report.counts()[violation] == len(orders)
    assert not report.is_clean


def test_a_refund_of_a_shipped_order_is_reported() -> None:
    unvoided = [entry for entry in ORDERLY.shipped if entry.kind != "void"]

    report = audit(replace(ORDERLY, shipped=unvoided), is_quiet=True)

    assert report.refunded_and_shipped == ["late"]
    assert not report.is_clean


@pytest.mark.parametrize(
    ("what", "books"),
    [
        ("a charge that payment never entered", replace(ORDERLY, payments=ORDERLY.payments[1:])),
        ("an entry made twice", replace(ORDERLY, payments=[*ORDERLY.payments, ORDERLY.payments[0]])),
        ("a label that is on no list", replace(ORDERLY, shipments=["late"])),
        ("a shipment listed twice", replace(ORDERLY, shipments=["sent", "sent", "late"])),
        (
            "a status that the carrier does not bear out",
            replace(ORDERLY, orders=with_status("shipped", of="back")),
        ),
        ("a cancelled order that was charged", replace(ORDERLY, orders=with_status("cancelled", of="sent"))),
        ("an order that nobody placed", replace(ORDERLY, accepted=dict.fromkeys(["sent", "back", "off"], PATIENCE))),
        (
            "another amount than the price",
            replace(
                ORDERLY,
                charged=[effect("charge", "sent", "1", Decimal(99)), *ORDERLY.charged[1:]],
                payments=[("sent", "charge", Decimal(99)), *ORDERLY.payments[1:]],
            ),
        ),
    ],
)
def test_books_that_disagree_are_reported(what: str, books: Books) -> None:
    report = audit(books, is_quiet=True)

    assert len(report.contradictions) == 1, what
    assert not report.is_clean


def with_void_at(at: float) -> Books:
    return replace(ORDERLY, shipped=[*ORDERLY.shipped[:-1], effect("void", "late", "8", at=at)])


def test_a_timer_that_fired_early_is_reported_with_its_order() -> None:
    report = audit(with_void_at(101.9), is_quiet=True)

    assert report.timers_early == ["late"]
    assert report.counts()["timers_early"] == 1
    assert not report.is_clean


def test_a_timer_may_be_early_by_as_much_as_the_clocks_were_apart_and_no_more() -> None:
    asked: list[tuple[float, float]] = []

    def apart(since: float, until: float) -> float:
        asked.append((since, until))
        return 1.5

    assert audit(with_void_at(100.6), is_quiet=True, apart=apart).timers_early == []
    assert audit(with_void_at(100.4), is_quiet=True, apart=apart).timers_early == ["late"]
    assert asked == [(100.0, 100.6), (100.0, 100.4)]


def test_an_order_under_way_waits_and_is_not_lost() -> None:
    books = replace(ORDERLY, orders=with_status("paid", of="sent"))

    report = audit(books, is_quiet=False)

    assert (report.waiting, report.lost) == (["sent"], [])
    assert not report.is_clean


def test_a_label_that_was_voided_need_not_be_in_the_list_of_shipments() -> None:
    """Its command failed for good after the label was made, so nobody but the carrier ever heard of it."""
    unlisted = replace(ORDERLY, shipments=[id for id in ORDERLY.shipments if id != "late"])

    assert not audit(unlisted, is_quiet=True).contradictions
