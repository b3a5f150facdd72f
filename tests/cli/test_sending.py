"""send: from words on a command line to a message on its way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.terminal import outlast


def send(directory: Path, *arguments: str):
    return outlast(directory, "send", "--app", "shop", *arguments)


def waiting(directory: Path, service: str, what: str = "waiting") -> int:
    services = outlast(directory, "status", "--json").value["services"]
    return next(found[what] for found in services if found["service"] == service)


@pytest.mark.parametrize("name", ["MakePayment", "make-payment", "shop:MakePayment"])
def test_a_command_goes_to_its_owner(shop: Path, name: str) -> None:
    before = waiting(shop, "payment")

    sent = send(shop, name, "order_id=9", "amount=5", "--json").value

    assert sent["message"] == "make-payment"
    assert sent["receivers"] == ["payment"]
    assert sent["conversation"] == sent["id"]
    assert sent["key"] == "9"
    assert waiting(shop, "payment") == before + 1


def test_an_event_is_published_to_those_who_handle_it(shop: Path) -> None:
    said = send(shop, "OrderPlaced", "order_id=9", "total=5")

    assert said.code == 0
    assert said.out.startswith("published order-placed to ordering, conversation ")


def test_values_are_converted_to_the_types_of_the_fields(shop: Path) -> None:
    fields = ["order_id=10=x", "amount=5.50", 'notes:=["fragile", "left = right"]']

    sent = send(shop, "MakePayment", *fields, "--after", "3600", "--json").value

    (pending,) = outlast(shop, "show", sent["conversation"], "--json").value["pending"]
    assert pending["body"] == {"order_id": "10=x", "amount": "5.50", "notes": ["fragile", "left = right"]}
    assert (pending["state"], pending["due"]) == ("dated", sent["due"])


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        (["amount=5"], "missing required field `order_id`"),
        (["order_id=1", "amount=much"], "cannot be made of this"),
        (["order_id=1", "amount=5", "colour=red"], "has no field 'colour'. It has order_id: str, amount: Decimal"),
        (["order_id"], "'order_id' is no field of a message"),
        (["notes:=[1"], "is no JSON after the `:=`"),
    ],
)
def test_fields_that_do_not_fit_are_refused_and_nothing_is_sent(past: Path, fields: list[str], what: str) -> None:
    before = waiting(past, "payment")

    said = send(past, "MakePayment", *fields)

    assert said.code == 2
    assert what in " ".join(said.err.split())
    assert waiting(past, "payment") == before


def test_an_unknown_message_is_answered_with_the_known_ones(past: Path) -> None:
    said = send(past, "MakePaiment", "order_id=1")

    assert said.code == 2
    assert "They know CreateLabel, LabelCreated, MakePayment, OrderPlaced, PaymentCompleted" in " ".join(
        said.err.split()
    )
    assert send(past, "shop:ordering").code == 2


def test_an_event_that_nobody_would_get_is_refused(empty: Path) -> None:
    refused = send(empty, "OrderPlaced", "order_id=1", "total=5")
    meant = send(empty, "OrderPlaced", "order_id=1", "total=5", "--anyway", "--json")

    assert refused.code == 6
    assert "no service that has run" in refused.err
    assert meant.code == 0
    assert meant.value["receivers"] == []


def test_a_command_waits_for_a_service_that_never_ran(empty: Path) -> None:
    assert send(empty, "MakePayment", "order_id=1", "amount=5").code == 0
    assert waiting(empty, "payment") == 1


def test_a_repeated_id_sends_once(shop: Path) -> None:
    before = waiting(shop, "payment")

    for _ in range(2):
        assert send(shop, "MakePayment", "order_id=9", "amount=5", "--id", "from-the-form-1").code == 0

    assert waiting(shop, "payment") == before + 1
