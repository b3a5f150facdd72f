"""What the demo shows: a live table on a terminal, lines elsewhere, one JSON object if that was asked for."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from examples.shop.fleet import SERVICES
from examples.shop.script import Outcome
from examples.shop.watch import Sight

STATES = ("placed", "paid", "shipped", "refunded", "cancelled")
LINE_SECONDS = 1.0


class Screen(Protocol):
    """Where the demo is seen."""

    def show(self, sight: Sight) -> None: ...

    def finish(self, outcome: Outcome, *, kept: Path | None) -> None: ...


@contextmanager
def display(*, as_json: bool) -> Generator[Screen]:
    """The screen that fits where the output goes."""
    console = Console()
    if as_json:
        yield JsonScreen()
    elif console.is_terminal:
        with Live(console=console, refresh_per_second=10) as live:
            yield LiveScreen(live)
    else:
        yield PlainScreen()


class JsonScreen:
    """Silent, until the one object at the end."""

    def show(self, sight: Sight) -> None:
        pass

    def finish(self, outcome: Outcome, *, kept: Path | None) -> None:
        print(outcome.as_json())


class PlainScreen:
    """A line every second, and one whenever a service goes or comes back."""

    def __init__(self) -> None:
        self._last: Sight | None = None

    def show(self, sight: Sight) -> None:
        last = self._last
        if last is not None and sight.down == last.down and sight.seconds - last.seconds < LINE_SECONDS:
            return
        self._last = sight
        orders = "  ".join(f"{sight.orders.get(state, 0):4} {state}" for state in STATES if state != "cancelled")
        waiting = "  ".join(f"{service} {sight.waiting.get(service, 0):4}" for service in SERVICES)
        down = f"  DOWN: {', '.join(sight.down)}" if sight.down else ""
        print(
            f"{sight.seconds:5.1f} s  {orders}   waiting: {waiting}   {sight.handled_per_second:5.0f} messages/s{down}",
            flush=True,
        )

    def finish(self, outcome: Outcome, *, kept: Path | None) -> None:
        print("\n".join(summary(outcome, kept)))


class LiveScreen:
    """A table that changes."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, sight: Sight) -> None:
        services = Table(box=None, pad_edge=False)
        services.add_column("service", min_width=12)
        services.add_column("waiting", justify="right", min_width=8)
        services.add_column("")
        for service in SERVICES:
            is_down = service in sight.down
            waiting = sight.waiting.get(service, 0)
            bar = Text("█" * min(50, (waiting + 14) // 15), style="yellow")
            name = Text(f"{service} {'killed' if is_down else ''}", style="bold red" if is_down else "green")
            services.add_row(name, str(waiting), bar)
        orders = Table(box=None, pad_edge=False)
        for state in STATES:
            orders.add_column(state, justify="right", min_width=9)
        orders.add_row(*(str(sight.orders.get(state, 0)) for state in STATES))
        pace = f"{sight.seconds:.1f} s   {sight.handled} messages handled, {sight.handled_per_second:.0f} per second"
        self._live.update(Group(services, Text(), orders, Text(), Text(pace, style="dim"), Text()))

    def finish(self, outcome: Outcome, *, kept: Path | None) -> None:
        self._live.console.print("\n".join(summary(outcome, kept)), highlight=False, markup=False, soft_wrap=True)


def summary(outcome: Outcome, kept: Path | None) -> list[str]:
    """The end, in a few lines for people."""
    report = outcome.report
    lines = [
        f"{report.orders} orders, {outcome.messages} messages in {outcome.seconds:.1f} s (seed {outcome.seed})",
        *(
            f"killed {kill.service} at {kill.at_seconds:.1f} s with {kill.orders_under_way} orders under way; "
            f"up to {kill.most_waiting} messages waited for it"
            for kill in outcome.kills
        ),
        f"shipped {report.shipped}, refunded {report.refunded}, cancelled {report.cancelled}; "
        f"waiting {len(report.waiting)}, lost {len(report.lost)}",
        f"charged twice {len(report.charged_twice)}, refunded twice {len(report.refunded_twice)}, "
        f"labelled twice {len(report.labelled_twice)}, labelled without payment "
        f"{len(report.labels_without_payment)}, refunded and shipped {len(report.refunded_and_shipped)}",
        f"{report.repeats_absorbed} requests to the gateway and the carrier were repeats, absorbed by their key",
        *report.contradictions[:10],
        *(f"{service} ended by itself; see its log" for service in outcome.fallen),
        "The books are in order." if outcome.is_clean else "The books are NOT in order.",
    ]
    if kept is not None:
        lines.append(f"The files are in {kept}: try outlast status --url sqlite:///{kept}/shop.db")
    return lines
