"""What the demo shows: a live table on a terminal, lines elsewhere, one JSON object if that was asked for."""

from __future__ import annotations

from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from examples.shop.fleet import SERVICES
from examples.shop.premises import BROKER, DATABASE
from examples.shop.script import Kill, Outcome
from examples.shop.watch import Sight

STATES = ("placed", "paid", "shipped", "refunded", "cancelled")
LINE_SECONDS = 1.0


class Screen(Protocol):
    """Where the demo is seen."""

    def show(self, sight: Sight) -> None: ...

    def finish(self, outcome: Outcome, *, kept: Path | None) -> None: ...


@contextmanager
def display(servers: Collection[str] = (), *, as_json: bool) -> Generator[Screen]:
    """The screen that fits where the output goes."""
    console = Console()
    if as_json:
        yield JsonScreen()
    elif console.is_terminal:
        with Live(console=console, refresh_per_second=10) as live:
            yield LiveScreen(live, servers)
    else:
        yield PlainScreen(servers)


class JsonScreen:
    """Silent, until the one object at the end."""

    def show(self, sight: Sight) -> None:
        pass

    def finish(self, outcome: Outcome, *, kept: Path | None) -> None:
        print(outcome.as_json())


class PlainScreen:
    """A line every second, and one whenever somebody goes or comes back."""

    def __init__(self, servers: Collection[str]) -> None:
        self._servers = servers
        self._last: Sight | None = None

    def show(self, sight: Sight) -> None:
        last = self._last
        if last is not None and sight.down == last.down and sight.seconds - last.seconds < LINE_SECONDS:
            return
        self._last = sight
        orders = "  ".join(f"{sight.orders.get(state, 0):4} {state}" for state in STATES if state != "cancelled")
        waiting = "  ".join(f"{service} {sight.waiting.get(service, 0):4}" for service in SERVICES)
        outbox = f"  outbox {sight.outbox:4}" if BROKER in self._servers else ""
        down = f"  DOWN: {', '.join(sight.down)}" if sight.down else ""
        print(
            f"{sight.seconds:5.1f} s  {orders}   waiting: {waiting}{outbox}   "
            f"{sight.handled_per_second:5.0f} messages/s{down}",
            flush=True,
        )

    def finish(self, outcome: Outcome, *, kept: Path | None) -> None:
        print("\n".join(summary(outcome, kept)))


class LiveScreen:
    """A table that changes."""

    def __init__(self, live: Live, servers: Collection[str]) -> None:
        self._live = live
        self._servers = servers

    def show(self, sight: Sight) -> None:
        services = Table(box=None, pad_edge=False)
        services.add_column("service", min_width=12)
        services.add_column("waiting", justify="right", min_width=8)
        services.add_column("")
        for service in SERVICES:
            services.add_row(*_row(service, sight, waiting=sight.waiting.get(service, 0)))
        for server in self._servers:
            # What has to wait when the broker is away is in the outbox.
            services.add_row(*_row(server, sight, waiting=sight.outbox if server == BROKER else None))
        orders = Table(box=None, pad_edge=False)
        for state in STATES:
            orders.add_column(state, justify="right", min_width=9)
        orders.add_row(*(str(sight.orders.get(state, 0)) for state in STATES))
        pace = f"{sight.seconds:.1f} s   {sight.handled} messages handled, {sight.handled_per_second:.0f} per second"
        self._live.update(Group(services, Text(), orders, Text(), Text(pace, style="dim"), Text()))

    def finish(self, outcome: Outcome, *, kept: Path | None) -> None:
        self._live.console.print("\n".join(summary(outcome, kept)), highlight=False, markup=False, soft_wrap=True)


def _row(who: str, sight: Sight, *, waiting: int | None) -> tuple[Text, str, Text]:
    is_down = who in sight.down
    name = Text(f"{who} {'killed' if is_down else ''}", style="bold red" if is_down else "green")
    bar = Text("█" * min(50, ((waiting or 0) + 14) // 15), style="yellow")
    return name, "" if waiting is None else str(waiting), bar


def _told(kill: Kill) -> str:
    """A kill, in a line for people."""
    meanwhile = {
        DATABASE: f"until it was back, customers were asked {kill.refused} times to try again",
        BROKER: f"until it was back, {kill.accepted} orders were taken; up to {kill.most_in_outbox} transactions "
        "waited in the outbox",
    }.get(kill.who, f"up to {kill.most_waiting} messages waited for it")
    who = f"the {kill.who}" if kill.who in (DATABASE, BROKER) else kill.who
    return f"killed {who} at {kill.at_seconds:.1f} s with {kill.orders_under_way} orders under way; {meanwhile}"


def summary(outcome: Outcome, kept: Path | None) -> list[str]:
    """The end, in a few lines for people."""
    report = outcome.report
    lines = [
        f"{report.orders} orders, {outcome.messages} messages in {outcome.seconds:.1f} s "
        f"(engine {outcome.engine}, seed {outcome.seed})",
        *(_told(kill) for kill in outcome.kills),
        f"shipped {report.shipped}, refunded {report.refunded}, cancelled {report.cancelled}; "
        f"waiting {len(report.waiting)}, lost {len(report.lost)}",
        f"charged twice {len(report.charged_twice)}, refunded twice {len(report.refunded_twice)}, "
        f"labelled twice {len(report.labelled_twice)}, labelled without payment "
        f"{len(report.labels_without_payment)}, refunded and shipped {len(report.refunded_and_shipped)}",
        f"{report.repeats_absorbed} requests to the gateway and the carrier were repeats, absorbed by their key",
        *report.contradictions[:10],
        *(f"{service} ended by itself; see its log" for service in outcome.fallen),
        *([f"It did not come to rest: {outcome.unrest}"] if outcome.unrest else []),
        "The books are in order." if outcome.is_clean else "The books are NOT in order.",
    ]
    if kept is not None:
        try_it = f": try outlast status --url sqlite:///{kept}/shop.db" if outcome.engine == "sqlite" else ""
        lines.append(f"The files are in {kept}{try_it}")
    return lines
