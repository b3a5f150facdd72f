"""docs/why.md: the argument, told with the figures of a run. What it claims depends on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lab.calls import PAUSES_SECONDS
from lab.chained import PAYMENT_SECONDS, PAYMENT_TRIES, WAREHOUSE_SECONDS, WAREHOUSE_TRIES
from lab.customers import AGAIN_SECONDS, PATIENCE_SECONDS, TRIES
from lab.figures import CONDITIONS, DATABASE_AWAY, IN_TROUBLE, ONE_AWAY, TWO_AWAY, Figures, lines_of
from lab.schedule import MEANS
from lab.systems import SYSTEMS
from lab.words import (
    COLUMNS,
    COSTS,
    FAIR,
    HALVES,
    HEAD,
    LIMITS,
    MONOLITH_COSTS,
    MONOLITH_IS_GOOD,
    MONOLITH_SAYS,
    PICTURE,
    UP,
)

CALLING = ("chained", "orchestrated")
MONOLITH = "monolith"
QUIET = 0.2
"""So much of a core may be other programs' before the times of a run are said to be disturbed."""
HARM = {
    "paid_not_shipped": "paid for and neither shipped nor refunded",
    "shipped_not_paid": "shipped and not paid for",
    "charged_twice": "charged twice",
    "refunded_twice": "refunded twice",
    "shipped_twice": "shipped twice",
    "wrong_amount": "charged another amount",
    "forgotten": "accepted and forgotten",
}
"""What is wrong with an order, in words."""


def text(figures: Figures) -> str:
    """The whole page."""
    parts = [HEAD, _outcome(figures), PICTURE, _who_is_up(figures), _cost(figures), _monolith(figures)]
    return "\n".join([*parts, HALVES, _twice(figures), _seeds(figures), _what_was_done(figures), LIMITS])


def workflows(figures: Figures) -> list[str]:
    """The systems of these figures that are asynchronous workflows."""
    return [name for name in figures["systems"] if SYSTEMS[name].is_asynchronous]


def total(figures: Figures, names: Iterable[str], what: str) -> int:
    """A count under faults, of several systems together."""
    return sum(figures["systems"][name]["with_faults"][what] for name in names if name in figures["systems"])


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def share(part: int, whole: int) -> str:
    """A percentage that says 100 only if it is all, and 0 only if it is none."""
    percent = 100 * part / whole
    return f"{percent:.0f} %" if percent in (0, 100) or 1 <= percent < 99.5 else f"{percent:.1f} %"


def milliseconds(spread: dict[str, float], name: str) -> str:
    return f"{spread[name]:.0f}" if name in spread else "-"


def _outcome(figures: Figures) -> str:
    head = ["", "orders", "accepted", "refused", "errors seen", "**inconsistent**", "paid, not shipped"]
    head += ["shipped, not paid", "charged twice", "Ordering's status wrong", "consistent after"]
    rows: list[list[str]] = []
    for name, measured in figures["systems"].items():
        found = measured["with_faults"]
        settled = found["settled_seconds"]
        row = [SYSTEMS[name].title, found["orders"], found["accepted"], found["refused"], found["client_errors"]]
        row += [f"**{found['inconsistent']}**", found["paid_not_shipped"], found["shipped_not_paid"]]
        row += [found["charged_twice"], found["status_wrong"], "never" if settled is None else f"{settled:g} s"]
        rows.append([str(cell) for cell in row])
    return "\n".join(["## What came out", "", table(head, rows), COLUMNS, *_verdict(figures), ""])


