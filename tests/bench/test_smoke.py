"""The benchmark runs on every engine. What it measures here is too small to mean anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench import page
from bench.parts import alternate, latency, limit, scaling
from bench.stand import ENGINES, Stand

NEEDS = {
    "sqlite": (),
    "postgres": ("postgres",),
    "rabbitmq": ("postgres", "rabbitmq"),
    "nats": ("postgres", "nats"),
}


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_is_measured(engine: str, request: pytest.FixtureRequest) -> None:
    servers = {name: request.getfixturevalue(f"{name}_server") for name in NEEDS[engine]}
    stand = Stand(engine, **servers)

    of_the_limit = limit(stand, quick=True)
    idle = latency(stand, quick=True)

    assert all(row["ratio"] > 0 for row in of_the_limit["rows"])
    assert of_the_limit["cpu_us_per_message"]["outlast"]["program"] > 0
    assert (of_the_limit["cpu_us_per_message"]["outlast"]["servers"] > 0) is (engine != "sqlite")
    assert 0 < idle["p50_ms"] <= idle["p95_ms"] <= idle["max_ms"]


def test_processes_that_compete_are_measured() -> None:
    figures = scaling(Stand("sqlite"), quick=True)

    assert figures["ratio"] > 0
    assert figures["one_process"]["our_cores"] > 0
    assert figures["one_process"]["server_cores"] == 0


def test_a_ratio_is_taken_between_neighbours_in_time() -> None:
    slowing = iter([100.0, 50.0, 20.0, 40.0])  # theirs, ours, ours, theirs

    [row] = alternate({"": lambda: next(slowing)}, {"them": lambda: next(slowing)}, 2)

    assert row["ratio"] == 0.5
    assert row["ratio_range"] == [0.5, 0.5]


def test_each_way_of_ours_has_a_row_of_its_own() -> None:
    rows = alternate({"": lambda: 1.0, ", bundled": lambda: 2.0}, {"one": lambda: 1.0, "two": lambda: 4.0}, 2)

    assert [(row["against"], row["ratio"]) for row in rows] == [
        ("one", 1),
        ("two", 0.25),
        ("one, bundled", 2),
        ("two, bundled", 0.5),
    ]


def test_the_page_has_all_engines_that_were_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = json.loads(page.STORED.read_text(encoding="utf-8"))
    monkeypatch.setattr(page, "DOCS", tmp_path)
    monkeypatch.setattr(page, "STORED", tmp_path / "performance.json")

    page.add("sqlite", stored["sqlite"])
    page.add("nats", stored["sqlite"])
    page.add("nats", {"latency": {"p50_ms": 1.5, "p95_ms": 2.5, "max_ms": 3.5}})

    text = (tmp_path / "performance.md").read_text(encoding="utf-8")
    assert "## SQLite" in text
    assert "## NATS JetStream" in text
    assert "idle latency: 1.5 ms" in text
    assert "NATS JetStream" in (tmp_path / "performance.svg").read_text(encoding="utf-8")
    assert (tmp_path / "performance.png").stat().st_size > 1000
