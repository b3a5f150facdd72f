"""The shop on the web: what its HTTP interface promises, by real requests to a real server."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from examples.shop import web
from examples.shop.callbacks import NotAllowed, check_allowed
from examples.shop.following import LOOK_SECONDS
from examples.shop.online_ordering import ordering, take_order
from examples.shop.orders import read_orders
from examples.shop.payment import payment
from examples.shop.program import url_of
from examples.shop.rows import SqliteReader
from examples.shop.warehouse import warehouse
from examples.shop.web_demo import Server, listen
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from outlast import Client, Service, Worker
from outlast.engines import inspector_of
from outlast.errors import Unavailable
from outlast.runtime.context import prepare

ALL = (ordering, payment, warehouse)
CHAI = {
    "product": "chai",
    "quantity": 2,
    "ship_to": {"name": "Maria Anders", "city": "Berlin", "postal_code": "12209", "country": "Germany"},
}


@asynccontextmanager
async def served(app: Starlette, port: int = 0) -> AsyncGenerator[str]:
    """The address of this app, as long as the block."""
    with listen(port) as listening:
        server = Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A shop in a file."""
    monkeypatch.setenv("SHOP_DIRECTORY", str(tmp_path))
    return url_of(tmp_path) + "?synchronous=normal"


@pytest.fixture(params=["sqlite", "postgres"])
def either_url(request: pytest.FixtureRequest, url: str) -> str:
    """The same, and one in a PostgreSQL."""
    if request.param == "postgres":
        database: str = request.getfixturevalue("postgres_database")
        return database
    return url


@asynccontextmanager
async def shop(url: str, *services: Service, callbacks: str = "") -> AsyncGenerator[httpx.AsyncClient]:
    """Who asks the shop, while these of its services run. Ordering was up once."""
    async with Worker([ordering], url=url):
        pass
    async with served(web.app(url, callback_origins=frozenset({callbacks}))) as address:
        async with httpx.AsyncClient(base_url=address) as http:
            async with running(url, *services):
                yield http


@asynccontextmanager
async def running(url: str, *services: Service) -> AsyncGenerator[None]:
    if not services:
        yield
        return
    async with Worker(services, url=url):
        yield


async def until_final(http: httpx.AsyncClient, where: str) -> dict[str, Any]:
    while True:
        found = (await http.get(where)).json()
        if found["is_final"]:
            return found
        await asyncio.sleep(0.02)


