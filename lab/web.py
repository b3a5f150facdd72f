"""What the HTTP programs have in common: how they are served, how an order is read, and an answer that gets lost."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import msgspec
import uvicorn
from examples.shop.orders import Order
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lab.business import CalledOff, NoAnswer, Refused
from lab.trouble import Trouble
from lab.way import Settings

CREATED, ACCEPTED, CONFLICT, UNPROCESSABLE, UNAVAILABLE = 201, 202, 409, 422, 503
STATUS: dict[type[Exception], int] = {Refused: UNPROCESSABLE, CalledOff: CONFLICT, NoAnswer: UNAVAILABLE}
NEVER_SECONDS = 60.0

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


async def order_in(request: Request) -> Order:
    """The order in the body of a request."""
    return msgspec.json.decode(await request.body(), type=Order)


def serve(
    settings: Settings, program: str, *, routes: Sequence[Route], lifespan: Lifespan, troubles: Sequence[Trouble]
) -> None:
    """Serves these routes until the process is ended. What the shop refuses or calls off is answered as such."""
    app = Starlette(routes=list(routes), lifespan=lifespan, exception_handlers=dict.fromkeys(STATUS, _answer))
    config = uvicorn.Config(
        Unheard(app, troubles),
        host="127.0.0.1",
        port=settings.ports[program],
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    Announced(config, settings, program).run()


def _answer(request: Request, error: Exception) -> Response:
    return Response(str(error), STATUS[type(error)])


class Announced(uvicorn.Server):
    """A server that says when it is ready."""

    def __init__(self, config: uvicorn.Config, settings: Settings, program: str) -> None:
        super().__init__(config)
        self._ready = settings.ready_file(program)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._ready.write_text(str(os.getpid()))


class Unheard:
    """Does the whole work of a request, and keeps the answer back while answers of one of these services are lost."""

    def __init__(self, app: ASGIApp, troubles: Sequence[Trouble]) -> None:
        self._app = app
        self._troubles = troubles

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer: list[Message] = []

        async def keep(message: Message) -> None:
            answer.append(message)

        await self._app(scope, receive, keep)
        if any(trouble.loses_answers for trouble in self._troubles):
            await asyncio.sleep(NEVER_SECONDS)
        for message in answer:
            await send(message)
