"""The payment gateway: another company's system, which knows nothing of outlast but honours idempotency keys."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal

from examples.shop.ledger import Ledger
from examples.shop.program import outside_directory

NETWORK_SECONDS = (0.005, 0.04)
"""How long a request, or its answer, is under way: at least and at most."""
CARD_LIMIT = Decimal(20_000)


class CardDeclined(Exception):
    """The bank says no; asking again does not help."""


class Gateway:
    """Charges cards. Between the charge and the answer the network takes its time, as it does."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def charge(self, order_id: str, amount: Decimal, *, idempotency_key: str) -> str:
        """Charges the card and returns the id of the payment. Raises `CardDeclined`."""
        if amount > CARD_LIMIT:
            raise CardDeclined(f"{amount} is above the card's limit of {CARD_LIMIT}")
        return await self._request("charge", order_id, amount, idempotency_key)

    async def refund(self, order_id: str, amount: Decimal, *, idempotency_key: str) -> str:
        """Gives the amount back and returns the id of the refund."""
        return await self._request("refund", order_id, amount, idempotency_key)

    async def _request(self, kind: str, order_id: str, amount: Decimal, key: str) -> str:
        await _network()
        number = self._ledger.enter(kind, order_id, amount, key=key)
        await _network()
        return f"{kind}-{number}"


async def _network() -> None:
    await asyncio.sleep(random.uniform(*NETWORK_SECONDS))


@asynccontextmanager
async def open_gateway() -> AsyncGenerator[Gateway]:
    """The gateway, for as long as the service runs."""
    ledger = Ledger(outside_directory() / "gateway.db")
    try:
        yield Gateway(ledger)
    finally:
        ledger.close()
