"""The ledger of an outside system: an effect once for each key, and every effect to be seen."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from examples.shop.ledger import Effect, Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "gateway.db")
    yield ledger
    ledger.close()


def test_a_key_has_one_effect_and_its_repeats_are_counted(ledger: Ledger) -> None:
    first = ledger.enter("charge", "a", Decimal(1), key="k")

    second = ledger.enter("charge", "a", Decimal(1), key="k")

    assert first == second
    assert ledger.effects() == [Effect("charge", "a", Decimal(1), "k")]
    assert ledger.repeats() == 1


def test_another_key_charges_the_same_order_again(ledger: Ledger) -> None:
    ledger.enter("charge", "a", Decimal(1), key="k")

    ledger.enter("charge", "a", Decimal(1), key="l")

    assert [effect.key for effect in ledger.effects()] == ["k", "l"]
    assert ledger.repeats() == 0


def test_a_voided_order_gets_no_label(ledger: Ledger) -> None:
    ledger.enter("void", "a", Decimal(0), key="k")

    assert ledger.enter("label", "a", Decimal(0), key="l", unless="void") is None
    assert ledger.enter("label", "b", Decimal(0), key="m", unless="void") is not None
    assert [(effect.kind, effect.order_id) for effect in ledger.effects()] == [("void", "a"), ("label", "b")]
