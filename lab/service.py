"""A service that is called over HTTP, for the two ways that do it: what all have, and Warehouse, which is the same."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lab.books import open_books
from lab.business import ship
from lab.trouble import Desk, Trouble
from lab.way import Settings
from lab.web import CREATED, order_in, serve


class Part:
    """A service, with its desk and its way to the next one."""

    desk: Desk
    client: httpx.AsyncClient

    def __init__(self, settings: Settings, service: str) -> None:
        self.settings = settings
        self.service = service
        self.trouble = Trouble(settings.directory, service)

    @asynccontextmanager
    async def open(self, app: Starlette) -> AsyncGenerator[None]:
        async with (
            open_books(self.settings.books[self.service], [self.service]) as books,
            httpx.AsyncClient() as self.client,
        ):
            self.desk = Desk(books, self.trouble)
            yield

    def serve(self, *routes: Route) -> None:
        serve(self.settings, self.service, routes=routes, lifespan=self.open, troubles=[self.trouble])


class Warehouse(Part):
    """Ships."""

    async def post_shipment(self, request: Request) -> Response:
        """POST /shipments."""
        order = await order_in(request)
        async with self.desk.work() as rows:
            await ship(rows, order)
        return Response("shipped", CREATED)


def run_warehouse(settings: Settings) -> None:
    warehouse = Warehouse(settings, "warehouse")
    warehouse.serve(Route("/shipments", warehouse.post_shipment, methods=["POST"]))
