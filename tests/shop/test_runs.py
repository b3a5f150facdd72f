"""The demo and the chaos run, short: real processes, real kills, and an audit of the books."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from examples.shop.chaos import Storm, endure
from examples.shop.demo import perform
from examples.shop.script import Script
from examples.shop.watch import Sight


def unseen(sight: Sight, done: Counter[str] | None = None) -> None:
    """Nobody watches a test."""


async def test_the_demo_ends_with_its_books_in_order(tmp_path: Path) -> None:
    script = Script(orders=150, per_second=100, payment_away_seconds=1.0, ordering_away_seconds=0.5)

    outcome = await perform(script, tmp_path, seed=0, show=unseen)

    assert outcome.is_clean, outcome.as_json()
    assert outcome.report.orders == 150
    assert outcome.report.shipped + outcome.report.refunded == 150
    assert outcome.report.refunded > 0
    assert [kill.service for kill in outcome.kills] == ["payment", "ordering"]
    assert outcome.kills[0].most_waiting > 20


async def test_a_short_chaos_run_ends_with_its_books_in_order(tmp_path: Path) -> None:
    storm = Storm(
        kills=10, seed=4, faults=("kill", "stop", "term"), mean_gap_seconds=0.2, longest_away_seconds=0.5
    )

    aftermath = await endure(storm, tmp_path, show=unseen)

    assert aftermath.is_clean, aftermath.as_text()
    assert aftermath.done["kill"] == 10
    assert aftermath.report.orders > 20
