"""What a customer of the asynchronous shop sees: an answer at once, and an address that tells how far the order is."""

from __future__ import annotations

import asyncio

import httpx
import msgspec
from lab.customers import northwind
from lab.stage import Servers, set_stage

LONGEST_SECONDS = 20.0


async def test_an_order_can_be_followed_at_the_address_that_its_customer_was_given() -> None:
    order = northwind(1)[0]
    with Servers() as servers:
        async with (
            set_stage("sqlite", servers) as stage,
            asyncio.timeout(LONGEST_SECONDS),
            httpx.AsyncClient() as client,
        ):
            front = stage.settings.url_of(stage.system.way.front)
            answer = await client.post(f"{front}/orders", content=msgspec.json.encode(order))
            address = f"{front}{answer.headers['Location']}"
            while (status := (await client.get(address)).json()["status"]) == "placed":
                await asyncio.sleep(0.02)

    assert answer.status_code == 202
    assert status == "shipped"
