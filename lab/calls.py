"""How one service calls another over HTTP, as a careful team does it: with a time-out, and again if need be."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpx
import msgspec
from examples.shop.orders import Order

from lab.business import CalledOff, NoAnswer, Refused
from lab.web import CONFLICT, UNPROCESSABLE

PAUSES_SECONDS = (0.1, 0.2)


@dataclass(frozen=True)
class Peer:
    """Another service. A call may be repeated, since what is asked for takes place once for an order."""

    client: httpx.AsyncClient
    url: str
    timeout_seconds: float
    tries: int

    async def post(self, path: str, order: Order) -> None:
        """Has it done. Raises `Refused` if the other side never will, and `NoAnswer` after the last try."""
        for attempt in range(self.tries):
            if attempt:
                await asyncio.sleep(PAUSES_SECONDS[attempt - 1])
            try:
                answer = await self.client.post(
                    f"{self.url}{path}", content=msgspec.json.encode(order), timeout=self.timeout_seconds
                )
            except httpx.TransportError:
                continue
            if answer.status_code == UNPROCESSABLE:
                raise Refused(answer.text)
            if answer.status_code == CONFLICT:
                raise CalledOff(answer.text)
            if answer.is_success:
                return
        raise NoAnswer(f"POST {self.url}{path} was tried {self.tries} times")
