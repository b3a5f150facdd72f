"""The shop on servers: the demo, the chaos run and an outage, short. No code of its services changes, only the URL."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from examples.shop.chaos import endure, grounds_in
from examples.shop.demo import perform
from examples.shop.outage import sit_out
from examples.shop.premises import BROKER, DATABASE, Missing, Premises, premises
from examples.shop.rows import store_of
from examples.shop.script import Mishap, Script
from examples.shop.stage import run_to_end
from examples.shop.watch import Sight
from examples.shop.weather import Storm


def unseen(sight: Sight, done: Counter[str] | None = None) -> None:
    """Nobody watches a test."""


@contextmanager
def needed() -> Iterator[None]:
    """A server that is not installed: the test is skipped on a laptop, an error in CI."""
    try:
        yield
    except Missing as missing:
        required = os.environ.get("CI") or os.environ.get("OUTLAST_REQUIRE_SERVICES")
        raise (pytest.fail if required else pytest.skip).Exception(str(missing), pytrace=False) from None


@contextmanager
def needed_premises(engine: str, directory: Path) -> Iterator[Premises]:
    with needed(), premises(engine, directory) as place:
        yield place


def test_the_store_of_a_broker_is_the_last_thing_in_its_url() -> None:
    store = "postgresql://user@host:5432/shop?sslmode=require"

    assert store_of(f"amqp://guest:guest@127.0.0.1:5672/%2F?store={store}") == store
    assert store_of(store) == store


@pytest.mark.parametrize("engine", ["postgres", "rabbitmq", "nats"])
def test_the_demo_loses_nothing_when_servers_fall(tmp_path: Path, engine: str) -> None:
    """BR-03, DB-08: broker and database are killed and started again while orders flow; so is a service."""
    with needed_premises(engine, tmp_path) as place:
        script = Script(
            orders=150,
            per_second=30,
            mishaps=(
                Mishap("payment", "placed", 0.1, 0.5),
                *([Mishap(BROKER, "placed", 0.2, 0.5)] if BROKER in place.servers else []),
                Mishap(DATABASE, "placed", 0.6, 0.5),
            ),
        )

        outcome = run_to_end(perform(script, place, tmp_path, seed=1, show=unseen))

    assert outcome.is_clean, outcome.as_json()
    assert (outcome.report.orders, outcome.unrest) == (150, "")
    by_whom = {kill.who: kill for kill in outcome.kills}
    assert set(by_whom) == {"payment", *place.servers}
    assert BROKER not in by_whom or by_whom[BROKER].most_in_outbox > 0


async def test_the_books_are_in_order_after_some_weather_on_postgresql(tmp_path: Path) -> None:
    """DB-08, BR-05: the database is killed, its network is cut, slow and silent, services are killed and frozen."""
    storm = Storm(
        engine="postgres",
        minutes=0.3,
        seed=3,
        faults=("kill", "stop", "term", DATABASE, "cut", "delay", "hole"),
        mean_gap_seconds=0.7,
        slow_labels=0,
        longest_trouble_seconds=2.0,
    )

    with needed(), grounds_in(tmp_path, storm) as (possible, grounds, skipped):
        aftermath = await endure(possible, grounds, show=unseen)

    assert not skipped
    assert aftermath.is_clean, aftermath.as_text()
    assert aftermath.recoveries


@pytest.mark.parametrize("engine", ["rabbitmq", "nats"])
async def test_orders_are_taken_as_long_as_the_broker_is_away(tmp_path: Path, engine: str) -> None:
    """The outbox grows and is emptied when the broker is back."""
    with needed_premises(engine, tmp_path) as place:
        found = await sit_out(place, tmp_path, minutes=0.05, per_second=30, show=unseen)

    assert found.is_clean, found.as_json()
    assert not found.unrest
    assert found.outbox_peak > 30
