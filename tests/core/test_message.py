"""Message classes: what is refused when the class is made."""

from __future__ import annotations

import pytest

from outlast import Command, Event
from outlast.errors import BadMessage


class Placed(Event):
    order_id: str
    note: str = ""


class Pay(Command[None], to="payment"):
    order_id: str


class PayFast(Pay):
    hours: int = 1


def test_a_message_is_frozen_and_takes_names_only() -> None:
    placed = Placed(order_id="1")

    with pytest.raises(AttributeError):
        placed.order_id = "2"
    with pytest.raises(TypeError):
        Placed("1")


def test_messages_are_equal_by_value_and_can_be_keys() -> None:
    assert Placed(order_id="1") == Placed(order_id="1", note="")
    assert len({Placed(order_id="1"), Placed(order_id="1"), Placed(order_id="2")}) == 2


def test_a_subclass_has_a_name_of_its_own_and_the_owner_of_its_base() -> None:
    assert (PayFast.__wire_name__, PayFast.__owner__) == ("pay-fast", "payment")


@pytest.mark.parametrize("name", ["Placed", "a b", "", "é", "-a", "a/b"])
def test_a_wire_name_has_few_characters(name: str) -> None:
    with pytest.raises(BadMessage, match="wire name"):
        type(Event)("Wrong", (Event,), {}, name=name)


@pytest.mark.parametrize("version", [0, -1, "2", 1.5])
def test_versions_are_whole_numbers_from_one(version: object) -> None:
    with pytest.raises(BadMessage, match="Versions are whole numbers from 1"):
        type(Event)("Wrong", (Event,), {}, version=version)


def test_what_every_message_has_cannot_be_given() -> None:
    with pytest.raises(BadMessage, match="sets frozen, which every message has"):
        type(Event)("Wrong", (Event,), {}, frozen=False)
