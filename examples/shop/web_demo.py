"""The web shop with everything it needs, on this machine: the page, and the three services as processes.

make web
python -m examples.shop.web_demo --port 8000 --engine postgres

The page has buttons that take a service down and bring it back. They belong to this demo, and no shop has them.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.shop.fleet import SERVICES, Fleet
from examples.shop.premises import ENGINES, Missing, premises
from examples.shop.rows import open_reader
from examples.shop.stage import run_to_end
from examples.shop.watch import Fallen, Watch
from examples.shop.web import app
from outlast import Client

HOST = "127.0.0.1"
HANG_UP_SECONDS = 1
"""So long those who follow an order may keep the server from ending."""


class Controls:
    """What the page of the demo may do: stop services, start them, and receive the shop's callbacks."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._called_back: list[object] = []

    @property
    def routes(self) -> list[Route]:
        return [
            Route("/demo/services", self.services),
            Route("/demo/services/{name}/{what}", self.switch, methods=["POST"]),
            Route("/demo/callbacks", self.callbacks, methods=["GET", "POST"]),
        ]

    async def services(self, _: Request) -> Response:
        """Which services are up."""
        return JSONResponse({name: self._fleet.is_up(name) for name in SERVICES})

    async def switch(self, request: Request) -> Response:
        """Kills a service (`down`) or starts it (`up`)."""
        name, what = request.path_params["name"], request.path_params["what"]
        if name not in SERVICES or what not in ("up", "down"):
            return Response(status_code=404)
        if self._fleet.is_up(name) and what == "down":
            await asyncio.to_thread(self._fleet.kill, name)
        if not self._fleet.is_up(name) and what == "up":
            self._fleet.start(name)
        return await self.services(request)

    async def callbacks(self, request: Request) -> Response:
        """Receives a callback, as a customer's server would; and shows those that came."""
        if request.method == "POST":
            self._called_back.append(await request.json())
        return JSONResponse(self._called_back)


class Server(uvicorn.Server):
    """A server that leaves signals to its caller."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def listen(port: int) -> socket.socket:
    """A socket that listens here."""
    # It must know that it is TCP: asyncio switches Nagle's algorithm off only then, and with it each answer of two
    # writes takes 40 ms longer.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((HOST, port))
    listening.listen()
    return listening


async def serve(url: str, directory: Path, *, port: int) -> None:
    """Runs it all until SIGTERM or SIGINT, and prints the page's address when it can be opened."""
    with ExitStack() as stack:
        listening = stack.enter_context(listen(port))
        origins = [f"http://{name}:{listening.getsockname()[1]}" for name in (HOST, "localhost")]
        settings = {"SHOP_CALLBACK_ORIGINS": " ".join(origins)}
        fleet = stack.enter_context(
            Fleet(directory, url=url, settings=settings, programs={"ordering": "online_ordering"})
        )
        for name in SERVICES:
            fleet.start(name)
        async with Client(url, name="watch") as client, open_reader(url) as reader:
            await Watch(client, fleet, reader, ()).until_ready()
        shop = app(url, callback_origins=frozenset(origins), more=Controls(fleet).routes, is_demo=True)
        server = Server(uvicorn.Config(shop, log_level="warning", timeout_graceful_shutdown=HANG_UP_SECONDS))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, setattr, server, "should_exit", True)
        print(f"The shop is at {origins[0]}; its files are in {directory}. Ctrl-C ends it.", flush=True)
        await server.serve(sockets=[listening])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Runs the shop with a web page, on this machine.")
    parser.add_argument("--engine", choices=ENGINES, default="sqlite", help="what it runs on (default: sqlite)")
    parser.add_argument("--port", type=int, default=0, help="where the page is (default: a free port)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="outlast-web-") as temporary:
        directory = Path(temporary)
        try:
            with premises(given.engine, directory) as place:
                run_to_end(serve(place.url, directory, port=given.port))
        except KeyboardInterrupt:
            return 130
        except (Missing, Fallen, OSError) as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