async def events(http: httpx.AsyncClient, where: str, last: object = None) -> AsyncIterator[tuple[str, str, Any]]:
    """Id, name and data of each event; comments are `("", "comment", text)`."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    async with http.stream("GET", f"{where}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        event: dict[str, str] = {}
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if line.startswith(":"):
                yield "", "comment", value
            elif line:
                event[name] = value
            elif event:
                if "event" in event:
                    yield event.get("id", ""), event["event"], json.loads(event["data"])
                event = {}


async def test_an_order_is_accepted_with_an_address_while_every_service_is_down(url: str) -> None:
    async with shop(url) as http:
        answer = await http.post("/orders", json=CHAI)
        found = await http.get(answer.headers["Location"])

    assert answer.status_code == 202
    assert answer.json()["status_url"] == answer.headers["Location"]
    assert (found.json()["status"], found.json()["is_final"]) == ("placed", False)
    assert found.json()["waiting_for"] == {"service": "ordering", "is_away": True}


async def test_an_order_is_polled_to_its_end(either_url: str) -> None:
    async with shop(either_url) as http:
        where = (await http.post("/orders", json=CHAI)).headers["Location"]
        early = await http.get(where)
        same = await http.get(where, headers={"If-None-Match": early.headers["ETag"]})
        async with running(either_url, ordering):
            while (later := await http.get(where)).json()["status"] != "paying":
                await asyncio.sleep(0.02)
        async with running(either_url, payment, warehouse, ordering):
            found = await until_final(http, where)
        late = await http.get(where)

    assert (early.headers["Retry-After"], same.status_code, same.content) == ("1", 304, b"")
    assert [step["status"] for step in found["steps"]] == ["placed", "paying", "paid", "shipping", "shipped"]
    assert [step["number"] for step in found["steps"]] == [1, 2, 3, 4, 5]
    assert found["steps"][-1]["note"].startswith("label-")
    assert found["waiting_for"] is None
    assert len({answer.headers["ETag"] for answer in (early, later, late)}) == 3
    assert "Retry-After" not in late.headers


@pytest.mark.parametrize(
    ("change", "statuses", "note"),
    [
        ({"quantity": 1000, "product": "cote-de-blaye"}, ["placed", "paying", "cancelled"], "above the card's limit"),
        (
            {"ship_to": {**CHAI["ship_to"], "country": "Argentina"}},
            ["placed", "paying", "paid", "shipping", "refunding", "refunded"],
            "do not export to Argentina",
        ),
    ],
)
async def test_an_order_that_fails_says_why(url: str, change: Any, statuses: list[str], note: str) -> None:
    async with shop(url, *ALL) as http:
        where = (await http.post("/orders", json={**CHAI, **change})).headers["Location"]
        found = await until_final(http, where)

    assert [step["status"] for step in found["steps"]] == statuses
    assert note in found["steps"][-1]["note"]


async def test_an_order_is_followed_while_payment_is_away_and_comes_back(url: str) -> None:
    async with shop(url, ordering, warehouse) as http:
        where = (await http.post("/orders", json=CHAI)).headers["Location"]
        following = events(http, where)
        seen = [await anext(following)]
        while seen[-1][1:] != ("waiting", {"service": "payment", "is_away": True}):
            seen.append(await anext(following))
        async with running(url, payment):
            seen += [event async for event in following]

    steps = [(id, data["status"]) for id, name, data in seen if name == "step"]
    assert steps == [("1", "placed"), ("2", "paying"), ("3", "paid"), ("4", "shipping"), ("5", "shipped")]


async def test_whoever_lost_the_connection_hears_the_rest_and_nothing_twice(url: str) -> None:
    async with shop(url, *ALL) as http:
        where = (await http.post("/orders", json=CHAI)).headers["Location"]
        await until_final(http, where)
        rest = [id async for id, _, _ in events(http, where, last=3)]
        after_the_end = await http.get(f"{where}/events", headers={"Last-Event-ID": "5"})
        nonsense = [id async for id, _, _ in events(http, where, last="first")]

    assert rest == ["4", "5"]
    assert after_the_end.status_code == 204
    assert nonsense == ["1", "2", "3", "4", "5"]


async def test_a_connection_is_kept_alive_while_nothing_happens(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "KEEP_ALIVE_SECONDS", 0.1)
    async with shop(url) as http:
        where = (await http.post("/orders", json=CHAI)).headers["Location"]
        following = events(http, where)
        names = [(await anext(following))[1] for _ in range(4)]
        await following.aclose()  # type: ignore[attr-defined]

    assert names == ["step", "waiting", "comment", "comment"]


async def test_an_order_is_not_looked_at_any_more_when_nobody_follows_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = asyncio.Event()
    read = SqliteReader.read

    async def watched(self: SqliteReader, sql: str, parameters: Any = ()) -> Any:
        looked.set()
        return await read(self, sql, parameters)

    monkeypatch.setattr(SqliteReader, "read", watched)
    async with shop(url) as http:
        where = (await http.post("/orders", json=CHAI)).headers["Location"]
        following = events(http, where)
        await anext(following)
        looked.clear()
        await asyncio.wait_for(looked.wait(), 5)
        await following.aclose()  # type: ignore[attr-defined]

        async with asyncio.timeout(20):
            while looked.is_set():
                looked.clear()
                await asyncio.sleep(3 * LOOK_SECONDS)


async def test_a_repeated_request_is_one_order(either_url: str) -> None:
    async with shop(either_url) as http:
        again = {"Idempotency-Key": "press-1"}
        answers = await asyncio.gather(*(http.post("/orders", json=CHAI, headers=again) for _ in range(5)))
        other_key = await http.post("/orders", json=CHAI, headers={"Idempotency-Key": "press-2"})
        no_key = [await http.post("/orders", json=CHAI) for _ in range(2)]
        other_order = await http.post("/orders", json={**CHAI, "quantity": 3}, headers=again)
        async with Client(either_url) as client:
            ((orders,),) = await execute(client, "SELECT count(*) FROM orders")

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.headers["Location"] for answer in answers}) == 1
    assert len({answer.headers["Location"] for answer in [*answers, other_key, *no_key]}) == 4
    assert orders == 4
    assert other_order.status_code == 422
    assert "another order" in other_order.json()["detail"]


async def test_an_order_is_taken_with_all_that_belongs_to_it_or_not_at_all(sqlite_url: str) -> None:
    order = read_orders()[0]
    async with Client(sqlite_url) as client:
        await prepare(ordering, client.engine)
        await client.engine.declare(ordering.name, ordering.routes.topics)
        await execute(client, "CREATE TRIGGER refuse BEFORE INSERT ON progress BEGIN SELECT RAISE(ABORT, 'no'); END")

        with pytest.raises(sqlite3.IntegrityError):
            await take_order(client, order, key="1")
        refused = await left(client)
        await execute(client, "DROP TRIGGER refuse")
        await take_order(client, order, key="1")
        taken = await left(client)

    assert refused == [0, 0, 0, 0]
    assert taken == [1, 1, 1, 1]


async def left(client: Client) -> list[int]:
    """Orders, requests, steps, and messages for ordering."""
    (queue,) = await inspector_of(client.engine).queues()
    tables = ("orders", "requests", "progress")
    return [*[len(await execute(client, f"SELECT * FROM {table}")) for table in tables], queue.waiting]


async def execute(client: Client, sql: str) -> list[Any]:
    async with client.transaction() as transaction:
        return await transaction.execute(sql)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "no JSON"),
        ({}, 422, "`product`"),
        ({**CHAI, "product": "gold"}, 422, "There are: chai"),
        ({**CHAI, "quantity": 0}, 422, "$.quantity"),
        ({**CHAI, "quantity": "2"}, 422, "$.quantity"),
        ({**CHAI, "total": 1}, 422, "`total`"),
        ({**CHAI, "ship_to": {"name": "", "city": "Berlin", "country": "Germany"}}, 422, "$.ship_to.name"),
        ({**CHAI, "callback": "http://10.0.0.1/secret"}, 422, "http://10.0.0.1"),
    ],
)
async def test_what_is_no_order_is_refused_with_the_reason(url: str, body: Any, status: int, says: str) -> None:
    async with shop(url) as http:
        answer = await http.post("/orders", content=body if isinstance(body, bytes) else json.dumps(body))

    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert says in answer.json()["detail"]


async def test_what_is_not_there_is_not_found(either_url: str) -> None:
    async with shop(either_url) as http:
        where = f"/orders/{'0' * 8}-0000-0000-0000-{'0' * 12}"
        answers = [await http.get(path) for path in (where, f"{where}/events", "/orders/x", "/orders/%00")]
        long_key = await http.post("/orders", json=CHAI, headers={"Idempotency-Key": "k" * 201})

    assert [answer.status_code for answer in answers] == [404] * 4
    assert (long_key.status_code, "201 characters" in long_key.json()["detail"]) == (400, True)


async def test_a_callback_outlasts_the_callee_being_away(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, Any]] = []
    is_called = asyncio.Event()

    async def hear(request: Request) -> Response:
        called.append((request.headers["Idempotency-Key"], await request.json()))
        is_called.set()
        return Response(status_code=500 if len(called) == 1 else 204)

    with listen(0) as reserved:
        port = reserved.getsockname()[1]
    callee = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("SHOP_CALLBACK_ORIGINS", callee)
    async with shop(url, *ALL, callbacks=callee) as http:
        order = (await http.post("/orders", json={**CHAI, "callback": f"{callee}/orders"})).json()
        await until_final(http, order["status_url"])
        await asyncio.sleep(0.2)  # in which the first call finds nobody
        async with served(Starlette(routes=[Route("/orders", hear, methods=["POST"])]), port):
            async with asyncio.timeout(20):
                while len(called) < 2:
                    is_called.clear()
                    await is_called.wait()

    (first_key, news), (second_key, _) = called
    assert news["order_id"] == order["order_id"]
    assert news["status"] == "shipped"
    assert first_key == second_key


async def test_while_nobody_can_tell_whether_an_order_is_taken_it_is_to_be_repeated(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreachable(*_: object, **__: object) -> str:
        raise Unavailable("the connection was lost during the commit")

    async with shop(url) as http:
        with monkeypatch.context() as patch:
            patch.setattr(web, "take_order", unreachable)
            answer = await http.post("/orders", json=CHAI)
        again = await http.post("/orders", json=CHAI)

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "same Idempotency-Key" in answer.json()["detail"]
    assert again.status_code == 202


@pytest.mark.parametrize(
    "address",
    [
        "https://shop.example.evil.example/",
        "https://shop.example@evil.example/",
        "https://user:word@shop.example/",
        "https://shop.example:8443/",
        "http://shop.example/",
        "https://evil.example/#https://shop.example/",
        "//shop.example/",
        "shop.example",
        "file:///etc/passwd",
        "https://[",
        "",
    ],
)
def test_only_agreed_origins_are_called(address: str) -> None:
    allowed = frozenset({"https://shop.example"})
    check_allowed("https://shop.example/orders?id=1", allowed)

    with pytest.raises(NotAllowed):
        check_allowed(address, allowed)
