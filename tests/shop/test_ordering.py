"""Ordering: an order is taken with its row and its event, or not at all."""

from __future__ import annotations

from pathlib import Path

from examples.shop.ordering import ORDERS, ordering, place_order
from examples.shop.orders import read_orders
from examples.shop.program import url_of

from outlast import Client
from outlast.engines import inspector_of


async def test_an_order_that_is_placed_twice_is_taken_once(tmp_path: Path) -> None:
    order = read_orders()[0]
    async with Client(url_of(tmp_path)) as client:
        async with client.transaction() as transaction:
            await transaction.execute(ORDERS)
        await client.engine.declare(ordering.name, ordering.routes.topics)

        await place_order(client, order)
        await place_order(client, order)

        (queue,) = await inspector_of(client.engine).queues()
        async with client.transaction() as transaction:
            rows = await transaction.execute("SELECT order_id, total, status FROM orders")
    assert rows == [("10248", "472.38", "placed")]
    assert queue.waiting == 1