def _verdict(figures: Figures) -> list[str]:
    """What the table says, in sentences."""
    lines: list[str] = []
    for system in CALLING:
        if system not in figures["systems"]:
            continue
        title, found = SYSTEMS[system].title, figures["systems"][system]["with_faults"]
        if not found["inconsistent"]:
            lines.append(f"* **{title}**: no order was left inconsistent in these runs.")
            continue
        kinds = [f"{found[name]} {what}" for name, what in HARM.items() if found[name]]
        lines.append(
            f"* **{title}**: {found['inconsistent']} of {found['orders']} orders were left inconsistent: "
            f"{', '.join(kinds)}. Nothing in the system knows of them."
        )
    names = workflows(figures)
    bad, orders = total(figures, names, "inconsistent"), total(figures, names, "orders")
    if bad:
        lines.append(f"* **the workflow**: {bad} of {orders} orders were left inconsistent, which is a defect.")
    elif names:
        lines.append(
            f"* **the workflow**: none of {orders} orders on {len(names)} engines was left inconsistent. What a fault "
            "interrupted went on when it was over, without anybody doing anything."
        )
    if MONOLITH in figures["systems"]:
        bad = total(figures, [MONOLITH], "inconsistent")
        lines.append(f"* **the monolith**: {bad or 'none'} inconsistent. {MONOLITH_SAYS if not bad else ''}".rstrip())
    return lines


def _who_is_up(figures: Figures) -> str:
    rows: list[list[str]] = []
    for name, measured in figures["systems"].items():
        counts = measured["with_faults"]["availability"]
        cells = [share(counts[one][1], counts[one][0]) if one in counts else "-" for one in CONDITIONS]
        rows.append([SYSTEMS[name].title, *cells])
    lines = ["## Who has to be up for an order to be taken", "", UP, table(["", *CONDITIONS], rows)]
    for names, title in ((CALLING, "the two ways that call"), (workflows(figures), "the workflow")):
        placed, answered = _answered(figures, names, (ONE_AWAY, TWO_AWAY, IN_TROUBLE))
        if placed:
            lines.append(
                f"* With a service behind Ordering away or in trouble, {title} took {share(answered, placed)} of "
                f"{placed} orders at the first try."
            )
    placed, answered = _answered(figures, workflows(figures), (DATABASE_AWAY,))
    if placed:
        lines.append(
            f"* The workflow has one thing that must be up: the database in which Ordering commits. While that was "
            f"killed and started again, {share(answered, placed)} of {placed} orders were taken at the first try (on "
            "SQLite it cannot be away)."
        )
    return "\n".join([*lines, ""])


def _answered(figures: Figures, names: Iterable[str], conditions: Sequence[str]) -> tuple[int, int]:
    """Orders placed under these conditions, and orders with a good answer at the first try."""
    counts = [
        figures["systems"][name]["with_faults"]["availability"].get(one, [0, 0])
        for name in names
        if name in figures["systems"]
        for one in conditions
    ]
    return sum(placed for placed, _ in counts), sum(answered for _, answered in counts)


def _cost(figures: Figures) -> str:
    head = ["", "answer, median", "p95", "done, median", "p95", "with faults: answer p95", "done p95"]
    head += ["longest half done", "taken back", "lines of code"]
    rows: list[list[str]] = []
    for name, measured in figures["systems"].items():
        calm, found = measured["without_faults"], measured["with_faults"]
        row = [SYSTEMS[name].title, *(milliseconds(calm["answer_ms"], p) for p in ("p50", "p95"))]
        row += [milliseconds(calm["done_ms"], p) for p in ("p50", "p95")]
        row += [milliseconds(found["answer_ms"], "p95"), milliseconds(found["done_ms"], "p95")]
        row += [
            "for ever" if found["paid_not_shipped"] else f"{found['half_done_seconds_max']:g} s",
            str(found["taken_back"]),
            str(_lines(name)),
        ]
        rows.append([str(cell) for cell in row])
    return "\n".join(["## What it costs", "", COSTS, table(head, rows), *_costs_said(figures), ""])


def _lines(name: str) -> int:
    return sum(map(lines_of, SYSTEMS[name].modules))


