"""What a worker tells of its cleaning."""

from __future__ import annotations

from datetime import timedelta

import pytest

from outlast import Service, Worker
from outlast.adapters.sqlite import SqliteInspector
from outlast.errors import Unavailable
from outlast.runtime import housekeeping
from outlast.runtime.housekeeping import BORNE, CLEANED_AT_ONCE
from outlast.signals import Interrupted, Recovered, Signal, Troubled
from tests.system import until


async def test_cleaning_that_goes_on_failing_is_trouble_until_it_succeeds(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OB-17: not the first failures, which an engine that is busy may cause."""
    seen: list[str] = []
    signals: list[Signal] = []
    is_failing = True

    async def clean(*_: object) -> int:
        seen.append(worker.trouble)
        if is_failing:
            raise Unavailable("the disk is full")
        return CLEANED_AT_ONCE

    monkeypatch.setattr(SqliteInspector, "clean", clean)
    monkeypatch.setattr(housekeeping, "CLEAN_EVERY", timedelta(milliseconds=10))
    worker = Worker([Service("shop")], url=sqlite_url, observe=signals.append)
    async with worker:
        await until(lambda: any(isinstance(signal, Troubled) for signal in signals) and len(seen) > BORNE)
        assert seen[:BORNE] == [""] * BORNE
        assert "cannot be deleted" in worker.trouble
        assert "the disk is full" in worker.trouble
        assert [type(signal) for signal in signals].count(Interrupted) >= BORNE

        is_failing = False
        await until(lambda: any(isinstance(signal, Recovered) for signal in signals))
        assert worker.trouble == ""
