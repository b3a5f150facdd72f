"""The chaos run, short: real processes under every fault, and an audit of the books."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from examples.shop import disk
from examples.shop.chaos import Aftermath, endure, grounds_in, run_chaos
from examples.shop.program import shop_file
from examples.shop.watch import Sight
from examples.shop.weather import Storm


def unseen(sight: Sight, done: Counter[str]) -> None:
    """Nobody watches a test."""


async def end_of(storm: Storm, directory: Path) -> Aftermath:
    """What a storm leaves; the test is skipped if one of its faults cannot be brought about here."""
    with grounds_in(directory, storm) as (possible, grounds, skipped):
        if skipped:
            pytest.skip(f"faults not possible here: {skipped}")
        return await endure(possible, grounds, show=unseen)


async def test_a_short_chaos_run_ends_with_its_books_in_order(tmp_path: Path) -> None:
    storm = Storm(
        kills=6, seed=4, faults=("stop", "term"), mean_gap_seconds=0.15, longest_away_seconds=0.3, slow_labels=0
    )

    aftermath = await end_of(storm, tmp_path)

    assert aftermath.is_clean, aftermath.as_text()
    assert aftermath.done["kill"] == 6
    assert aftermath.report.orders > 20
    with closing(sqlite3.connect(shop_file(tmp_path))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_services_and_storefront_go_on_by_themselves_after_a_full_disk(tmp_path: Path) -> None:
    """DB-15: what did not fit is undone, and the file stays whole."""
    storm = Storm(kills=2, seed=3, faults=("disk",), mean_gap_seconds=0.3, longest_away_seconds=0.3, slow_labels=0)

    aftermath = await end_of(storm, tmp_path)

    assert aftermath.is_clean, aftermath.as_text()
    assert aftermath.full_disks_felt == aftermath.done["disk"] > 0
    assert aftermath.orders_refused > 0
    assert aftermath.interruptions + aftermath.refused_starts > 0
    with closing(sqlite3.connect(shop_file(tmp_path))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_clocks_that_jump_lose_nothing_and_fire_no_timer_early(tmp_path: Path) -> None:
    storm = Storm(kills=4, seed=2, faults=("clock",), mean_gap_seconds=0.3, longest_away_seconds=0.3, slow_labels=0)

    aftermath = await end_of(storm, tmp_path)

    assert aftermath.is_clean, aftermath.as_text()
    assert aftermath.done["clock"] > 0
    with closing(sqlite3.connect(shop_file(tmp_path))) as connection:
        shown = [at / 1_000_000 for (at,) in connection.execute("SELECT at FROM outlast_history")]
    assert any(abs(at - time.time()) > 80 for at in shown), "no service ever had a clock of its own"


def test_a_fault_that_is_not_possible_is_skipped_by_name_and_not_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(disk, "LARGEST", 0)
    storm = Storm(kills=1, faults=("kill", "disk"), mean_gap_seconds=0.2, longest_away_seconds=0.2, slow_labels=0)

    code = run_chaos(storm, keep=str(tmp_path / "kept"), small=str(tmp_path), as_json=True)

    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert code == 0, found
    assert list(found["skipped"]) == ["disk"]
    assert (found["kills"], found["disks"], found["seed"]) == (1, 0, 1)
    assert printed.err.startswith("SKIPPED disk: ")
