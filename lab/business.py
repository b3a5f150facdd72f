"""What the shop does: takes an order, charges for it, ships it, gives the money back. The same lines in all four ways.

Each function works on the books of one service, in a transaction which its caller begins and commits. Its effect
takes place once for an order, however often it is called: the order's id is the idempotency key.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any, Protocol

from examples.shop.orders import Order

SERVICES = ("ordering", "payment", "warehouse")
NOT_EXPORTED_TO = frozenset({"Argentina"})

KEYS = "CREATE TABLE IF NOT EXISTS keys (key TEXT PRIMARY KEY)"
TABLES = {
    "ordering": (
        """
        CREATE TABLE IF NOT EXISTS orders (
            order_id TEXT PRIMARY KEY,
            total TEXT NOT NULL,
            status TEXT NOT NULL,           -- placed; then shipped or refunded
            at DOUBLE PRECISION NOT NULL    -- seconds of the machine's monotonic clock, here and below
        )
        """,
    ),
    "payment": (
        """
        CREATE TABLE IF NOT EXISTS payments (   -- no unique column: an entry made twice is to be seen
            order_id TEXT NOT NULL,
            kind TEXT NOT NULL,                 -- charge or refund
            amount TEXT NOT NULL,
            at DOUBLE PRECISION NOT NULL
        )
        """,
        KEYS,
    ),
    "warehouse": (
        """
        CREATE TABLE IF NOT EXISTS shipments (  -- no unique column here either
            order_id TEXT NOT NULL,
            at DOUBLE PRECISION NOT NULL
        )
        """,
        KEYS,
    ),
}
"""What each service keeps."""


class Rows(Protocol):
    """A transaction on the books of a service. Placeholders are `?`."""

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Runs one statement and returns its rows."""
        ...


class Refused(Exception):
    """The shop will not do this, however often it is asked."""


class CalledOff(Refused):
    """The order was undone, since a service did not answer in time."""


class NoAnswer(Exception):
    """Another service did not say that it has done something. It may have done it."""


async def place(rows: Rows, order: Order) -> bool:
    """Ordering: enters an order. False if it was there before."""
    entered = await rows.execute(
        "INSERT INTO orders VALUES (?, ?, 'placed', ?) ON CONFLICT DO NOTHING RETURNING order_id",
        (order.order_id, str(order.total), monotonic()),
    )
    return bool(entered)


async def status_of(rows: Rows, order_id: str) -> str:
    """Ordering: how far an order is; empty if there is none."""
    found = await rows.execute("SELECT status FROM orders WHERE order_id = ?", (order_id,))
    return str(found[0][0]) if found else ""


async def note(rows: Rows, order_id: str, status: str) -> None:
    """Ordering: keeps the status of an order up to date."""
    await rows.execute("UPDATE orders SET status = ?, at = ? WHERE order_id = ?", (status, monotonic(), order_id))


async def pay(rows: Rows, order: Order) -> None:
    """Payment: charges the customer. Raises `CalledOff` if the money was given back before."""
    if await _is_known(rows, f"refund {order.order_id}"):
        raise CalledOff(f"order {order.order_id} was called off")
    if await _is_first(rows, f"charge {order.order_id}"):
        await _enter_payment(rows, order, "charge")


async def refund(rows: Rows, order: Order) -> None:
    """Payment: gives the money back if it was taken; and if it was not, it will not be."""
    if await _is_first(rows, f"refund {order.order_id}") and await _is_known(rows, f"charge {order.order_id}"):
        await _enter_payment(rows, order, "refund")


async def ship(rows: Rows, order: Order) -> None:
    """Warehouse: sends the goods. Raises `Refused` for a country that the shop does not export to."""
    if order.ship_to.country in NOT_EXPORTED_TO:
        raise Refused(f"we do not export to {order.ship_to.country}")
    if await _is_first(rows, f"shipment {order.order_id}"):
        await rows.execute("INSERT INTO shipments VALUES (?, ?)", (order.order_id, monotonic()))


async def _enter_payment(rows: Rows, order: Order, kind: str) -> None:
    await rows.execute(
        "INSERT INTO payments VALUES (?, ?, ?, ?)", (order.order_id, kind, str(order.total), monotonic())
    )


async def _is_first(rows: Rows, key: str) -> bool:
    return bool(await rows.execute("INSERT INTO keys VALUES (?) ON CONFLICT DO NOTHING RETURNING key", (key,)))


async def _is_known(rows: Rows, key: str) -> bool:
    return bool(await rows.execute("SELECT 1 FROM keys WHERE key = ?", (key,)))
