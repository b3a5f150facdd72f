"""The shop as a monolith: one process, one database, one transaction for an order.

Nothing can be left half done, since nothing is there before all of it is. In return one program does everything, and
everything is up or nothing is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lab.books import Books, open_books
from lab.business import SERVICES, note, pay, place, ship
from lab.trouble import Trouble
from lab.way import TOGETHER, Settings, Way
from lab.web import CREATED, order_in, serve


class Monolith:
    """All that the shop does."""

    books: Books

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.payment = Trouble(settings.directory, "payment")
        self.warehouse = Trouble(settings.directory, "warehouse")

    @asynccontextmanager
    async def open(self, app: Starlette) -> AsyncGenerator[None]:
        async with open_books(self.settings.books["ordering"], SERVICES) as self.books:
            yield

    async def post_order(self, request: Request) -> Response:
        """POST /orders: takes, charges and ships the order, or none of it."""
        order = await order_in(request)
        async with self.books.transaction() as rows:
            if await place(rows, order):
                async with self.payment.around():
                    await pay(rows, order)
                async with self.warehouse.around():
                    await ship(rows, order)
                await note(rows, order.order_id, "shipped")
        return Response("shipped", CREATED)


def run(settings: Settings) -> None:
    """The only program."""
    shop = Monolith(settings)
    routes = [Route("/orders", shop.post_order, methods=["POST"])]
    serve(settings, "monolith", routes=routes, lifespan=shop.open, troubles=[shop.payment, shop.warehouse])


WAY = Way(programs={"monolith": run}, databases=TOGETHER)
