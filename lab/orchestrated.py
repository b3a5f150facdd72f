"""The shop with a synchronous orchestrator: Ordering calls Payment, then Warehouse, and Payment again for a refund.

As careful as the chained shop (see there): time-outs, repeated calls, the order's id as the idempotency key. Payment
and Warehouse know nothing of each other. What comes next is known to one process alone, for as long as it lives.
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

CALL_SECONDS, TRIES = 0.5, 3


class Ordering(Part):
    """Takes orders, and sees each one through, step by step."""

    def peer(self, service: str) -> Peer:
        return Peer(self.client, self.settings.url_of(service), CALL_SECONDS, TRIES)

    async def post_order(self, request: Request) -> Response:
        """POST /orders. An order that was broken off stays `placed`: asked again, it goes on where it was."""
        order = await order_in(request)
        async with self.desk.work() as rows:
            await place(rows, order)
            status = await status_of(rows, order.order_id)
        if status != "placed":
            return Response(status, CREATED if status == "shipped" else CONFLICT)
        try:
            await self.peer("payment").post("/payments", order)
            await self.peer("warehouse").post("/shipments", order)
        except Refused:
            await self.call_off(order)
            raise
        except NoAnswer as failure:
            # It may have been done. The customer is told no, so the money goes back all the same.
            await self.call_off(order)
            raise CalledOff(str(failure)) from failure
        async with self.desk.work() as rows:
            await note(rows, order.order_id, "shipped")
        return Response("shipped", CREATED)

    async def call_off(self, order: Order) -> None:
        await self.peer("payment").post("/refunds", order)
        async with self.desk.work() as rows:
            await note(rows, order.order_id, "refunded")


class Payment(Part):
    """Charges, and gives back."""

    async def post_payment(self, request: Request) -> Response:
        """POST /payments."""
        order = await order_in(request)
        async with self.desk.work() as rows:
            await pay(rows, order)
        return Response("paid", CREATED)

    async def post_refund(self, request: Request) -> Response:
        """POST /refunds."""
        order = await order_in(request)
        async with self.desk.work() as rows:
            await refund(rows, order)
        return Response("refunded", CREATED)


def run_ordering(settings: Settings) -> None:
    ordering = Ordering(settings, "ordering")
    ordering.serve(Route("/orders", ordering.post_order, methods=["POST"]))


def run_payment(settings: Settings) -> None:
    payment = Payment(settings, "payment")
    payment.serve(
        Route("/payments", payment.post_payment, methods=["POST"]),
        Route("/refunds", payment.post_refund, methods=["POST"]),
    )


WAY = Way(
    programs={"ordering": run_ordering, "payment": run_payment, "warehouse": run_warehouse},
    databases=APART,
)
