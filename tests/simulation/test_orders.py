"""The walk through the orders of a race, with steps that only read, and nothing around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from outlast.testing.orders import Choice, Orders


@dataclass(frozen=True)
class Step:
    name: str
    what: str
    is_dead: bool = False
    is_paused: bool = False
    held: list[Any] = field(default_factory=list, compare=False)


def walked(*steps: Step, writing: str = "") -> list[tuple[str, ...]]:
    """The orders that are searched when all of these steps can be taken at once."""
    orders, found = Orders(), []
    while True:
        left, taken, choices = list(steps), [], []
        while left:
            number = len(choices)
            if len(left) > 1:
                choices.append(Choice(len(taken), tuple(left)))
            taken.append(left.pop(orders.order.get(number, 0)).what)
        found.append(tuple(taken))
        # The step behind the last choice goes on to the end, so it is nobody's alone.
        quiet = {number for number in range(len(choices) - 1) if taken[number] not in writing}
        orders.went(choices, quiet.__contains__)
        if not orders.on():
            return found


def test_readings_of_several_processes_are_not_taken_in_every_order() -> None:
    every = walked(Step("p", "a"), Step("q", "b"), Step("r", "c"), Step("s", "d"), writing="abcd")
    reduced = walked(Step("p", "a"), Step("q", "b"), Step("r", "c"), Step("s", "d"))

    assert len(every) == len(set(every)) == 24
    assert len(reduced) <= 12


def test_whatever_a_writing_step_may_come_between_is_searched() -> None:
    found = walked(Step("p", "a"), Step("q", "b"), Step("r", "W"), writing="W")

    before = {frozenset(order[: order.index("W")]) for order in found}
    assert before == {frozenset(), frozenset("a"), frozenset("b"), frozenset("ab")}


def test_two_tasks_of_one_process_are_taken_in_both_orders() -> None:
    found = walked(Step("p", "a"), Step("p", "b"), Step("q", "c"), Step("r", "d"))

    assert {order.index("a") < order.index("b") for order in found} == {True, False}
