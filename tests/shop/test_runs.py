"""The demo, short: real processes, real kills, and an audit of the books."""

from __future__ import annotations

import json
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from examples.shop.demo import PROBLEMS_FOUND, run_demo
from examples.shop.ledger import Ledger
from examples.shop.program import shop_file
from examples.shop.script import Mishap, Script

SHORT = Script(
    orders=150,
    per_second=100,
    mishaps=(Mishap("payment", "placed", 0.25, 1.0), Mishap("ordering", "ended", 0.4, 0.5)),
)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the seed, the script is short."""
    monkeypatch.setattr(Script, "of", classmethod(lambda cls, seed, servers: SHORT))


@pytest.mark.usefixtures("short")
def test_the_demo_ends_with_its_books_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    code = run_demo(seed=5, keep=None, as_json=True)

    found = json.loads(capsys.readouterr().out)
    assert code == 0, found
    assert found["clean"] is True
    assert (found["seed"], found["orders"]) == (5, 150)
    assert found["shipped"] + found["refunded"] == 150
    assert found["refunded"] == found["dead_letters"] == 5
    assert [kill["who"] for kill in found["killed"]] == ["payment", "ordering"]
    assert found["killed"][0]["most_waiting"] > 20
    assert all(found[name] == 0 for name in ("waiting", "lost", "charged_twice", "labelled_twice"))


@pytest.mark.usefixtures("short")
def test_the_demo_fails_when_the_books_are_not_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bank charges a customer of its own accord, before the demo begins."""
    with closing(Ledger(tmp_path / "gateway.db")) as ledger:
        ledger.enter("charge", "10248", Decimal("472.38"), key="the bank's own")

    code = run_demo(seed=1, keep=str(tmp_path), as_json=True)

    found = json.loads(capsys.readouterr().out)
    assert code == PROBLEMS_FOUND
    assert (found["clean"], found["charged_twice"], found["contradictions"]) == (False, 1, 1)


def test_the_demo_does_not_run_into_files_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop_file(tmp_path).touch()

    assert run_demo(seed=1, keep=str(tmp_path), as_json=True) == 2
    assert "has a shop already" in capsys.readouterr().err
