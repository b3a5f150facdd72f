"""What the guide for HTTP shows is run, with both frameworks, as the processes that it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.docs.test_snippets import blocks, run

GUIDE = "docs/guides/web.md"


@pytest.fixture
def guide(tmp_path: Path) -> Path:
    """The files that the guide shows, in a directory."""
    for block in blocks(GUIDE):
        name = block.partition("\n")[0].removeprefix("# ")
        (tmp_path / name).write_text(block, encoding="utf-8")
    return tmp_path


class Callee(HTTPServer):
    """A customer's server, which fails at the first call and hears the second."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hearing)
        self.heard: list[tuple[str | None, Any]] = []
        self.is_told = threading.Event()
        self.origin = f"http://127.0.0.1:{self.server_port}"


class Hearing(BaseHTTPRequestHandler):
    server: Callee

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((self.headers["Idempotency-Key"], json.loads(body)))
        self.send_response(204 if len(self.server.heard) > 1 else 503)
        self.end_headers()
        if len(self.server.heard) > 1:
            self.server.is_told.set()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def callee() -> Iterator[Callee]:
    with Callee() as callee:
        thread = threading.Thread(target=callee.serve_forever)
        thread.start()
        yield callee
        callee.shutdown()
        thread.join()


@contextmanager
def program(directory: Path, until: str, *command: object, **settings: str) -> Iterator[str]:
    """Runs as long as the block, which begins when it has written a line like this."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", *map(str, command)],
        cwd=directory,
        env={**os.environ, "OUTLAST_URL": "sqlite:///shop.db", **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        assert process.stdout is not None
        said: list[str] = []
        try:
            for line in process.stdout:
                said.append(line)
                if re.search(until, line):
                    break
            else:
                pytest.fail(f"{command} ended: {''.join(said)}")
            yield line
        finally:
            process.terminate()
            process.stdout.read()


def service(directory: Path, name: str, callee: Callee) -> Any:
    return program(directory, "ready", "outlast.cli", "run", name, CALLBACK_ORIGINS=callee.origin)


@pytest.mark.parametrize("framework", ["fastapi", "starlette"])
def test_an_order_is_taken_while_payment_is_down_and_followed_to_its_end(
    guide: Path, callee: Callee, framework: str
) -> None:
    app = f"web_{framework}:app"
    order = {"total": "84.90", "callback": f"{callee.origin}/told"}
    key = {"Idempotency-Key": "1"}
    with ExitStack() as stack:
        stack.enter_context(service(guide, "calling:ordering", callee))
        line = stack.enter_context(
            program(
                guide,
                "running on",
                *("uvicorn", app, "--port", 0, "--timeout-graceful-shutdown", 1),
                CALLBACK_ORIGINS=callee.origin,
            )
        )
        address = re.findall(r"http://[\d.:]+", line)[0]
        http = stack.enter_context(httpx.Client(base_url=address, timeout=20))

        answer = http.post("/orders", json=order, headers=key)
        again = http.post("/orders", json=order, headers=key)
        where = answer.headers["Location"]
        early = http.get(where)
        with http.stream("GET", f"{where}/events") as stream:
            lines = stream.iter_lines()
            first = [next(lines) for _ in range(2)]
            stack.enter_context(service(guide, "shop:payment", callee))
            rest = list(lines)
        late = http.get(where)
        resumed = http.get(f"{where}/events", headers={"Last-Event-ID": "2"})
        with http.stream("GET", f"{where}/events", headers={"Last-Event-ID": "3"}) as over:
            pass
        refused = [
            http.post("/orders", json=wrong, headers=headers)
            for wrong, headers in [
                ({**order, "total": "85"}, key),
                ({**order, "callback": "http://10.0.0.1/"}, {}),
                ({"total": "-1"}, {}),
                ({"total": "NaN"}, {}),
                ({}, {}),
            ]
        ]
        missing = [http.get(f"/orders/00000000-0000-0000-0000-000000000000{tail}") for tail in ("", "/events")]
        assert callee.is_told.wait(20)

    assert answer.status_code == again.status_code == 202
    assert answer.json() == again.json() == {"order_id": where.removeprefix("/orders/"), "status_url": where}
    assert (early.json()["status"] in ("placed", "paying"), early.headers["Retry-After"]) == (True, "1")
    assert first == ["id: 1", 'data: {"status": "placed"}']
    assert [line for line in rest if line.startswith("id")] == ["id: 2", "id: 3"]
    assert (late.json()["status"], "Retry-After" in late.headers) == ("paid", False)
    assert (resumed.text, over.status_code) == ('id: 3\ndata: {"status": "paid"}\n\n', 204)
    assert [each.status_code for each in refused] == [422] * 5
    assert [each.status_code for each in missing] == [404] * 2
    (first_key, news), (second_key, _) = callee.heard
    assert news == {"order_id": where.removeprefix("/orders/"), "status": "paid"}
    assert first_key == second_key


SYNC = """
import sqlite3
from contextlib import closing
from decimal import Decimal

from outlast.sync import SyncClient
from web_sync import place

with SyncClient("sqlite:///shop.db") as client, closing(sqlite3.connect("shop.db")) as connection:
    place(client, connection, "order-1", Decimal("84.90"))
    print(connection.execute("SELECT order_id, total FROM orders").fetchall())
"""


def test_what_the_guide_shows_for_frameworks_that_do_not_await_takes_an_order(guide: Path, callee: Callee) -> None:
    with service(guide, "calling:ordering", callee):
        pass

    result = run(sys.executable, "-W", "error", "-c", SYNC, cwd=guide)
    status = run(sys.executable, "-m", "outlast.cli", "status", "--url", "sqlite:///shop.db", "--json", cwd=guide)

    assert result.returncode == 0, result.stderr
    assert result.stdout == "[('order-1', '84.90')]\n"
    assert [each["waiting"] for each in json.loads(status.stdout)["services"]] == [1]


def test_strict_type_checkers_accept_what_the_guide_shows(guide: Path) -> None:
    mypy = run(sys.executable, "-m", "mypy", "--strict", "--python-version", "3.11", ".", cwd=guide)
    (guide / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    pyright = run(sys.executable, "-m", "pyright", "--pythonpath", sys.executable, cwd=guide)

    assert mypy.returncode == 0, mypy.stdout
    assert pyright.returncode == 0, pyright.stdout
