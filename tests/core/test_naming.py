"""Wire names: which class a name means, and what becomes of bytes that mean none."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast import Command, Event, Failed
from outlast.core.message import Envelope, kebab
from outlast.core.naming import Catalogue, encode, name_of, name_of_type, open_packet, sent_at, type_of
from outlast.errors import BadMessage, Undecodable, UnknownMessage

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DEPTH = 100_000


class Placed(Event):
    order_id: str
    tags: list[str] = []


class Renamed(Event, name="placed"):
    order_id: str


class PlacedAgain(Event, name="placed", version=2):
    order_id: str


class Pay(Command[None], to="payment"):
    order_id: str


def envelope(type: str = "placed", body: bytes = b'{"order_id":"1"}') -> Envelope:
    return Envelope(id="m", type=type, conversation="c", sent_at=NOW, body=msgspec.Raw(body), sender="shop")


@pytest.mark.parametrize(
    ("class_name", "wire_name"),
    [
        ("MakePayment", "make-payment"),
        ("HTTPCallFailed", "http-call-failed"),
        ("A", "a"),
        ("Step2Done", "step2-done"),
    ],
)
def test_a_wire_name_is_the_class_name_in_kebab_case(class_name: str, wire_name: str) -> None:
    assert kebab(class_name) == wire_name


def test_a_version_is_part_of_the_name_and_a_module_is_not() -> None:
    """UP-01, UP-07: a class may move, and two versions may be on their way at once."""
    names = [name_of_type(kind) for kind in (Placed, Renamed, PlacedAgain, Failed[Pay])]

    assert names == ["placed", "placed", "placed@2", "failed:pay"]
    assert name_of(Failed[Pay](command=Pay(order_id="1"), reason="no", attempts=1)) == "failed:pay"


def test_a_failure_is_known_by_its_command() -> None:
    failure = Failed[Pay](command=Pay(order_id="1"), reason="no", attempts=1)

    assert type_of(failure) == Failed[Pay]
    assert type_of(Pay(order_id="1")) is Pay


def test_two_classes_with_one_wire_name_are_refused() -> None:
    """P20: at definition of a service, with both names and what to do."""
    with pytest.raises(BadMessage, match=r"Renamed and .*Placed have the same wire name 'placed'"):
        Catalogue([Placed, Renamed])


def test_one_class_may_be_listed_twice_and_two_versions_side_by_side() -> None:
    catalogue = Catalogue([Placed, Placed, PlacedAgain, Failed[Pay]])

    assert list(catalogue) == ["placed", "placed@2", "failed:pay"]
    assert "placed@2" in catalogue
    assert catalogue["placed"] is Placed


def test_a_message_survives_the_wire() -> None:
    """TR-01"""
    failure = Failed[Pay](command=Pay(order_id="1"), reason="no", attempts=3)
    packet = encode(envelope("failed:pay", encode(failure)))

    read = Catalogue([Failed[Pay]]).decode(open_packet(packet))

    assert read == failure


def test_an_unknown_name_says_what_is_known() -> None:
    """PO-03, UP-07: an older process meets a newer message."""
    with pytest.raises(UnknownMessage, match=r"'placed@9' from shop is not known here. Known: placed"):
        Catalogue([Placed]).decode(envelope("placed@9"))


def test_a_name_on_the_wire_imports_nothing() -> None:
    """SE-02: data never becomes code."""
    for name in ("os.system", "builtins:exec", "outlast.core.message.Event", ""):
        with pytest.raises(UnknownMessage):
            Catalogue([Placed]).decode(envelope(name))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"order_id":1}',
        b"{}",
        b'{"order_id":"\xff"}',
        b'{"order_id":"\\ud800"}',
        b"null",
        b"NaN",
    ],
)
def test_a_body_that_is_not_its_message_is_undecodable(body: bytes) -> None:
    """PO-01, PO-02, PO-09"""
    with pytest.raises(Undecodable, match="reading the body of 'placed' m failed"):
        Catalogue([Placed]).decode(envelope(body=body))


@pytest.mark.parametrize("packet", [b"", b"\x00", b"{}", b"[]", b'"text"', b"\xff\xfe", b'{"id":1}'])
def test_bytes_that_are_no_envelope_are_undecodable(packet: bytes) -> None:
    """PO-01, PO-02, TR-35"""
    with pytest.raises(Undecodable, match=f"reading an envelope of {len(packet)} bytes"):
        open_packet(packet)
    assert sent_at(packet) is None


def test_deep_nesting_is_undecodable_and_no_crash() -> None:
    """PO-07: in the envelope, in a body, and in a field that the class does not know."""
    deep = b"[" * DEPTH + b"]" * DEPTH
    objects = b'{"a":' * DEPTH + b"1" + b"}" * DEPTH
    for packet in (deep, objects, b'{"id":"m","x":' + deep + b"}"):
        with pytest.raises(Undecodable):
            open_packet(packet)
    for body in (deep, objects, b'{"order_id":"1","tags":' + deep + b"}"):
        with pytest.raises(Undecodable):
            Catalogue([Placed]).decode(envelope(body=body))


def test_unknown_fields_of_a_newer_sender_are_passed_over() -> None:
    """PO-09"""
    read = Catalogue([Placed]).decode(envelope(body=b'{"order_id":"1","colour":"red"}'))

    assert read == Placed(order_id="1")


@given(st.binary(max_size=200))
def test_any_bytes_are_an_envelope_or_undecodable(packet: bytes) -> None:
    """PO-01"""
    with contextlib.suppress(Undecodable):
        open_packet(packet)


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_json_is_a_message_or_undecodable(value: Any) -> None:
    """PO-09, PO-24"""
    with contextlib.suppress(Undecodable):
        assert isinstance(Catalogue([Placed]).decode(envelope(body=encode(value))), Placed)
