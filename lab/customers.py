"""The customers: they place orders at a steady pace, and remember what they were told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import monotonic

import httpx
import msgspec
from examples.shop.orders import Order, read_orders

from lab.web import CONFLICT, UNPROCESSABLE

PATIENCE_SECONDS = 6.0
"""So long a customer waits for an answer."""
AGAIN_SECONDS = 1.0
"""After an error the customer presses the button once more, and then goes away."""
TRIES = 2

ACCEPTED, DECLINED, REFUSED = "accepted", "declined", "refused"


@dataclass(frozen=True, slots=True)
class Told:
    """An order, and what became of it as its customer sees it."""

    order: Order
    at: float
    """When it was placed, by the machine's monotonic clock."""
    weather: str
    """What was wrong then; empty: nothing."""
    outcome: str = REFUSED
    """Accepted; declined, which is the shop's own answer to an order that it does not want; or refused."""
    errors: int = 0
    """Answers that told of a failure, and requests without an answer."""
    seconds: float = 0.0
    """Until the last answer, or until the customer went away."""


def northwind(number: int) -> list[Order]:
    """So many orders; those after the last of the sample data are copies with a new id."""
    orders = read_orders()
    return [
        replace(orders[n % len(orders)], order_id=f"{orders[n % len(orders)].order_id}-{n // len(orders)}")
        for n in range(number)
    ]


async def shop_for(url: str, orders: Sequence[Order], *, per_second: float, weather: Callable[[], str]) -> list[Told]:
    """Places these orders, evenly spread over time, whatever becomes of those before."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    began = monotonic()
    async with httpx.AsyncClient(limits=limits, timeout=PATIENCE_SECONDS) as client, asyncio.TaskGroup() as customers:
        placing: list[asyncio.Task[Told]] = []
        for number, order in enumerate(orders):
            await asyncio.sleep(max(0.0, began + number / per_second - monotonic()))
            told = Told(order, at=monotonic(), weather=weather())
            placing.append(customers.create_task(_place(client, f"{url}/orders", told)))
    return [task.result() for task in placing]


async def _place(client: httpx.AsyncClient, url: str, told: Told) -> Told:
    body = msgspec.json.encode(told.order)
    errors, outcome = 0, ""
    while not outcome:
        if errors:
            await asyncio.sleep(AGAIN_SECONDS)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                answer = await client.post(url, content=body)
            outcome = _outcome(answer)
        except (httpx.TransportError, TimeoutError):
            outcome = ""
        errors += outcome in ("", REFUSED)
        if errors == TRIES:
            outcome = REFUSED
    return replace(told, outcome=outcome, errors=errors, seconds=monotonic() - told.at)


def _outcome(answer: httpx.Response) -> str:
    """Empty if it is worth pressing the button again."""
    if answer.is_success:
        return ACCEPTED
    return {UNPROCESSABLE: DECLINED, CONFLICT: REFUSED}.get(answer.status_code, "")