def _costs_said(figures: Figures) -> list[str]:
    """What the asynchronous way costs, against the monolith and against the calls."""
    systems = figures["systems"]
    lines: list[str] = []
    for name in workflows(figures):
        calm = systems[name]["without_faults"]
        answer, done = milliseconds(calm["answer_ms"], "p50"), milliseconds(calm["done_ms"], "p50")
        line = (
            f"* **{SYSTEMS[name].title}**: the customer has an answer after {answer} ms, the goods go after {done} ms"
        )
        others = [
            f"{milliseconds(systems[other]['without_faults']['done_ms'], 'p50')} ms ({SYSTEMS[other].title})"
            for other in (MONOLITH, *CALLING)
            if other in systems
        ]
        lines.append(f"{line}{'; elsewhere after ' if others else ''}{', '.join(others)}. Medians, without faults.")
    half = max((systems[name]["with_faults"]["half_done_seconds_max"] for name in workflows(figures)), default=0.0)
    lines += [
        "* **Consistency comes later**, not at once: while something was down, an order was paid and neither shipped "
        f"nor refunded for up to {half:g} s. In the monolith nobody can ever see such an order.",
        "* **Yes is said before it is known**: "
        f"{total(figures, workflows(figures), 'taken_back')} orders were accepted, and taken back with a refund when "
        "the warehouse refused the country. The other ways say no at once. A shop must be able to live with that, or "
        "check before it says yes.",
        "* **More to write and to understand**: messages, a workflow, an engine to run. The lines of code are those of "
        "the way alone, without the business code that all share.",
    ]
    return lines


def _monolith(figures: Figures) -> str:
    if MONOLITH not in figures["systems"]:
        return ""
    found = figures["systems"][MONOLITH]["with_faults"]
    placed, answered = _answered(figures, [MONOLITH], (ONE_AWAY, TWO_AWAY))
    lines = ["## The monolith is not the loser", ""]
    lines.append(
        MONOLITH_IS_GOOD.strip() if not found["inconsistent"] else f"It left {found['inconsistent']} inconsistent."
    )
    if placed:
        lines += ["", f"{MONOLITH_COSTS.strip()} Here it took {share(answered, placed)} of those {placed} orders."]
    return "\n".join([*lines, ""])


def _twice(figures: Figures) -> str:
    twice = total(figures, figures["systems"], "charged_twice")
    if twice:
        return f"Charged twice were {twice} orders.\n"
    return (
        "Nobody was charged twice, in any way: all of them use the order's id as an idempotency key. That is what "
        "careful teams do, and it makes repeating harmless. It does not make anybody repeat.\n"
    )


def _seeds(figures: Figures) -> str:
    seeds = [str(seed) for seed in figures["seeds"]]
    rows = [
        [SYSTEMS[name].title, *(measured["runs"][seed]["inconsistent"] for seed in seeds)]
        for name, measured in figures["systems"].items()
    ]
    conclusions = {
        tuple(bool(measured["runs"][seed]["inconsistent"]) for measured in figures["systems"].values())
        for seed in seeds
    }
    says = "Every schedule leads to the same conclusion" if len(conclusions) == 1 else "The schedules do not agree"
    head = ["", *(f"seed {seed}" for seed in seeds)]
    return "\n".join(["## By schedule", "", f"{says}. Orders left inconsistent:", "", table(head, rows)])


def _what_was_done(figures: Figures) -> str:
    faults = [
        [f"`{kind}`", *(means[way] for way in ("calls", "workflow", "monolith"))] for kind, means in MEANS.items()
    ]
    seed, plan = next(iter(figures["schedules"].items()))
    return "\n".join(
        [
            "## What was done",
            "",
            f"Measured on {figures['machine']}{_unquiet(figures)}.",
            "",
            "One fault comes after the other, each kind of them, in an order, for times and with victims that the seed",
            "decides:",
            "",
            table(["fault", "ways that call", "workflow", "monolith"], faults),
            f"`python -m lab --schedule` prints the schedules. That of seed {seed}:",
            "",
            "```",
            *plan,
            "```",
            "",
            FAIR.format(
                warehouse=f"{WAREHOUSE_TRIES} tries of {WAREHOUSE_SECONDS:g} s",
                payment=f"{PAYMENT_TRIES} tries of {PAYMENT_SECONDS:g} s",
                pauses=" and ".join(f"{pause:g} s" for pause in PAUSES_SECONDS),
                tries=TRIES,
                patience=f"{PATIENCE_SECONDS:g} s",
                again=f"{AGAIN_SECONDS:g} s",
            ),
        ]
    )


def _unquiet(figures: Figures) -> str:
    others = figures["others_cores"]
    return f", **which was not quiet**: other programs kept {others:g} cores busy" if others > QUIET else ""
