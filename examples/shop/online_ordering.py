"""Ordering as a shop on the web needs it: it also keeps what became of each order, and calls customers back.

python -m examples.shop.online_ordering
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import astuple
from datetime import datetime, timedelta

import httpx

from examples.shop.callbacks import Callbacks, NotAllowed, allowed_origins
from examples.shop.messages import (
    OrderCancelled,
    OrderPlaced,
    OrderRefunded,
    OrderShipped,
    PaymentCompleted,
    ShippingCancelled,
    ShippingFailed,
)
from examples.shop.ordering import Fulfilment, enter_order, note_status, tables
from examples.shop.orders import Order
from examples.shop.program import run_program
from outlast import Client, Command, Context, Outgoing, Retry, Service, Transaction

REQUESTS = """
CREATE TABLE IF NOT EXISTS requests (
    idempotency_key TEXT PRIMARY KEY,
    order_id TEXT NOT NULL UNIQUE,
    fingerprint TEXT NOT NULL,      -- of what was ordered, so that a key is not used for something else
    callback TEXT NOT NULL          -- whom to tell of the end; empty if nobody
)
"""
PROGRESS = """
CREATE TABLE IF NOT EXISTS progress (
    order_id TEXT NOT NULL,
    number INTEGER NOT NULL,        -- 1, 2, 3 ... within the order: who has seen number 2 asks for what is above it
    status TEXT NOT NULL,
    at TEXT NOT NULL,               -- ISO 8601, UTC
    note TEXT NOT NULL,             -- a tracking number, or why there is none
    PRIMARY KEY (order_id, number),
    UNIQUE (order_id, status)
)
"""
ADD_PROGRESS = """
INSERT INTO progress VALUES (?, (SELECT count(*) + 1 FROM progress WHERE order_id = ?), ?, ?, ?) ON CONFLICT DO NOTHING
"""
FINAL = frozenset({"shipped", "refunded", "cancelled"})


class CallBack(Command[None], to="ordering"):
    """Ordering says it to itself, so that a customer who is away delays nothing else."""

    order_id: str
    status: str
    note: str
    address: str


ordering = Service("ordering", workflows=[Fulfilment])
ordering.prepares(tables)


@asynccontextmanager
async def open_callbacks() -> AsyncGenerator[Callbacks]:
    """As long as the service runs."""
    async with httpx.AsyncClient(timeout=10) as http:
        yield Callbacks(http, allowed_origins())


ordering.provide(Callbacks, open_callbacks)


class KeyUsed(Exception):
    """The idempotency key belongs to another order."""


async def take_order(client: Client, order: Order, *, key: str, callback: str = "") -> str:
    """Takes an order and returns its id; with a key that was used before, the id of the order that was taken then.

    The order's row, what the web needs of it, and `OrderPlaced` are one transaction: when this returns, the rest will
    happen. Raises `KeyUsed` if the key was used for something else, and `Unavailable` if the order is not taken, or
    nobody can tell: repeat it with the same key.
    """
    fingerprint = _fingerprint(order, callback)
    async with client.transaction() as outgoing:
        is_new = await outgoing.execute(
            "INSERT INTO requests VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING order_id",
            (key, order.order_id, fingerprint, callback),
        )
        if is_new:
            await enter_order(outgoing, order)
            await _add(outgoing, order.order_id, "placed", client.world.now())
            return order.order_id
        ((order_id, before),) = await outgoing.execute(
            "SELECT order_id, fingerprint FROM requests WHERE idempotency_key = ?", (key,)
        )
    if before != fingerprint:
        raise KeyUsed(f"the idempotency key {key!r} was used for another order. Use a new key for each order.")
    return str(order_id)


@ordering.prepares
async def tables_for_the_web(transaction: Transaction) -> None:
    await transaction.execute(REQUESTS)
    await transaction.execute(PROGRESS)


Progress = (
    OrderPlaced | PaymentCompleted | ShippingFailed | ShippingCancelled | OrderShipped | OrderRefunded | OrderCancelled
)


@ordering.handles
async def note_progress(event: Progress, transaction: Transaction, context: Context) -> CallBack | None:
    """Keeps what became of the order, in the transaction in which the workflow goes on.

    What an event leads to can only come after that, so the steps of an order are numbered in the order of their causes.
    """
    if isinstance(event, PaymentCompleted | OrderShipped | OrderRefunded | OrderCancelled):
        await note_status(event, transaction)
    note = _note(event)
    statuses = _statuses(event)
    for status in statuses:
        await _add(transaction, event.order_id, status, context.now, note)
    if statuses[-1] not in FINAL:
        return None
    rows = await transaction.execute(
        "SELECT callback FROM requests WHERE order_id = ? AND callback <> ''", (event.order_id,)
    )
    return CallBack(order_id=event.order_id, status=statuses[-1], note=note, address=rows[0][0]) if rows else None


@ordering.handles(
    retry=Retry(
        immediate=0,
        delayed=40,  # a day and more
        first=timedelta(seconds=1),
        factor=2,
        longest=timedelta(hours=1),
        give_up_on=(NotAllowed,),
    ),
    time_limit=timedelta(seconds=20),
)
async def call_back(command: CallBack, callbacks: Callbacks, context: Context) -> None:
    """Tells the customer's server, which may hear it twice: the key is the same then."""
    news = {"order_id": command.order_id, "status": command.status, "note": command.note}
    await callbacks.tell(command.address, news, idempotency_key=context.idempotency_key)


def _statuses(event: Progress) -> tuple[str, ...]:
    match event:
        case OrderPlaced():
            return ("paying",)
        case PaymentCompleted():
            return ("paid", "shipping")
        case ShippingFailed() | ShippingCancelled():
            return ("refunding",)
        case OrderShipped():
            return ("shipped",)
        case OrderRefunded():
            return ("refunded",)
        case OrderCancelled():
            return ("cancelled",)


def _note(event: Progress) -> str:
    match event:
        case OrderShipped():
            return event.tracking
        case ShippingFailed() | OrderRefunded() | OrderCancelled():
            return event.reason
        case _:
            return ""


def _fingerprint(order: Order, callback: str) -> str:
    asked = (str(order.total), *astuple(order.ship_to), callback)
    return hashlib.sha256("\0".join(asked).encode()).hexdigest()


async def _add(rows: Outgoing | Transaction, order_id: str, status: str, at: datetime, note: str = "") -> None:
    await rows.execute(ADD_PROGRESS, (order_id, order_id, status, at.isoformat(timespec="milliseconds"), note))


if __name__ == "__main__":
    run_program(ordering)
