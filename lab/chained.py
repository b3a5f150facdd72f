"""The shop from service to service: Ordering calls Payment, which calls Warehouse. Each has a database of its own.

What careful teams do without an outbox: every call has a time-out, above that of the calls it leads to; a call without
an answer is repeated; an order's id is the idempotency key, so that repeating does no harm; who cannot go on undoes its
own part. Nobody looks later for what was left behind: a job that does, with a table of what is still to be done, is the
beginning of the fourth way.
"""

from __future__ import annotations

from examples.shop.orders import Order
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lab.business import CalledOff, NoAnswer, Refused, note, pay, place, refund, status_of
from lab.calls import Peer
from lab.service import Part, run_warehouse
from lab.way import APART, Settings, Way
from lab.web import CONFLICT, CREATED, order_in

WAREHOUSE_SECONDS, WAREHOUSE_TRIES = 0.5, 3
PAYMENT_SECONDS, PAYMENT_TRIES = 2.2, 2
"""More than Payment may need for its calls."""


class Ordering(Part):
    """Takes orders, and waits for all the others."""

    async def post_order(self, request: Request) -> Response:
        """POST /orders. An order whose fate is not known stays `placed`: asked again, it goes on where it was."""
        order = await order_in(request)
        async with self.desk.work() as rows:
            await place(rows, order)
            status = await status_of(rows, order.order_id)
        if status != "placed":
            return Response(status, CREATED if status == "shipped" else CONFLICT)
        payment = Peer(self.client, self.settings.url_of("payment"), PAYMENT_SECONDS, PAYMENT_TRIES)
        try:
            await payment.post("/payments", order)
        except Refused:
            async with self.desk.work() as rows:
                await note(rows, order.order_id, "refunded")
            raise
        async with self.desk.work() as rows:
            await note(rows, order.order_id, "shipped")
        return Response("shipped", CREATED)


class Payment(Part):
    """Charges, and has the order shipped."""

    async def post_payment(self, request: Request) -> Response:
        """POST /payments. The money goes back if the warehouse refuses, and if it does not answer."""
        order = await order_in(request)
        async with self.desk.work() as rows:
            await pay(rows, order)
        warehouse = Peer(self.client, self.settings.url_of("warehouse"), WAREHOUSE_SECONDS, WAREHOUSE_TRIES)
        try:
            await warehouse.post("/shipments", order)
        except Refused:
            await self.give_back(order)
            raise
        except NoAnswer as failure:
            # It may have been shipped. The customer is told no, so the money goes back all the same.
            await self.give_back(order)
            raise CalledOff(str(failure)) from failure
        return Response("shipped", CREATED)

    async def give_back(self, order: Order) -> None:
        async with self.desk.work() as rows:
            await refund(rows, order)


def run_ordering(settings: Settings) -> None:
    ordering = Ordering(settings, "ordering")
    ordering.serve(Route("/orders", ordering.post_order, methods=["POST"]))


def run_payment(settings: Settings) -> None:
    payment = Payment(settings, "payment")
    payment.serve(Route("/payments", payment.post_payment, methods=["POST"]))


WAY = Way(
    programs={"ordering": run_ordering, "payment": run_payment, "warehouse": run_warehouse},
    databases=APART,
)
