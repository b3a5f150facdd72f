"""`outlast status`."""

from __future__ import annotations

import click

from outlast.cli.asking import ask
from outlast.cli.errors import DONE, PROBLEMS
from outlast.cli.output import next_steps, print_json, print_table, span
from outlast.cli.settings import Given, options
from outlast.operations import Operations
from outlast.ports import OUTBOX, QueueStatus
from outlast.views import Status


@click.command("status")
@click.option("--check", is_flag=True, help="Exit with 8 if something needs a person.")
@options()
def status_command(given: Given, check: bool) -> int:
    """Show services, what waits for them, and what needs a person."""
    status = ask(given, Operations.status)
    if given.as_json:
        print_json(status)
    else:
        _print(status, given.quiet)
    return PROBLEMS if check and status.problems else DONE


def _print(status: Status, quiet: bool) -> None:
    for problem in status.problems:
        click.echo(click.style("! ", fg="red", bold=True) + problem)
    if not status.problems:
        click.echo("everything is well" if status.services else "no service has ever run here")
    if status.services:
        click.echo()
        print_table(
            ["service", "is", "workers", "waiting", "oldest", "claimed", "dated", "dead"],
            [_row(queue, status) for queue in status.services],
        )
    if status.workflows:
        click.echo()
        print_table(
            ["workflow", "service", "running", "completed"],
            [[flow.workflow, flow.service, flow.running, flow.done] for flow in status.workflows],
        )
    hints = ["outlast failures"] if any(queue.dead for queue in status.services) else []
    next_steps(*hints, "outlast list", quiet=quiet)


def _row(queue: QueueStatus, status: Status) -> list[object]:
    return [
        queue.service,
        "" if queue.service == OUTBOX else "up" if queue.workers else "down",
        queue.workers,
        queue.waiting,
        span(status.at - queue.oldest) if queue.oldest is not None else "",
        queue.claimed,
        queue.dated,
        queue.dead,
    ]
