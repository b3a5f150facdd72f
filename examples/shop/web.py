"""The shop on the web: an order is answered with 202 at once, and followed to its end.

SHOP_URL=sqlite:///shop.db uvicorn --factory examples.shop.web:shop_app

POST /orders               202, with the address of the order's status
GET  /orders/{id}          where it is; ask again after Retry-After seconds
GET  /orders/{id}/events   the same as server-sent events, as it happens
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Annotated, TypedDict

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from examples.shop.callbacks import NotAllowed, allowed_origins, check_allowed
from examples.shop.following import Following, Standing
from examples.shop.messages import Address
from examples.shop.online_ordering import KeyUsed, take_order
from examples.shop.orders import Order
from examples.shop.program import shop_url
from examples.shop.rows import open_reader
from outlast import Client
from outlast.errors import Unavailable
from outlast.operations import open_operations

PAGE = Path(__file__).with_name("page.html")
PRODUCTS = {
    "chai": ("Chai", Decimal("18.00")),
    "ikura": ("Ikura", Decimal("31.00")),
    "cote-de-blaye": ("Côte de Blaye", Decimal("263.50")),
}
RETRY_AFTER_SECONDS = 1
KEEP_ALIVE_SECONDS = 15.0
KEY_LENGTH_MAX = 200

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class ShipTo(msgspec.Struct, forbid_unknown_fields=True):
    """Where an order goes, as a customer writes it."""

    name: Text
    city: Text
    country: Text
    street: str = ""
    region: str = ""
    postal_code: str = ""


class NewOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /orders. What it costs is not the customer's to say."""

    product: str
    quantity: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    ship_to: ShipTo
    callback: str = ""
    """An address to be called when the order has ended."""


class Refused(Exception):
    """A request that cannot be met, and the status that says so."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Shop(TypedDict):
    """What every request is given, as `request.state`."""

    client: Client
    following: Following
    callback_origins: frozenset[str]


def shop_app() -> Starlette:
    """The app on the shop's engine."""
    return app(shop_url(), callback_origins=allowed_origins())


