"""What one message leads to at one instance: every outcome, and what an error leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from msgspec import Raw

from outlast import Command, Event, Failed, Message, Workflow, on, starts
from outlast.core.instance import Decision, Instance, Outcome
from outlast.core.message import Envelope, Origin
from outlast.core.naming import encode, name_of
from outlast.core.plan import Plan, plan_of
from outlast.errors import KeyMissing, Misuse, UnreadableState

NOW = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Placed(Event):
    order_id: str


class Imported(Event):
    order_id: str


class Paid(Event):
    order_id: str | None = None
    payment_id: str = ""


class Overdue(Event):
    order_id: str


class Cancelled(Event):
    order_id: str


class Bad(Event):
    order_id: str
    way: str


class Pay(Command[Paid], to="payment"):
    order_id: str


class Fulfilment(Workflow, key="order_id"):
    payment_id: str | None = None
    seen: list[str] = []

    @starts
    def placed(self, event: Placed) -> Pay:
        self.seen.append("placed")
        self.after(HOUR, Overdue(order_id=self.key))
        return Pay(order_id=self.key)

    @starts
    def imported(self, event: Imported) -> None:
        self.seen.append("imported")

    @on
    def paid(self, event: Paid) -> Iterator[Pay | None]:
        self.payment_id = event.payment_id
        self.cancel(Overdue)
        yield None
        yield Pay(order_id=self.id())

    @on
    def overdue(self, event: Overdue) -> None:
        self.seen.append("overdue")

    @on
    def cancelled(self, event: Cancelled) -> Pay:
        self.complete()
        return Pay(order_id="refund")

    @on
    def failed(self, event: Failed[Pay]) -> None:
        self.seen.append(event.reason)

    @on
    def bad(self, event: Bad) -> None:
        self.payment_id = "spoiled"
        self.after(HOUR, event, name="spoiled")
        match event.way:
            case "raise":
                raise ValueError("spoiled")
            case "return":
                return "spoiled"  # type: ignore[return-value]
            case "key":
                self.key = "another"  # type: ignore[misc]
            case "field":
                self.payment = "lost"
            case "naive":
                self.at(datetime(2030, 1, 1), event)
            case _:
                self.seen = [object()]  # type: ignore[list-item]
        return None


PLAN = plan_of(Fulfilment)
TIMER_IDS = count(1)


def envelope(message: Message, **fields: Any) -> Envelope:
    body = Raw(encode(message))
    return Envelope(**{"id": "m", "type": name_of(message), "conversation": "c", "sent_at": NOW, "body": body} | fields)


def new_id() -> str:
    return f"id-{next(TIMER_IDS)}"


def decide(instance: Instance, message: Message, now: datetime = NOW, **fields: Any) -> Decision:
    return instance.decide(envelope(message, **fields), message, now, new_id)


def running() -> Instance:
    """An instance that was stored and is loaded again."""
    instance = Instance(PLAN, "1")
    decide(instance, Placed(order_id="1"))
    return reloaded(instance)


def reloaded(instance: Instance) -> Instance:
    assert instance.stored is not None
    return Instance(PLAN, instance.key, instance.stored, instance.version + 1, instance.done)


def state(instance: Instance) -> Fulfilment:
    assert instance.stored is not None
    return PLAN.decode(instance.stored).state


def test_a_start_makes_the_instance() -> None:
    """SG-01"""
    instance = Instance(PLAN, "1")

    decision = decide(instance, Placed(order_id="1"))

    assert decision.outcome is Outcome.STARTED
    assert decision.messages == [Pay(order_id="1")]
    assert [(name, timer.due) for name, timer, _ in decision.timers] == [("overdue", NOW + HOUR)]
    assert instance.changed
    assert state(instance).seen == ["placed"]


def test_a_second_start_is_noted_and_changes_nothing() -> None:
    """SG-02"""
    instance = running()

    decision = decide(instance, Placed(order_id="1"))

    assert decision == Decision(Outcome.SECOND_START)
    assert not instance.changed


def test_another_start_message_joins_the_instance_that_is_there() -> None:
    """SG-02, SG-03"""
    instance = running()

    assert decide(instance, Imported(order_id="1")).outcome is Outcome.CONTINUED
    assert decide(instance, Imported(order_id="1")).outcome is Outcome.SECOND_START
    assert state(instance).seen == ["placed", "imported"]


def test_a_message_goes_on_with_what_was_stored() -> None:
    instance = running()

    decision = decide(instance, Paid(order_id="1", payment_id="p"))

    assert decision.outcome is Outcome.CONTINUED
    assert len(decision.messages) == 1
    assert (state(instance).seen, state(instance).payment_id) == (["placed"], "p")
    assert [timer.due for timer in decision.withdrawn] == [NOW + HOUR]


def test_several_messages_in_one_turn_see_each_others_changes() -> None:
    """SG-05"""
    instance = Instance(PLAN, "1")

    for message in (Placed(order_id="1"), Imported(order_id="1"), Paid(order_id="1", payment_id="p")):
        decide(instance, message)

    assert (state(instance).seen, state(instance).payment_id) == (["placed", "imported"], "p")


def test_completing_cancels_what_is_set_and_still_sends() -> None:
    instance = running()

    decision = decide(instance, Cancelled(order_id="1"))

    assert decision.outcome is Outcome.COMPLETED
    assert decision.messages == [Pay(order_id="refund")]
    assert len(decision.withdrawn) == 1
    assert instance.done


@pytest.mark.parametrize("message", [Placed(order_id="1"), Paid(order_id="1"), Cancelled(order_id="1")], ids=repr)
def test_a_completed_instance_is_not_revived(message: Message) -> None:
    """SG-15"""
    instance = running()
    decide(instance, Cancelled(order_id="1"))
    instance = reloaded(instance)

    decision = decide(instance, message)

    assert decision == Decision(Outcome.LATE)
    assert not instance.changed


def test_what_comes_before_its_instance_is_stashed() -> None:
    """SG-29"""
    instance = Instance(PLAN, "1")

    assert decide(instance, Paid(order_id="1")) == Decision(Outcome.STASHED)
    assert instance.stored is None
    assert not instance.changed


def test_the_timer_that_is_set_fires_and_is_gone() -> None:
    instance = running()
    timer = PLAN.decode(instance.stored or b"").timers["overdue"]

    first = decide(instance, Overdue(order_id="1"), timer=("overdue", timer.id))
    second = decide(instance, Overdue(order_id="1"), timer=("overdue", timer.id))

    assert (first.outcome, second.outcome) == (Outcome.CONTINUED, Outcome.STALE_TIMER)
    assert state(instance).seen == ["placed", "overdue"]


@pytest.mark.parametrize(
    ("prepared", "timer"),
    [
        (running, ("overdue", "another token")),
        (running, ("another name", "id-1")),
        (lambda: Instance(PLAN, "1"), ("overdue", "id-1")),
        (lambda: Instance(PLAN, "1", b"", 3, True), ("overdue", "id-1")),
    ],
    ids=["moved", "never set", "no instance", "completed"],
)
def test_a_letter_of_a_timer_that_is_not_set_has_no_effect(prepared: Any, timer: tuple[str, str]) -> None:
    """TO-06, TO-20"""
    instance = prepared()

    assert decide(instance, Overdue(order_id="1"), timer=timer) == Decision(Outcome.STALE_TIMER)
    assert not instance.changed


def test_the_same_message_without_a_timer_is_a_message() -> None:
    assert decide(running(), Overdue(order_id="1")).outcome is Outcome.CONTINUED


@pytest.mark.parametrize(
    ("way", "error"),
    [
        ("raise", ValueError),
        ("return", Misuse),
        ("key", AttributeError),
        ("field", Misuse),
        ("naive", Misuse),
        ("unstorable", TypeError),
    ],
)
def test_an_error_leaves_the_instance_as_it_was(way: str, error: type[Exception]) -> None:
    """SG-28: also when it came after the state was changed, or in storing it."""
    instance = running()
    before = instance.snapshot()

    with pytest.raises(error):
        decide(instance, Bad(order_id="1", way=way))

    assert instance.snapshot() == before
    assert state(instance).payment_id is None
    decision = decide(instance, Paid(order_id="1", payment_id="p"))
    assert decision.outcome is Outcome.CONTINUED
    assert "spoiled" not in PLAN.decode(instance.stored or b"").timers


def test_decisions_can_be_undone_to_a_snapshot() -> None:
    """SG-19: when another workflow refuses the same message."""
    instance = running()
    before = instance.snapshot()
    decide(instance, Paid(order_id="1", payment_id="p"))

    instance.restore(before)

    assert not instance.changed
    assert state(instance).payment_id is None
    assert decide(instance, Imported(order_id="1")).outcome is Outcome.CONTINUED
    assert state(instance).payment_id is None


def test_two_loads_share_nothing() -> None:
    """SG-21"""
    stored = running().stored
    one, two = (PLAN.decode(stored or b"").state for _ in range(2))

    one.seen.append("changed")

    assert two.seen == ["placed"]


def test_the_default_of_a_field_is_not_shared() -> None:
    """SG-21"""
    first, second = Instance(PLAN, "1"), Instance(PLAN, "2")
    decide(first, Placed(order_id="1"))
    decide(second, Imported(order_id="2"))

    assert state(second).seen == ["imported"]


def test_an_unknown_field_in_stored_state_is_passed_over() -> None:
    """UP-10: a field was removed since."""
    instance = running()
    stored = (instance.stored or b"").replace(b'"payment_id":null', b'"payment_id":null,"colour":"red"')

    assert decide(Instance(PLAN, "1", stored, 1), Imported(order_id="1")).outcome is Outcome.CONTINUED


# Whose message it is.


def key_of(message: Message, **fields: Any) -> str:
    return PLAN.key_for("ordering", envelope(message, **fields), message)


def test_the_key_field_names_the_instance() -> None:
    assert key_of(Placed(order_id="o-1")) == "o-1"


def test_a_header_comes_before_any_field() -> None:
    """SG-27, SG-31"""
    origin = Origin("ordering", "fulfilment", "o-1")

    assert key_of(Paid(order_id="o-2"), answers=origin) == "o-1"
    assert key_of(Paid(), answers=origin) == "o-1"


@pytest.mark.parametrize(
    "origin",
    [Origin("ordering", "returns", "o-9"), Origin("bank", "fulfilment", "o-9")],
    ids=["workflow", "service"],
)
def test_a_header_of_someone_else_is_not_ours(origin: Origin) -> None:
    """SG-13, SG-27"""
    assert key_of(Paid(order_id="o-1"), answers=origin) == "o-1"
    with pytest.raises(KeyMissing):
        key_of(Paid(), answers=origin)


def test_a_message_without_a_key_is_refused_with_names_and_values() -> None:
    """SG-24, SG-27"""
    with pytest.raises(KeyMissing, match=r"Fulfilment cannot find the instance for 'paid' m: it has no value for the"):
        key_of(Paid())


def test_a_failure_without_its_header_is_refused() -> None:
    """SG-27"""
    failure = Failed[Pay](command=Pay(order_id="1"), reason="no", attempts=1)

    with pytest.raises(KeyMissing):
        key_of(failure)
    assert key_of(failure, answers=Origin("ordering", "fulfilment", "1")) == "1"


class Numbered(Event):
    number: int | str | UUID | bool | None


class ByNumber(Workflow, key="number"):
    @starts
    def numbered(self, event: Numbered) -> None: ...


@pytest.mark.parametrize(("value", "key"), [(0, "0"), ("", ""), (UUID(int=0), str(UUID(int=0))), (False, "False")])
def test_nought_and_empty_are_keys(value: Any, key: str) -> None:
    """SG-25"""
    plan = plan_of(ByNumber)
    message = Numbered(number=value)

    assert plan.key_for("s", envelope(message), message) == key


def test_a_key_that_is_null_is_none() -> None:
    """SG-24"""
    with pytest.raises(KeyMissing):
        plan_of(ByNumber).key_for("s", envelope(Numbered(number=None)), Numbered(number=None))


class Elsewhere(Event):
    order: str
    line: int


class Keyed(Workflow, key="order_id"):
    @starts(key="order")
    def began(self, event: Elsewhere) -> None: ...

    @on(key=lambda event: event.order_id.upper())
    def paid(self, event: Placed) -> None: ...


def test_a_key_may_have_another_name_or_be_computed() -> None:
    plan: Plan = plan_of(Keyed)
    elsewhere, placed = Elsewhere(order="a", line=1), Placed(order_id="a")

    assert plan.key_for("s", envelope(elsewhere), elsewhere) == "a"
    assert plan.key_for("s", envelope(placed), placed) == "A"


def test_a_state_that_its_class_cannot_read_is_refused_by_name() -> None:
    """PO-09: it becomes a dead letter at once, since no further attempt could read it."""
    instance = running()
    assert instance.stored is not None
    instance.stored = instance.stored.replace(b'"seen":["placed"]', b'"seen":7')

    with pytest.raises(UnreadableState, match=r"fulfilment '1' failed.*seen"):
        decide(instance, Paid(order_id="1"))
