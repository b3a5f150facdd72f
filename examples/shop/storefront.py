"""The storefront: takes orders at a steady pace, and remembers what it told its customers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta

from examples.shop.ordering import place_order
from examples.shop.orders import Order
from outlast import Client
from outlast.errors import Unavailable

AGAIN_SECONDS = 0.05


class Storefront:
    """One shop window. An order is `accepted` when its customer was told so, and never before."""

    def __init__(self) -> None:
        self.accepted: dict[str, timedelta] = {}
        """By id, in this order: how long the customer waits for a label after paying."""
        self.refused = 0
        """How often a customer was asked to press the button again."""
        self.taken_before = 0
        """Orders that were taken by a try of which the customer did not hear."""
        self._is_closed = False
        self._open = asyncio.Event()
        self._open.set()

    def pause(self) -> None:
        """Takes no order until `resume`; the one at hand is finished."""
        self._open.clear()

    def resume(self) -> None:
        """Goes on at the same pace, without hurrying after the orders that did not come meanwhile."""
        self._open.set()

    def close(self) -> None:
        """Takes no more orders; the one at hand is finished."""
        self._is_closed = True

    async def sell(self, client: Client, orders: Iterable[Order], *, per_second: float) -> None:
        """Takes these orders, evenly spread over time; it needs none of the services to be up."""
        loop = asyncio.get_running_loop()
        opened = loop.time()
        for number, order in enumerate(orders):
            await asyncio.sleep(max(0.0, opened + number / per_second - loop.time()))
            if not self._open.is_set():
                paused = loop.time()
                await self._open.wait()
                opened += loop.time() - paused
            if self._is_closed:
                return
            await self._sell(client, order)

    async def _sell(self, client: Client, order: Order) -> None:
        while True:
            try:
                is_new = await place_order(client, order)
            except Unavailable:
                # It is not taken, or nobody can tell: the customer is asked to press the button again, and the
                # order keeps its id.
                self.refused += 1
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            self.taken_before += not is_new
            self.accepted[order.order_id] = order.ship_within
            return
