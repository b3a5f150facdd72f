"""Data on stdout, everything else on stderr; tables and colours only for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import click


def is_terminal() -> bool:
    """Whether stdout is read by a person."""
    return sys.stdout.isatty()


def print_json(value: object) -> None:
    """One JSON value on stdout, on one line; indented when a person reads it."""
    import msgspec

    text = msgspec.json.encode(value)
    if is_terminal():
        text = msgspec.json.format(text, indent=2)
    click.echo(text.decode())
    sys.stdout.flush()


def say(text: str) -> None:
    """A remark, on stderr."""
    click.echo(text, err=True)


def next_steps(*commands: str, quiet: bool = False) -> None:
    """What one may want to do next; only said to a person."""
    if commands and not quiet and is_terminal() and sys.stderr.isatty():
        say(click.style("Next: ", bold=True) + "   ".join(commands))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table. In a pipe its columns are as wide as they must be, so that nothing is cut off."""
    texts = [[_text(cell) for cell in row] for row in rows]
    if is_terminal():
        _print_rich(columns, texts)
        return
    widths = [max(len(line[i]) for line in [columns, *texts]) for i in range(len(columns))]
    for line in [[name.upper() for name in columns], *texts]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name.upper(), overflow="fold")
    for row in rows:
        # As Text, because square brackets in a user's key or error are no markup.
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    Console().print(table)


STYLES = {
    "completed": "green",
    "handled": "green",
    "started": "green",
    "up": "green",
    "down": "red bold",
    "failed": "yellow",
    "dead letter": "red bold",
    "stashed": "yellow",
    "late": "dim",
    "stale timer": "dim",
    "second start": "dim",
}


def _text(cell: object) -> str:
    if isinstance(cell, datetime):
        return clock(cell)
    return "" if cell is None else " ".join(str(cell).split())


def clock(at: datetime) -> str:
    """A point in time in the reader's own time zone, to the second."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def instant(at: datetime) -> str:
    """A time of day in the reader's own time zone, to the millisecond."""
    return at.astimezone().strftime("%H:%M:%S.%f")[:-3]


def span(duration: timedelta) -> str:
    """A length of time in two units at most: `4 ms`, `1.2 s`, `3 m 20 s`, `2 d 3 h`."""
    seconds = max(duration.total_seconds(), 0.0)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    parts: list[str] = []
    rest = int(seconds)
    for unit, size in units:
        count, rest = divmod(rest, size)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def shortest(ids: Sequence[str], least: int = 13) -> dict[str, str]:
    """Each id cut to the shortest beginning that means only it among these."""
    short: dict[str, str] = {}
    for id in ids:
        length = least
        while length < len(id) and sum(other.startswith(id[:length]) for other in ids) > 1:
            length += 1
        short[id] = id[:length]
    return short


def pretty(raw: Any) -> str:
    """JSON, indented, for people."""
    import msgspec

    return msgspec.json.format(bytes(raw), indent=2).decode()
