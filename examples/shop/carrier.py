"""The carrier: another company's system, which makes shipping labels and honours idempotency keys."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal

from examples.shop.ledger import Ledger
from examples.shop.messages import Address
from examples.shop.program import outside_directory

NETWORK_SECONDS = (0.005, 0.04)
"""How long a request, or its answer, is under way: at least and at most."""
SLOW_SECONDS = 3.0
"""How long a slow one is."""


class AddressRefused(Exception):
    """The carrier cannot deliver to this address, however often it is asked."""


class OrderVoided(Exception):
    """The labels of this order were voided; it gets no other."""


class Carrier:
    """Makes labels. Between the label and the answer the network takes its time, as it does."""

    def __init__(self, ledger: Ledger, *, slow: float = 0.0) -> None:
        self._ledger = ledger
        self._slow = slow
        """Which share of the requests for a label, and of the answers to them, takes its time."""

    async def label(self, order_id: str, ship_to: Address, *, idempotency_key: str) -> str:
        """Makes a label and returns its tracking number. Raises `AddressRefused` or `OrderVoided`."""
        if not ship_to.postal_code:
            raise AddressRefused(f"{ship_to.city}, {ship_to.country}: the address has no postal code")
        await _network(self._slow)
        number = self._ledger.enter("label", order_id, Decimal(0), key=idempotency_key, unless="void")
        await _network(self._slow)
        if number is None:
            raise OrderVoided(f"order {order_id} was voided")
        return f"label-{number}"

    async def void(self, order_id: str, *, reason: str, idempotency_key: str) -> None:
        """Voids what labels the order has, and refuses it further ones."""
        await _network()
        self._ledger.enter("void", order_id, Decimal(0), key=idempotency_key, reason=reason)
        await _network()


async def _network(slow: float = 0.0) -> None:
    await asyncio.sleep(SLOW_SECONDS if random.random() < slow else random.uniform(*NETWORK_SECONDS))


@asynccontextmanager
async def open_carrier() -> AsyncGenerator[Carrier]:
    """The carrier, for as long as the service runs."""
    ledger = Ledger(outside_directory() / "carrier.db")
    try:
        yield Carrier(ledger, slow=float(os.environ.get("SHOP_SLOW_LABELS", "0")))
    finally:
        ledger.close()
