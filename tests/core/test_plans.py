"""Workflow classes: what is refused before a message ever comes, and what a workflow may be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from outlast import Command, Event, Failed, Workflow, on, starts
from outlast.core.instance import listed
from outlast.core.plan import plan_of
from outlast.errors import BadWorkflow, Misuse


class Placed(Event):
    order_id: str


class Paid(Event):
    payment_id: str


class Pay(Command[Paid], to="payment"):
    order_id: str


class Begins(Workflow, key="order_id"):
    @starts
    def placed(self, event: Placed) -> Pay:
        return Pay(order_id=event.order_id)


class WithFailure(Begins, name="orders", key="order_id", keep=timedelta(days=1), stash=timedelta(minutes=1)):
    @on
    def paid(self, event: Paid | Failed[Pay]) -> None: ...


def test_a_plan_says_what_the_class_says() -> None:
    plan = plan_of(WithFailure)

    assert (plan.name, plan.keep, plan.stash) == ("orders", timedelta(days=1), timedelta(minutes=1))
    assert list(plan.steps) == ["placed", "paid", "failed:pay"]
    assert plan.steps["placed"].returns == (Pay,)
    assert plan.listens_to_failures == {"failed:pay"}


def test_a_method_of_a_subclass_replaces_that_of_its_base() -> None:
    class Quiet(Begins, key="order_id"):
        @starts
        def placed(self, event: Placed) -> None: ...  # type: ignore[override]

    assert plan_of(Quiet).steps["placed"].returns == ()


class NoKey(Workflow):
    @starts
    def placed(self, event: Placed) -> None: ...


class NoStart(Workflow, key="order_id"):
    @on
    def placed(self, event: Placed) -> None: ...


class Required(Workflow, key="order_id"):
    total: int

    @starts
    def placed(self, event: Placed) -> None: ...


class Twice(Workflow, key="order_id"):
    @starts
    def placed(self, event: Placed) -> None: ...

    @on
    def placed_again(self, event: Placed) -> None: ...


class Waits(Workflow, key="order_id"):
    @starts
    async def placed(self, event: Placed) -> None: ...


class YieldsAndWaits(Workflow, key="order_id"):
    @starts
    async def placed(self, event: Placed) -> AsyncIterator[Paid]:
        yield Paid(payment_id="p")


class Unsaid(Workflow, key="order_id"):
    @starts
    def placed(self, event: Placed): ...


class Untyped(Workflow, key="order_id"):
    @starts
    def placed(self, event) -> None: ...


class Text(Workflow, key="order_id"):
    @starts
    def placed(self, event: str) -> None: ...


class TooMany(Workflow, key="order_id"):
    @starts
    def placed(self, event: Placed, other: Placed) -> None: ...


class WrongKey(Workflow, key="order"):
    @starts
    def placed(self, event: Placed) -> None: ...


class WrongOtherKey(Begins, key="order_id"):
    @on(key="order")
    def paid(self, event: Paid) -> None: ...


@pytest.mark.parametrize(
    ("workflow", "text"),
    [
        (NoKey, "does not say how an instance is found"),
        (NoStart, "has no method marked @starts"),
        (Required, "has fields without a default: total"),
        (Twice, "has two methods for 'placed': placed and placed_again"),
        (Waits, "is an async def"),
        (YieldsAndWaits, "is an async def"),
        (Unsaid, "does not say what it sends"),
        (Untyped, "must take exactly one message"),
        (Text, "must take exactly one message"),
        (TooMany, "must take exactly one message"),
        (WrongKey, r"by the field 'order', which 'placed' does not have \(it has order_id\)"),
        (WrongOtherKey, r"by the field 'order', which 'paid' does not have \(it has payment_id\)"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_workflow_that_could_not_be_decided_is_refused(workflow: Any, text: str) -> None:
    """P20: when the service is put together, with what to write instead."""
    with pytest.raises(BadWorkflow, match=text):
        plan_of(workflow)


def test_a_workflow_outside_a_turn_says_how_to_try_it_out() -> None:
    with pytest.raises(Misuse, match=r"use outlast\.testing\.Scenario"):
        Begins().after(timedelta(1), Placed(order_id="1"))


@pytest.mark.parametrize("returned", ["text", 5, {"a": 1}, [Placed(order_id="1"), "text"], b"bytes", object()])
def test_what_is_no_message_is_not_sent(returned: object) -> None:
    with pytest.raises(Misuse, match="which is no message"):
        listed(returned, Begins.placed)


def test_one_message_several_and_none_are_sent() -> None:
    one, two = Placed(order_id="1"), Paid(payment_id="2")

    assert listed(None, Begins.placed) == []
    assert listed(one, Begins.placed) == [one]
    assert listed((one, None, two), Begins.placed) == [one, two]
    assert listed((message for message in (one, two)), Begins.placed) == [one, two]
