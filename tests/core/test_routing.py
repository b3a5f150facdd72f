"""Handlers and routes: what is refused when a service is put together, and when a message is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from outlast import Command, Event, Retry, Service, Workflow, on, starts
from outlast.core.routing import check_event, handler_plan, owner_of
from outlast.errors import BadHandler, Unroutable


class Placed(Event):
    order_id: str


class Paid(Event):
    order_id: str


class Pay(Command[Paid], to="payment"):
    order_id: str


class Tell(Command[None]):
    order_id: str


class Flow(Workflow, key="order_id"):
    @starts
    def placed(self, event: Placed) -> Pay:
        return Pay(order_id=event.order_id)

    @on
    def paid(self, event: Paid) -> None: ...


class Gateway: ...


async def pay(command: Pay, gateway: Gateway, note: str = "") -> Paid: ...


async def no_message() -> None: ...


async def untyped(command) -> None: ...


async def text(command: str) -> None: ...


async def unsaid(command: Pay): ...


async def untyped_need(event: Placed, gateway) -> None: ...


async def no_answer(command: Pay) -> None: ...


async def one_by_one(command: Pay) -> AsyncIterator[Paid]:
    yield Paid(order_id=command.order_id)


def test_a_handler_is_read_once() -> None:
    plan = handler_plan(pay, retry=Retry(immediate=0), time_limit=timedelta(seconds=5))

    assert plan.kinds == (Pay,)
    assert plan.needs == (("gateway", Gateway), ("note", str))
    assert plan.returns == (Paid,)
    assert plan.is_async


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (no_message, "has no annotated message as its first parameter"),
        (untyped, "has no annotated message as its first parameter"),
        (text, "is no command or event"),
        (unsaid, "does not say what it returns"),
        (untyped_need, "has parameters without a type: gateway"),
        (no_answer, "handles Pay, whose answers are Paid, and returns none of them"),
        (one_by_one, "is an async generator .* Collect the messages and return them"),
    ],
)
def test_a_handler_that_cannot_be_understood_is_refused(function: Any, text: str) -> None:
    """P20"""
    with pytest.raises(BadHandler, match=text):
        Service("payment").handles(function)


def test_a_message_has_one_handler_in_a_service() -> None:
    payment = Service("payment")
    payment.handles(pay)

    async def pay_again(command: Pay) -> Paid: ...

    with pytest.raises(BadHandler, match="two handlers for 'pay'"):
        payment.handles(pay_again)


def test_a_command_is_handled_by_its_owner_only() -> None:
    with pytest.raises(BadHandler, match="handles the command 'pay', which goes to 'payment'"):
        Service("bank").handles(pay)


def test_two_workflows_of_one_name_are_refused() -> None:
    with pytest.raises(BadHandler, match="two workflows named 'flow'"):
        Service("shop", workflows=[Flow, Flow])


@pytest.mark.parametrize("name", ["", "a b", "é", "x" * 64, "a/b", "@relay"])
def test_a_service_has_a_plain_name(name: str) -> None:
    """SE-04: names become names of queues and files."""
    with pytest.raises(BadHandler, match="cannot be named"):
        Service(name)


def test_a_service_subscribes_to_the_events_that_it_handles() -> None:
    shop = Service("shop", workflows=[Flow])

    assert shop.routes.topics == ["paid", "placed"]
    assert "placed" in shop.routes
    assert "pay" not in shop.routes


def test_a_command_goes_to_its_owner_or_to_whom_it_is_told() -> None:
    assert owner_of(Pay(order_id="1")) == "payment"
    assert owner_of(Pay(order_id="1"), "bank") == "bank"
    assert owner_of(Tell(order_id="1"), "bank") == "bank"


def test_a_command_without_an_owner_goes_nowhere() -> None:
    """P20"""
    with pytest.raises(Unroutable, match=r"'tell' has no owner to go to. Name it in its class"):
        owner_of(Tell(order_id="1"))


def test_events_are_not_sent_and_commands_not_published() -> None:
    """PS-07"""
    with pytest.raises(Unroutable, match="send was given the event 'placed'"):
        owner_of(Placed(order_id="1"))
    with pytest.raises(Unroutable, match="publish was given the command 'pay'"):
        check_event(Pay(order_id="1"))
    check_event(Placed(order_id="1"))
