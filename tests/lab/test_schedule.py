"""The schedule of faults."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lab.schedule import AWAY, DATABASE, FAILING, KILLED, LOST, MEANS, SLOW, schedule

ROOT = Path(__file__).parents[2]


def printed(seeds: str, *, hash_seed: str) -> str:
    """What the command says will go wrong, in a process with other hashes."""
    return subprocess.run(
        [sys.executable, "-m", "lab", "--schedule", "--seeds", seeds],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def test_a_seed_means_the_same_schedule_in_every_process() -> None:
    first, second = printed("1,7", hash_seed="1"), printed("1,7", hash_seed="2")

    assert first == second
    assert str(schedule(1)) in first
    assert str(schedule(7)) in first


def test_seeds_differ() -> None:
    assert len({schedule(seed).faults for seed in range(20)}) == 20


@pytest.mark.parametrize("seed", range(1, 6))
def test_every_fault_comes_and_one_after_the_other(seed: int) -> None:
    plan = schedule(seed)

    kinds = [fault.kind for fault in plan.faults]
    assert set(kinds) == set(MEANS) == {SLOW, FAILING, AWAY, KILLED, LOST, DATABASE}
    assert {fault.who for fault in plan.faults if fault.kind == KILLED} == {("ordering",), ("payment",), ("warehouse",)}
    for fault, following in zip(plan.faults, plan.faults[1:], strict=False):
        assert fault.at + fault.seconds < following.at
    assert plan.faults[-1].at + plan.faults[-1].seconds < plan.seconds
