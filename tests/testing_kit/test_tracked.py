"""Tracked systems: when everything that a message caused is finished, and what is not."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

import pytest

from outlast import NO_RETRY, Event, Service
from outlast.errors import NotFound
from outlast.testing import NotSettled, Tracked
from tests.testing_kit.shop import Fulfilment, MakePayment, Open, OrderPlaced, PaymentCompleted, services

PLACED = OrderPlaced(order_id="1", total=Decimal(5))


class Try(Event):
    id: str


async def test_settled_waits_for_everything_that_a_message_caused(url: str) -> None:
    async with Tracked(services(), url) as system:
        await system.publish(PLACED)
        settled = await system.settled()

        assert (await system.state(Fulfilment, "1")).payment_id == "paid 1"
        assert (settled.later, settled.dead) == ([], [])
        assert "create-label" in str(settled)


async def test_a_timer_is_listed_and_not_waited_for(url: str) -> None:
    gate = Open()
    async with Tracked(services()[:2], url, overrides={Open: gate}) as system:
        await system.publish(PLACED, after=timedelta(hours=1))
        settled = await system.settled()

        assert [item.due is not None for item in settled.later] == [True]
        assert re.search(r"due in (1:00:00|0:59:5\d)$", str(settled), re.MULTILINE)


async def test_what_is_outstanding_is_named_when_time_is_up(url: str) -> None:
    gate = Open()
    async with Tracked(services(), url, overrides={Open: gate}) as system:
        await system.publish(PLACED)

        with pytest.raises(NotSettled, match=r"after 0\.2 s (.|\n)*create-label .* BEING HANDLED by warehouse"):
            await system.settled(timeout=timedelta(seconds=0.2))

        gate.door.set()
        await system.settled()


async def test_a_missing_service_is_named(url: str) -> None:
    async with Tracked(services()[:2], url) as system:
        await system.publish(PLACED)

        with pytest.raises(NotSettled, match="WAITING for warehouse, which no worker takes messages for"):
            await system.settled(timeout=timedelta(seconds=0.2))


async def test_dead_letters_on_the_way_are_listed(url: str) -> None:
    system_services = services(warehouse_fails=True)
    system_services[2].retry = NO_RETRY
    async with Tracked(system_services, url) as system:
        await system.publish(PLACED)
        settled = await system.settled()

        assert [letter.type for letter in settled.dead] == ["create-label"]
        assert "failed:create-label" in str(settled)


async def test_a_retry_is_waited_for(url: str) -> None:
    flaky = Service("flaky")

    @flaky.handles
    async def fail(event: Try) -> None:
        raise ValueError("not yet")

    async with Tracked([flaky], url) as system:
        await system.publish(Try(id="1"))

        with pytest.raises(NotSettled, match="tried again in"):
            await system.settled(timeout=timedelta(seconds=0.3))


async def test_a_request_is_answered_and_followed(url: str) -> None:
    async with Tracked(services(), url) as system:
        answer = await system.request(MakePayment(order_id="7", amount=Decimal(1)))
        await system.settled()

        assert answer == PaymentCompleted(payment_id="paid 7")


async def test_there_is_no_state_of_what_never_began(url: str) -> None:
    async with Tracked(services(), url) as system:
        with pytest.raises(NotFound, match="no Fulfilment with the key 'x'"):
            await system.state(Fulfilment, "x")
