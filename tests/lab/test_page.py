"""The page says what the figures say, whatever one would like them to."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from examples.shop.messages import Address
from examples.shop.orders import Order
from lab import page, report
from lab.audit import Entry, Ledgers, Row, audit
from lab.customers import ACCEPTED, Told
from lab.figures import figures_of, lines_of
from lab.run import Outcome
from lab.systems import SYSTEMS

TOLD = [Told(Order("1", Decimal(5), Address()), at=1.0, weather="", outcome=ACCEPTED, seconds=0.02)]
CLEAN = Ledgers(
    orders=[Row("1", "5", "shipped", 1.0)],
    payments=[Entry("1", "charge", "5", 1.1)],
    shipments=[Entry("1", "shipment", "", 1.25)],
)
HALF = replace(CLEAN, shipments=[])


def outcome(ledgers: Ledgers, told: list[Told] = TOLD) -> Outcome:
    findings = audit(told, ledgers)
    return Outcome(told, ledgers, findings, 0.5 if findings.is_settled else None)


def figures(bad: set[str]) -> dict[str, Any]:
    """Of one run of each system, of which some were left inconsistent."""
    return {
        "seeds": [4],
        "schedules": {"4": ["seed 4: nothing"]},
        "machine": "a test",
        "others_cores": 0.1,
        "systems": {
            name: {
                "without_faults": figures_of([outcome(CLEAN)]),
                "with_faults": figures_of([outcome(HALF if name in bad else CLEAN)]),
                "runs": {"4": figures_of([outcome(HALF if name in bad else CLEAN)])},
            }
            for name in SYSTEMS
        },
    }


def test_the_report_has_its_four_files(tmp_path: Path) -> None:
    report.write(figures({"chained"}), tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"why.json", "why.md", "why.svg", "why.png"}
    assert "service to service" in (tmp_path / "why.svg").read_text(encoding="utf-8")


def test_what_was_found_is_told() -> None:
    text = page.text(figures({"chained", "orchestrated"}))

    assert "**service to service**: 1 of 1 orders were left inconsistent" in text
    assert "**the workflow**: none of 3 orders" in text
    assert "**the monolith**: none inconsistent" in text


def test_a_workflow_that_leaves_something_is_called_a_defect() -> None:
    text = page.text(figures({"postgres"}))

    assert "**the workflow**: 1 of 3 orders were left inconsistent, which is a defect" in text
    assert "**service to service**: no order was left inconsistent in these runs" in text


def test_a_machine_that_was_not_quiet_is_named() -> None:
    assert "which was not quiet" not in page.text(figures(set()))
    assert "which was not quiet" in page.text(figures(set()) | {"others_cores": 1.5})


@pytest.mark.parametrize(
    ("weather", "condition"),
    [("", "all up"), ("lost", "one in trouble"), ("away: payment", "one away"), ("away: ordering", "Ordering away")],
)
def test_an_order_counts_as_taken_if_its_first_answer_was_good(weather: str, condition: str) -> None:
    customers = [replace(TOLD[0], weather=weather), replace(TOLD[0], weather=weather, errors=1)]

    assert figures_of([outcome(CLEAN, customers)])["availability"] == {condition: [2, 1]}


def test_times_are_taken_from_the_ledgers() -> None:
    found = figures_of([outcome(CLEAN)])

    assert found["answer_ms"]["p50"] == 20
    assert found["done_ms"]["p50"] == 250
    assert found["half_done_seconds_max"] == 0.15


def test_lines_of_code_are_counted_without_words() -> None:
    assert lines_of("__init__") == 0
    assert 20 < lines_of("monolith") < 60
