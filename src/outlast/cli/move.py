"""`outlast move`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import click

from outlast.cli.errors import DONE
from outlast.cli.output import is_terminal, print_json
from outlast.cli.settings import Given, options
from outlast.engines import shown
from outlast.moving import move

NAMES = {
    "parcels": "messages, timers and known ids",
    "saved": "instances",
    "stashed": "stashed messages",
    "dead": "dead letters",
    "history": "lines of history",
    "handled": "ids of handled messages",
}


@click.command("move")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@options(url=False)
def move_command(given: Given, source: str, target: str) -> int:
    """Move from a SQLite file to another engine, with all that is kept or under way.

    Stop every service and client first. Afterwards the file is of no use to outlast; the services' own tables in it
    are not touched.
    """
    shows = is_terminal() and not given.as_json

    def progress(counts: Mapping[str, int]) -> None:
        if shows:
            click.echo(f"\r{sum(counts.values())} moved", nl=False, err=True)

    counts = asyncio.run(move(source, target, progress=progress))
    if shows:
        click.echo("\r\033[K", nl=False, err=True)
    if given.as_json:
        print_json({"from": shown(source), "to": shown(target), "moved": counts})
        return DONE
    for kind, name in NAMES.items():
        click.echo(f"{counts.get(kind, 0):>9}  {name}")
    click.echo(f"All of it is at {shown(target)} now. Start the services with that URL.")
    return DONE
