"""Ordering: an order is taken with its row and its event, or not at all."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from examples.shop.ordering import ORDERS, ordering, place_order
from examples.shop.orders import read_orders
from examples.shop.program import shop_file, url_of

from outlast import Client
from outlast.engines import inspector_of


async def test_an_order_that_is_placed_twice_is_taken_once(tmp_path: Path) -> None:
    order = read_orders()[0]
    with closing(sqlite3.connect(shop_file(tmp_path), timeout=0)) as connection:
        connection.execute(ORDERS)
        async with Client(url_of(tmp_path)) as client:
            await client.engine.declare(ordering.name, ordering.routes.topics)

            await place_order(client, connection, order)
            await place_order(client, connection, order)

            (queue,) = await inspector_of(client.engine).queues()
        rows = connection.execute("SELECT order_id, total, status FROM orders").fetchall()
    assert rows == [("10248", "472.38", "placed")]
    assert queue.waiting == 1
