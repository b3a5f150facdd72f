"""Given, when, then: what a scenario shows is what a running system would do."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from outlast import Command, Event, Workflow, on, starts
from outlast.errors import KeyMissing, Misuse
from outlast.testing import Scenario
from tests.testing_kit.shop import (
    CreateLabel,
    Fulfilment,
    LabelCreated,
    MakePayment,
    OrderCancelled,
    OrderPlaced,
    PaymentCompleted,
    PaymentOverdue,
    RefundPayment,
    Shipped,
)

PLACED = OrderPlaced(order_id="1", total=Decimal(5))
PAID = PaymentCompleted(payment_id="p9")


def test_the_order_that_goes_well() -> None:
    scenario = Scenario(Fulfilment)

    scenario.when(PLACED).sends(MakePayment(order_id="1", amount=Decimal(5))).waits(PaymentOverdue)
    scenario.when(PAID).sends(CreateLabel(order_id="1")).waits_for_nothing().state(payment_id="p9")
    scenario.when(LabelCreated(label="l")).sends(Shipped(order_id="1", at=scenario.now)).completes()


def test_an_answer_finds_its_instance_without_any_field() -> None:
    """SG-31: each answer reaches the instance whose command it answers."""
    scenario = Scenario(Fulfilment)
    for number in range(3):
        scenario.given(OrderPlaced(order_id=str(number), total=Decimal(number)))

    for number in (2, 0, 1):
        answer = PaymentCompleted(payment_id=f"p{number}")
        command = MakePayment(order_id=str(number), amount=Decimal(number))
        scenario.when(answer, answers=command).sends(CreateLabel(order_id=str(number)))


def test_answers_without_a_name_come_in_the_order_of_the_commands() -> None:
    scenario = Scenario(Fulfilment).given(PLACED, OrderPlaced(order_id="2", total=Decimal(1)))

    scenario.when(PAID).sends(CreateLabel(order_id="1"))
    scenario.when(PAID).sends(CreateLabel(order_id="2"))


def test_a_message_that_answers_nothing_needs_a_key() -> None:
    """SG-27: without the header and without a field there is no instance to be found."""
    with pytest.raises(KeyMissing, match="payment-completed"):
        Scenario(Fulfilment).when(PAID)


def test_time_passes_only_in_advance_and_timers_fire_in_order() -> None:
    scenario = Scenario(Fulfilment).given(PLACED)

    scenario.advance(hours=23, minutes=59).sends_nothing().waits(PaymentOverdue, timedelta(minutes=1))
    scenario.advance(minutes=1).sends(MakePayment).state(reminders=1)
    scenario.advance(days=2).sends(MakePayment(order_id="1", amount=Decimal(0))).completes().waits_for_nothing()


def test_a_failed_command_comes_back_to_who_sent_it() -> None:
    scenario = Scenario(Fulfilment).given(PLACED, PAID)

    scenario.fails(CreateLabel, reason="no printer").sends(RefundPayment(payment_id="p9")).completes()


def test_a_failure_that_nobody_listens_to_changes_nothing() -> None:
    scenario = Scenario(Fulfilment).given(PLACED)

    scenario.fails(MakePayment, reason="bank closed").sends_nothing().waits("payment-overdue")

    assert "dead letter (bank closed)" in str(scenario)


def test_a_command_that_was_not_sent_cannot_fail() -> None:
    with pytest.raises(AssertionError, match="sent no 'create-label'"):
        Scenario(Fulfilment).given(PLACED).fails(CreateLabel)


def test_a_second_start_is_ignored() -> None:
    """SG-02"""
    Scenario(Fulfilment).given(PLACED).when(PLACED).is_ignored().sends_nothing()


def test_a_late_message_is_late() -> None:
    """SG-15"""
    Scenario(Fulfilment).given(PLACED, OrderCancelled(order_id="1")).when(PLACED).is_late().sends_nothing()


def test_what_comes_before_its_instance_is_kept_for_it() -> None:
    scenario = Scenario(Fulfilment).when(OrderCancelled(order_id="1")).is_stashed().sends_nothing()

    scenario.when(PLACED).completes()


def test_what_is_stashed_for_too_long_is_a_dead_letter() -> None:
    """SG-29"""
    scenario = Scenario(Fulfilment).given(OrderCancelled(order_id="1"))

    scenario.advance(minutes=5).when(PLACED).sends(MakePayment).waits(PaymentOverdue)

    assert "dead letter (no instance came)" in str(scenario)


def test_an_error_of_the_workflow_comes_out_with_the_messages_so_far() -> None:
    scenario = Scenario(Fulfilment).given(PLACED, PAID)

    with pytest.raises(ValueError, match="too late") as raised:
        scenario.when(OrderCancelled(order_id="1"))

    assert "CreateLabel(order_id='1')" in "".join(raised.value.__notes__)
    assert scenario.workflow.payment_id == "p9"


def test_a_message_without_a_method_is_a_mistake_of_the_test() -> None:
    with pytest.raises(Misuse, match="has no method for 'shipped'"):
        Scenario(Fulfilment).when(Shipped(order_id="1", at=Scenario(Fulfilment).now))


def test_a_failed_expectation_shows_the_tree_and_the_difference() -> None:
    scenario = Scenario(Fulfilment).when(PLACED)

    with pytest.raises(AssertionError) as raised:
        scenario.sends(MakePayment(order_id="1", amount=Decimal(6)))

    text = str(raised.value)
    assert "OrderPlaced(order_id='1', total=Decimal('5'))  → started\n├─ MakePayment" in text
    assert "MakePayment.amount: expected Decimal('6'), got Decimal('5')" in text


@pytest.mark.parametrize(
    "wrong",
    [
        lambda s: s.sends_nothing(),
        lambda s: s.sends(MakePayment, MakePayment),
        lambda s: s.sends(CreateLabel),
        lambda s: s.completes(),
        lambda s: s.is_late(),
        lambda s: s.is_ignored(),
        lambda s: s.is_stashed(),
        lambda s: s.state(payment_id="p1"),
        lambda s: s.waits("something else"),
        lambda s: s.waits(PaymentOverdue, timedelta(hours=23)),
        lambda s: s.waits_for_nothing(),
    ],
)
def test_every_expectation_can_fail(wrong: object) -> None:
    scenario = Scenario(Fulfilment).when(PLACED)

    with pytest.raises(AssertionError, match="The messages so far"):
        wrong(scenario)


def test_a_field_that_is_not_there_is_a_mistake_of_the_test() -> None:
    with pytest.raises(Misuse, match="has no field 'payment'"):
        Scenario(Fulfilment).given(PLACED).state(payment="p1")


def test_time_does_not_go_back() -> None:
    with pytest.raises(Misuse, match="go back"):
        Scenario(Fulfilment).advance(timedelta(seconds=-1))


class Begun(Event):
    id: str
    lines: tuple[int, ...]


class Listed(Event):
    id: str
    lines: list[int]


class Keeps(Workflow, key="id"):
    lines: tuple[int, ...] = ()

    @starts
    def begun(self, event: Begun) -> Listed:
        self.lines = event.lines
        return Listed(id=event.id, lines=event.lines)


def test_a_test_sees_what_the_wire_carries() -> None:
    """TR-01: a tuple where the class says list arrives as a list."""
    scenario = Scenario(Keeps).when(Begun(id="1", lines=(1, 2)))

    scenario.sends(Listed(id="1", lines=[1, 2])).state(lines=(1, 2))


class Ask(Command[None], to="scenario"):
    id: str


class Asked(Workflow, key="id"):
    asked: int = 0

    @starts
    def begun(self, event: Begun) -> None: ...

    @on
    def ask(self, command: Ask) -> None:
        self.asked += 1


def test_a_workflow_may_be_sent_commands() -> None:
    Scenario(Asked).given(Begun(id="1", lines=())).when(Ask(id="1")).state(asked=1)


class Twice(Workflow, key="id"):
    def fire(self) -> None:
        self.after(timedelta(hours=1), Ask(id=self.key), name="a")
        self.after(timedelta(hours=2), Ask(id=self.key), name="a")

    @starts
    def begun(self, event: Begun) -> None:
        self.fire()

    @on
    def ask(self, event: Ask) -> Listed:
        return Listed(id=self.key, lines=[])


def test_a_timer_that_was_moved_fires_once_at_its_new_date() -> None:
    scenario = Scenario(Twice).given(Begun(id="1", lines=()))

    scenario.advance(hours=1).sends_nothing()
    assert scenario.outcomes == ()
    scenario.advance(hours=1).sends(Listed)
    scenario.advance(hours=9).sends_nothing()


class Counting(Workflow, key="order_id"):
    count: int = 0

    @starts
    def placed(self, event: OrderPlaced) -> None:
        self.count = "one"  # type: ignore[assignment]


def test_a_state_that_could_not_be_read_again_is_refused_at_the_step_that_made_it() -> None:
    with pytest.raises(Misuse, match=r"Counting\.placed left a state .*Expected `int`, got `str`"):
        Scenario(Counting).when(PLACED)