def app(
    url: str,
    *,
    callback_origins: frozenset[str] = frozenset(),
    more: Sequence[BaseRoute] = (),
    is_demo: bool = False,
) -> Starlette:
    """The app, with the routes of a demo if it is one. The services need not be up, but ordering once was."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[Shop]:
        async with (
            open_operations(url) as operations,
            open_reader(url) as reader,
            Client(url, name="web") as client,
        ):
            following = Following(reader, operations)
            looking = asyncio.create_task(following.run())
            try:
                yield Shop(client=client, following=following, callback_origins=callback_origins)
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)

    html = _page(is_demo=is_demo)

    async def page(_: Request) -> Response:
        return HTMLResponse(html)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/orders", place, methods=["POST"]),
            Route("/orders/{order_id:uuid}", status),
            Route("/orders/{order_id:uuid}/events", events),
            *more,
        ],
        lifespan=lifespan,
        exception_handlers={Refused: refused, Unavailable: unavailable},
    )


async def place(request: Request) -> Response:
    """Takes an order. The answer is 202 when the order and its message are committed, and not before."""
    client: Client = request.state.client
    order_id = str(uuid.uuid4())
    key = _key(request) or order_id
    new = _read(await request.body())
    try:
        if new.callback:
            check_allowed(new.callback, request.state.callback_origins)
        order_id = await take_order(client, _order(order_id, new), key=key, callback=new.callback)
    except (KeyUsed, NotAllowed) as error:
        raise Refused(422, str(error)) from error
    where = f"/orders/{order_id}"
    return _json(
        {"order_id": order_id, "status_url": where, "events_url": f"{where}/events"},
        status=202,
        headers={"Location": where, "Retry-After": str(RETRY_AFTER_SECONDS)},
    )


async def status(request: Request) -> Response:
    """Where an order is. With If-None-Match, 304 as long as it is still there."""
    standing = await _standing(request)
    headers = {"ETag": _tag(standing), "Cache-Control": "no-cache"}
    if not standing.is_final:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if request.headers.get("If-None-Match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return _json(
        {
            "order_id": standing.order_id,
            "status": standing.status,
            "is_final": standing.is_final,
            "steps": standing.steps,
            "waiting_for": standing.waiting_for,
        },
        headers=headers,
    )


async def events(request: Request) -> Response:
    """An order's steps as server-sent events: those after Last-Event-ID, and then as they come."""
    standing = await _standing(request)
    last = request.headers.get("Last-Event-ID", "")
    seen = int(last) if last.isdecimal() else 0
    if standing.is_final and seen >= standing.steps[-1].number:
        return Response(status_code=204)  # which tells a browser not to connect again
    following: Following = request.state.following
    return StreamingResponse(
        _stream(following, standing.order_id, seen),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _stream(following: Following, order_id: str, seen: int) -> AsyncGenerator[str]:
    """Steps have their number as id. What an order waits for has none: it is news only now."""
    now = asyncio.get_running_loop().time
    waiting_for, spoke_at = None, now()
    yield "retry: 1000\n\n"
    async for standing in following.follow(order_id):
        said: list[str] = []
        for step in standing.steps:
            if step.number > seen:
                seen = step.number
                said.append(f"id: {step.number}\nevent: step\ndata: {_text(step)}\n\n")
        if standing.waiting_for not in (None, waiting_for):
            waiting_for = standing.waiting_for
            said.append(f"event: waiting\ndata: {_text(waiting_for)}\n\n")
        if not said and now() - spoke_at > KEEP_ALIVE_SECONDS:
            said.append(": nothing new\n\n")
        if said:
            spoke_at = now()
            yield "".join(said)


async def refused(_: Request, error: Exception) -> Response:
    """A 4xx in words (RFC 9457)."""
    assert isinstance(error, Refused)
    return _problem(error.status, str(error))


async def unavailable(_: Request, error: Exception) -> Response:
    """Nobody can tell whether the order was taken: the same request again, with the same key, is safe."""
    return _problem(
        503,
        "The shop cannot answer now. Repeat the request with the same Idempotency-Key; the order is taken once.",
        {"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def _key(request: Request) -> str:
    key = request.headers.get("Idempotency-Key", "")
    if len(key) > KEY_LENGTH_MAX:
        raise Refused(400, f"The Idempotency-Key has {len(key)} characters. Use at most {KEY_LENGTH_MAX}.")
    return key


def _page(*, is_demo: bool) -> str:
    products = [
        f'<option value="{id}" data-price="{price}">{name}: {price}</option>' for id, (name, price) in PRODUCTS.items()
    ]
    page = PAGE.read_text(encoding="utf-8")
    return page.replace("{{products}}", "".join(products)).replace("{{demo}}", "demo" if is_demo else "")


def _read(body: bytes) -> NewOrder:
    """The body, if it is an order. Raises `Refused`."""
    try:
        new = msgspec.json.decode(body, type=NewOrder)
    except msgspec.ValidationError as error:
        raise Refused(422, f"This is no order: {error}.") from error
    except msgspec.DecodeError as error:
        raise Refused(400, f"The body is no JSON: {error}.") from error
    if new.product not in PRODUCTS:
        raise Refused(422, f"There is no product {new.product!r}. There are: {', '.join(PRODUCTS)}.")
    return new


def _order(order_id: str, new: NewOrder) -> Order:
    _, price = PRODUCTS[new.product]
    return Order(order_id, price * new.quantity, Address(**msgspec.structs.asdict(new.ship_to)))


async def _standing(request: Request) -> Standing:
    following: Following = request.state.following
    standing = await following.look(str(request.path_params["order_id"]))
    if standing is None:
        raise Refused(404, "There is no such order.")
    return standing


def _tag(standing: Standing) -> str:
    is_away = standing.waiting_for is not None and standing.waiting_for.is_away
    return f'"{len(standing.steps)}{"-away" if is_away else ""}"'


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    return _json({"status": status, "detail": detail}, status=status, headers=headers, kind="application/problem+json")


def _json(
    content: object, *, status: int = 200, headers: dict[str, str] | None = None, kind: str = "application/json"
) -> Response:
    return Response(msgspec.json.encode(content), status_code=status, headers=headers, media_type=kind)


def _text(content: object) -> str:
    return msgspec.json.encode(content).decode()
