"""From a stored conversation to the text of a test that passes."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from msgspec import Raw

from outlast import NO_RETRY
from outlast.core.message import Envelope
from outlast.core.naming import encode
from outlast.errors import Misuse, NotFound
from outlast.ports import Entry
from outlast.testing import Tracked, scenario_of
from outlast.testing.recorder import Recorder, Text
from tests.testing_kit.shop import Fulfilment, OrderCancelled, OrderPlaced, services

PLACED = OrderPlaced(order_id="o-1", total=Decimal("5.50"))


def run(source: str) -> None:
    """Runs the test in a module's source."""
    module: dict[str, Any] = {}
    exec(compile(source, "recorded.py", "exec"), module)
    tests = [value for name, value in module.items() if name.startswith("test_")]
    assert len(tests) == 1
    tests[0]()


async def recorded(url: str, *messages: OrderPlaced | OrderCancelled, warehouse_fails: bool = False) -> str:
    parts = services(warehouse_fails=warehouse_fails)
    parts[2].retry = NO_RETRY
    async with Tracked(parts, url) as system:
        for message in messages:
            await system.publish(message)
            await system.settled()
        return await scenario_of(system.inspector, Fulfilment, "o-1")


async def test_what_went_well_becomes_a_test_that_passes(url: str) -> None:
    source = await recorded(url, PLACED)

    run(source)
    assert "scenario.when(OrderPlaced(order_id=\"o-1\", total=Decimal('5.50')))" in source
    assert 'scenario.sends(CreateLabel(order_id="o-1"))' in source
    assert "scenario.completes()" in source
    assert 'scenario.state(payment_id="paid o-1", reminders=0)' in source


async def test_a_recorded_failure_fails_in_the_test(url: str) -> None:
    source = await recorded(url, PLACED, warehouse_fails=True)

    run(source)
    assert 'scenario.fails(CreateLabel, reason="ValueError after 1 attempt", error="ValueError: no printer", ' in source


async def test_second_starts_and_late_messages_are_recorded(url: str) -> None:
    source = await recorded(url, PLACED, PLACED, OrderCancelled(order_id="o-1"))

    run(source)
    assert source.count("scenario.is_late()") == 2


async def test_what_was_stashed_is_recorded_once(url: str) -> None:
    source = await recorded(url, OrderCancelled(order_id="o-1"), PLACED)

    run(source)
    assert source.count("scenario.when(OrderCancelled") == 1
    assert "scenario.is_stashed()" in source


async def test_the_test_fails_when_the_workflow_changes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = await recorded(url, PLACED)

    with pytest.raises(AssertionError):
        run(source.replace('payment_id="paid o-1", reminders=0', 'payment_id="paid o-1", reminders=1'))
    with pytest.raises(AssertionError):
        run(source.replace('scenario.sends(CreateLabel(order_id="o-1"))', "scenario.sends_nothing()"))


async def test_an_instance_that_never_was_cannot_be_recorded(url: str) -> None:
    with pytest.raises(NotFound, match="history has nothing of a Fulfilment with the key 'o-1'"):
        await recorded(url)


def entry(message_type: str, body: bytes, at: datetime, outcome: str, **more: Any) -> Entry:
    envelope = Envelope(id=more.pop("id", "m"), type=message_type, conversation="c", sent_at=at, body=Raw(body), **more)
    return Entry("c", at, "ordering", outcome, encode(envelope), "fulfilment", "o-1")


def test_timers_fire_in_the_recording_at_their_time() -> None:
    start = datetime(2026, 3, 1, 12, tzinfo=UTC)
    overdue = {"timer": ("payment-overdue", "t"), "id": "t"}
    entries = [
        entry("order-placed", encode(PLACED), start, "started"),
        entry(
            "payment-overdue",
            b'{"order_id":"o-1"}',
            start + timedelta(hours=24, seconds=2),
            "continued",
            **overdue,
        ),
    ]

    source = Recorder(Fulfilment, "o-1", entries).source()

    run(source)
    assert 'scenario.advance(timedelta(days=1))\n    scenario.sends(MakePayment(order_id="o-1"' in source


def test_a_replay_that_comes_to_something_else_is_refused() -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC)

    with pytest.raises(Misuse, match="came to started, and history says completed"):
        Recorder(Fulfilment, "o-1", [entry("order-placed", encode(PLACED), start, "completed")]).source()


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize(
    "value",
    [
        'quo"te',
        "line\nbreak \\",
        "ünïcode ✓",
        5,
        1.5,
        True,
        None,
        b"\x00\xff",
        Decimal("1.50"),
        date(2026, 1, 2),
        datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        timedelta(days=-1, seconds=5),
        timedelta(0),
        UUID("12345678123456781234567812345678"),
        [1, (2,), {"a": {3}}, frozenset([4]), ()],
        Colour.RED,
        PLACED,
    ],
    ids=repr,
)
def test_every_value_is_written_as_text_that_makes_it_again(value: object) -> None:
    text = Text()
    expression = text.of(value)
    names: dict[str, Any] = {}

    exec(text.imports(), names)

    assert eval(expression, names) == value
