"""The figures of one or several runs of a system. Values only: what customers were told and the ledgers go in."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lab.audit import ASTRAY, WRONG, Account, accounts_of
from lab.customers import ACCEPTED, DECLINED, REFUSED, Told
from lab.run import Outcome
from lab.schedule import DATABASE, FAILING, LOST, SLOW

Figures = dict[str, Any]

ALL_UP, IN_TROUBLE, ONE_AWAY, TWO_AWAY = "all up", "one in trouble", "one away", "two away"
ORDERING_AWAY, DATABASE_AWAY = "Ordering away", "database away"
CONDITIONS = (ALL_UP, IN_TROUBLE, ONE_AWAY, TWO_AWAY, ORDERING_AWAY, DATABASE_AWAY)
"""What was wrong when an order was placed. In trouble: slow, failing, or its answers are lost."""


def condition(weather: str) -> str:
    """In which of the `CONDITIONS` a customer came."""
    if weather.startswith("away: "):
        away = weather.removeprefix("away: ").split()
        return ORDERING_AWAY if "ordering" in away else TWO_AWAY if len(away) > 1 else ONE_AWAY
    return {SLOW: IN_TROUBLE, FAILING: IN_TROUBLE, LOST: IN_TROUBLE, DATABASE: DATABASE_AWAY}.get(weather, ALL_UP)


def figures_of(outcomes: Sequence[Outcome]) -> Figures:
    """The figures of these runs together. Times are in milliseconds, unless their names say seconds."""
    told = [one for outcome in outcomes for one in outcome.told]
    pairs = [
        (one, account)
        for outcome in outcomes
        for accounts in [accounts_of(outcome.told, outcome.ledgers)]
        for one in outcome.told
        for account in [accounts[one.order.order_id]]
    ]
    outcomes_told = Counter(one.outcome for one in told)
    settled = [outcome.settled_seconds for outcome in outcomes]
    return {
        "orders": len(told),
        "accepted": outcomes_told[ACCEPTED],
        "declined": outcomes_told[DECLINED],
        "refused": outcomes_told[REFUSED],
        "client_errors": sum(one.errors for one in told),
        "inconsistent": sum(len(outcome.findings.inconsistent) for outcome in outcomes),
        **{name: sum(len(outcome.findings.wrong[name]) for outcome in outcomes) for name in WRONG},
        **{name: sum(len(outcome.findings.astray[name]) for outcome in outcomes) for name in ASTRAY},
        "taken_back": sum(one.outcome == ACCEPTED and bool(account.refunds) for one, account in pairs),
        "settled_seconds": None if None in settled else round(max(filter(None, settled), default=0.0), 2),
        "answer_ms": spread(one.seconds for one in told),
        "done_ms": spread(seconds for one, account in pairs for seconds in done_after(one, account)),
        "half_done_seconds_max": round(max((half_done(account) for _, account in pairs), default=0.0), 2),
        "availability": availability(told),
        "faults_seconds": [list(lasted) for outcome in outcomes for lasted in outcome.lasted],
    }


def availability(told: Iterable[Told]) -> dict[str, list[int]]:
    """For each of the `CONDITIONS`: how many orders were placed, and how many got a good answer at the first try."""
    found: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for one in told:
        counts = found[condition(one.weather)]
        counts[0] += 1
        counts[1] += not one.errors
    return {name: found[name] for name in CONDITIONS if name in found}


def done_after(told: Told, account: Account) -> list[float]:
    """The seconds until the order was shipped, or its money given back; none if it never was."""
    ends = [entry.at for entry in (*account.shipments, *account.refunds)]
    return [max(ends) - told.at] if ends else []


def half_done(account: Account) -> float:
    """How many seconds the order was paid, and neither shipped nor refunded yet."""
    ends = [entry.at for entry in (*account.shipments, *account.refunds)]
    return max(0.0, min(ends) - account.charges[0].at) if ends and account.charges else 0.0


def spread(seconds: Iterable[float]) -> dict[str, float]:
    """Percentiles, in milliseconds."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    places = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[int(share * (len(ordered) - 1))] * 1000, 1) for name, share in places.items()}


def lines_of(module: str) -> int:
    """How many lines of code a file of this folder has, without blank lines, comments and docstrings."""
    path = Path(__file__).with_name(f"{module}.py")
    text = path.read_text(encoding="utf-8")
    told = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = enumerate(text.splitlines(), start=1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and number not in told for number, line in lines)
