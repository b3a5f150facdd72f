"""The shop as an asynchronous workflow: nobody calls anybody. Messages wait until their receiver is there.

POST /orders enters the order and publishes `OrderPlaced` in one transaction, and answers 202 with an address that tells
how far the order is. The workflow sends a command for each step and hears what came of it; a step without an outcome is
tried again, long after any fault of the schedule. It need not guess, since no customer is waiting for it.

Payment and Warehouse keep their books in databases of their own, as in the other ways. So their work does not commit
together with the messages, and it is the order's id that makes a repeated command harmless.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

from examples.shop.orders import Order
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lab.books import open_books
from lab.business import TABLES, Refused, note, pay, place, refund, ship, status_of
from lab.trouble import Desk, Trouble
from lab.way import APART, Settings, Way
from lab.web import ACCEPTED, order_in, serve
from outlast import Client, Command, Event, Retry, Service, Transaction, Worker, Workflow, on, run, starts
from outlast.signals import GaveUp, Interrupted, Signal

PATIENT = Retry(immediate=1, delayed=1000, first=timedelta(seconds=0.25), factor=2, longest=timedelta(seconds=1))
"""A step is tried a thousand times, for some twenty minutes, before it is set aside for a person."""
LEASE = timedelta(seconds=5)
"""What a process had taken that has gone silent is handed out again after this time at the latest."""


class OrderPlaced(Event):
    order_id: str
    order: Order


class PaymentCompleted(Event):
    order_id: str


class MakePayment(Command[PaymentCompleted], to="payment"):
    order_id: str
    order: Order


class OrderShipped(Event):
    order_id: str


class ShippingRefused(Event):
    order_id: str
    reason: str


class Ship(Command[OrderShipped | ShippingRefused], to="warehouse"):
    order_id: str
    order: Order


class OrderRefunded(Event):
    order_id: str


class RefundPayment(Command[OrderRefunded], to="payment"):
    order_id: str
    order: Order


class Fulfilment(Workflow, key="order_id"):
    """One order."""

    order: Order | None = None

    @starts
    def placed(self, event: OrderPlaced) -> MakePayment:
        self.order = event.order
        return MakePayment(order_id=event.order_id, order=event.order)

    @on
    def paid(self, event: PaymentCompleted) -> Ship:
        assert self.order is not None
        return Ship(order_id=event.order_id, order=self.order)

    @on
    def shipped(self, event: OrderShipped) -> None:
        self.complete()

    @on
    def refused(self, event: ShippingRefused) -> RefundPayment:
        assert self.order is not None
        return RefundPayment(order_id=event.order_id, order=self.order)

    @on
    def refunded(self, event: OrderRefunded) -> None:
        self.complete()


ordering = Service("ordering", workflows=[Fulfilment], retry=PATIENT)
payment = Service("payment", retry=PATIENT)
warehouse = Service("warehouse", retry=PATIENT)


@ordering.prepares
async def tables(transaction: Transaction) -> None:
    for statement in TABLES["ordering"]:
        await transaction.execute(statement)


@ordering.handles
async def note_status(event: OrderShipped | OrderRefunded, transaction: Transaction) -> None:
    """The status and the consumption of the event commit together."""
    await note(transaction, event.order_id, "shipped" if isinstance(event, OrderShipped) else "refunded")


@payment.handles
async def make_payment(command: MakePayment, desk: Desk) -> PaymentCompleted:
    async with desk.work() as rows:
        await pay(rows, command.order)
    desk.trouble.answer()
    return PaymentCompleted(order_id=command.order_id)


@payment.handles
async def refund_payment(command: RefundPayment, desk: Desk) -> OrderRefunded:
    async with desk.work() as rows:
        await refund(rows, command.order)
    desk.trouble.answer()
    return OrderRefunded(order_id=command.order_id)


@warehouse.handles
async def ship_order(command: Ship, desk: Desk) -> OrderShipped | ShippingRefused:
    try:
        async with desk.work() as rows:
            await ship(rows, command.order)
    except Refused as refusal:
        return ShippingRefused(order_id=command.order_id, reason=str(refusal))
    desk.trouble.answer()
    return OrderShipped(order_id=command.order_id)


class Front:
    """The web front of Ordering, in one process with Ordering's worker."""

    client: Client

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @asynccontextmanager
    async def open(self, app: Starlette) -> AsyncGenerator[None]:
        async with (
            Worker([ordering], url=self.settings.engine, lease=LEASE, observe=report) as worker,
            Client(engine=worker.engine, world=worker.world, name="front") as self.client,
        ):
            yield

    async def post_order(self, request: Request) -> Response:
        """POST /orders: when this is answered, the rest will happen."""
        order = await order_in(request)
        async with self.client.transaction() as outgoing:
            if await place(outgoing, order):
                outgoing.publish(OrderPlaced(order_id=order.order_id, order=order))
        return Response("placed", ACCEPTED, headers={"Location": f"/orders/{order.order_id}"})

    async def get_order(self, request: Request) -> Response:
        """GET /orders/ID: how far it is."""
        async with self.client.transaction() as outgoing:
            status = await status_of(outgoing, request.path_params["order_id"])
        return JSONResponse({"status": status}, 200 if status else 404)


def report(signal: Signal) -> None:
    if isinstance(signal, GaveUp | Interrupted):
        print(signal, file=sys.stderr, flush=True)


def run_ordering(settings: Settings) -> None:
    front = Front(settings)
    routes = [
        Route("/orders", front.post_order, methods=["POST"]),
        Route("/orders/{order_id}", front.get_order),
    ]
    serve(settings, "ordering", routes=routes, lifespan=front.open, troubles=[Trouble(settings.directory, "ordering")])


def run_service(settings: Settings, service: Service) -> None:
    """Payment or Warehouse: a worker with a desk."""

    @asynccontextmanager
    async def open_desk() -> AsyncGenerator[Desk]:
        async with open_books(settings.books[service.name], [service.name]) as books:
            yield Desk(books, Trouble(settings.directory, service.name))

    def ready() -> None:
        settings.ready_file(service.name).write_text(str(os.getpid()))

    service.provide(Desk, open_desk)
    worker = Worker([service], url=settings.engine, lease=LEASE, observe=report)
    asyncio.run(run(worker, ready=ready))


def run_payment(settings: Settings) -> None:
    run_service(settings, payment)


def run_warehouse(settings: Settings) -> None:
    run_service(settings, warehouse)


WAY = Way(
    programs={"ordering": run_ordering, "payment": run_payment, "warehouse": run_warehouse},
    databases=APART,
)
