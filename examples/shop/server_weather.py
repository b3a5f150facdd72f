"""The faults of servers and of the network before them: one at a time, each followed until the shop is back at work."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from examples.shop.fleet import SERVICES
from examples.shop.premises import BROKER, DATABASE
from examples.shop.rabbit import delete_queue, is_consumed
from examples.shop.recovery import Pace, Recovery
from examples.shop.stage import Stage

if TYPE_CHECKING:
    from servers.rabbitmq import RabbitMQ

NETWORK_FAULTS = ("cut", "delay", "hole")
SERVER_FAULTS = (DATABASE, BROKER, *NETWORK_FAULTS, "alarm", "queue")
SHORTEST_SECONDS = 0.5
DELAY_SECONDS = (0.05, 0.3)
WARMING_UP_SECONDS = 6.0
"""So long the shop is left alone at first, to find its pace."""
GIVEN_UP_SECONDS = 60.0
"""So long a recovery is waited for."""
LOOK_SECONDS = 0.1


class ServerWeather:
    """Brings these faults about, and measures what follows."""

    def __init__(self, stage: Stage, chance: random.Random, pace: Pace, *, longest_seconds: float) -> None:
        self.recoveries: list[Recovery] = []
        self._stage = stage
        self._premises = stage.premises
        self._chance = chance
        self._pace = pace
        self._longest_seconds = longest_seconds

    async def strike(self, fault: str) -> bool:
        """Brings the fault about, ends it, and waits until the shop is back at work. False: there was no occasion."""
        await asyncio.sleep(max(0.0, WARMING_UP_SECONDS - self._stage.watch.seconds()))
        if fault == "queue":
            return await self._delete_queue()
        match fault:
            case "alarm":
                await self._raise_alarm()
            case "cut" | "delay" | "hole":
                await self._disturb(fault)
            case _:
                await self._premises.kill(fault)
                await self._rest()
                await self._premises.start(fault)
        await self._follow(fault)
        return True

    async def _follow(self, fault: str) -> None:
        watch = self._stage.watch
        healed = watch.seconds()
        back = None
        while back is None and watch.seconds() < healed + GIVEN_UP_SECONDS:
            await asyncio.sleep(LOOK_SECONDS)
            back = self._pace.back_after(healed)
        self.recoveries.append(Recovery(fault, round(healed, 2), back))

    async def _rest(self) -> None:
        await asyncio.sleep(self._chance.uniform(SHORTEST_SECONDS, self._longest_seconds))

    async def _disturb(self, fault: str) -> None:
        """A fault of the network before one of the servers."""
        proxy = self._premises.network[self._chance.choice(sorted(self._premises.network))]
        match fault:
            case "cut":
                proxy.cut()
            case "delay":
                proxy.delay(self._chance.uniform(*DELAY_SECONDS))
                await self._rest()
                proxy.delay(0)
            case _:
                proxy.black_hole(True)
                await self._rest()
                proxy.black_hole(False)

    async def _raise_alarm(self) -> None:
        """The broker's memory alarm: it reads nothing any more from whoever publishes."""
        await asyncio.to_thread(self._broker.alarm, True)
        try:
            await self._rest()
        finally:
            await asyncio.to_thread(self._broker.alarm, False)

    async def _delete_queue(self) -> bool:
        """An operator deletes a service's queue; what is in a deleted queue is lost, so there is nothing in it.

        No order is taken until the service consumes again: an event that is published without a queue for it has no
        subscriber.
        """
        stage = self._stage
        stage.storefront.pause()
        try:
            if not await stage.is_at_rest(longest_seconds=GIVEN_UP_SECONDS):
                return False
            service = self._chance.choice(SERVICES)
            began = stage.watch.seconds()
            await asyncio.to_thread(delete_queue, self._broker, service)
            back: float | None = None
            while back is None and stage.watch.seconds() < began + GIVEN_UP_SECONDS:
                await asyncio.sleep(LOOK_SECONDS)
                if await asyncio.to_thread(is_consumed, self._broker, service):
                    back = stage.watch.seconds() - began
            self.recoveries.append(Recovery("queue", round(began, 2), back))
        finally:
            stage.storefront.resume()
        return True

    @property
    def _broker(self) -> RabbitMQ:
        broker = self._premises.rabbitmq
        assert broker is not None
        return broker
