"""The business code that all ways share: what is repeated has no second effect."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from examples.shop.orders import Order
from lab.books import open_books
from lab.business import SERVICES, CalledOff, Refused, note, pay, place, refund, ship, status_of
from lab.customers import northwind
from lab.ledgers import read_ledgers

ORDER = northwind(1)[0]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shop.db"
    return str(request.getfixturevalue("postgres_database"))


async def test_whatever_is_repeated_is_done_once(url: str) -> None:
    async with open_books(url, SERVICES) as books:
        for _ in range(2):
            async with books.transaction() as rows:
                await place(rows, ORDER)
                await pay(rows, ORDER)
                await ship(rows, ORDER)
                await note(rows, ORDER.order_id, "shipped")

    ledgers = read_ledgers(dict.fromkeys(SERVICES, url))
    assert [row.status for row in ledgers.orders] == ["shipped"]
    assert [(entry.kind, entry.amount) for entry in ledgers.payments] == [("charge", str(ORDER.total))]
    assert len(ledgers.shipments) == 1


async def test_a_charge_that_comes_after_its_refund_is_not_made(url: str) -> None:
    async with open_books(url, SERVICES) as books:
        async with books.transaction() as rows:
            await refund(rows, ORDER)

        with pytest.raises(CalledOff):
            async with books.transaction() as rows:
                await pay(rows, ORDER)

    assert read_ledgers(dict.fromkeys(SERVICES, url)).payments == []


async def test_a_transaction_that_raises_leaves_nothing(url: str) -> None:
    abroad: Order = replace(ORDER, ship_to=replace(ORDER.ship_to, country="Argentina"))
    async with open_books(url, SERVICES) as books:
        with pytest.raises(Refused):
            async with books.transaction() as rows:
                await place(rows, abroad)
                await ship(rows, abroad)

        async with books.transaction() as rows:
            assert await status_of(rows, abroad.order_id) == ""
