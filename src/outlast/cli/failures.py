"""`outlast failures`: dead letters, for the person who decides what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from outlast.cli.asking import ask
from outlast.cli.errors import DONE, SOME_FAILED
from outlast.cli.output import clock, next_steps, pretty, print_json, print_table, say, shortest
from outlast.cli.settings import Given, options
from outlast.operations import Operations
from outlast.views import Failure, FailureDetail, Settled


@click.group("failures", invoke_without_command=True)
@options()
@click.pass_context
def failures_command(context: click.Context, given: Given) -> None:
    """Look at dead letters, send them again, or put them away. Alone, it lists those that are open."""
    if context.invoked_subcommand is None:
        _print_list(given, "open", "", "", 100)


@failures_command.command("list")
@click.option("--status", default="open", type=click.Choice(["open", "retried", "archived", "all"]))
@click.option("--service", default="", help="Only those of this service.")
@click.option("--message", default="", help="Only those of this message, by its wire name.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000))
@options()
def list_failures(
    given: Given,
    status: str,
    service: str,
    message: str,
    limit: int,
) -> None:
    """List dead letters, the oldest first."""
    _print_list(given, "" if status == "all" else status, service, message, limit)


def _print_list(given: Given, status: str, service: str, message: str, limit: int) -> None:
    found = _listed(given, status, service, message, limit)
    if given.as_json:
        print_json(found)
        return
    if not found:
        say(f"no {status} dead letters".replace("  ", " "))
        return
    short = shortest([failure.id for failure in found])
    print_table(
        ["id", "at", "service", "message", "key", "tries", "is", "reason", "error"],
        [
            [short[f.id], f.at, f.service, f.message, f.key, f.attempts, f.status, f.reason, _line_of(f.error)]
            for f in found
        ],
    )
    name = short[found[0].id]
    next_steps(f"outlast failures show {name}", f"outlast failures retry {name}", quiet=given.quiet)


def _listed(given: Given, status: str, service: str, message: str, limit: int) -> list[Failure]:
    async def question(operations: Operations) -> list[Failure]:
        return await operations.failures(status=status, service=service, message=message, limit=limit)

    return ask(given, question)


@failures_command.command("show")
@click.argument("id")
@options()
def show_failure(given: Given, id: str) -> None:
    """Show a dead letter: by its ID, the beginning of it, or its business key."""

    async def question(operations: Operations) -> FailureDetail:
        return await operations.failure(id)

    failure = ask(given, question)
    if given.as_json:
        print_json(failure)
        return
    title = f"{failure.message} in {failure.service}: {failure.reason}"
    click.echo(click.style(title, bold=True))
    for name, value in (
        ("id", failure.id),
        ("status", failure.status),
        ("set aside", clock(failure.at)),
        ("error", failure.error),
        ("attempts", failure.attempts),
        ("key", failure.key),
        ("message id", failure.message_id),
        ("sent by", failure.sender),
        ("conversation", failure.conversation),
        ("on", " ".join(part for part in (failure.host, failure.version) if part)),
    ):
        if value:
            click.echo(f"{name:<13} {value}")
    click.echo(pretty(failure.body))
    if failure.traceback:
        click.echo(failure.traceback.rstrip())
    if failure.status == "open":
        name = failure.id
        next_steps(f"outlast failures retry {name}", f"outlast failures archive {name}", quiet=given.quiet)


def _settles(function: Any) -> Any:
    """The arguments that retry and archive have in common."""
    for option in (
        click.argument("ids", nargs=-1, metavar="[ID]..."),
        click.option("--all", "everything", is_flag=True, help="All open ones, or those the next two options select."),
        click.option("--service", default="", help="With --all: only those of this service."),
        click.option("--message", default="", help="With --all: only those of this message, by its wire name."),
        click.option("--dry-run", is_flag=True, help="Only say what would be done."),
        click.option("--yes", is_flag=True, help="Do not ask."),
        options(),
    ):
        function = option(function)
    return function


@failures_command.command("retry")
@_settles
def retry_failures(given: Given, **wanted: Any) -> int:
    """Send the messages of dead letters again, each once."""
    return _settle("retry", given, Wanted(**wanted))


@failures_command.command("archive")
@_settles
def archive_failures(given: Given, **wanted: Any) -> int:
    """Put dead letters away for good; their messages are not sent."""
    return _settle("archive", given, Wanted(**wanted))


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What retry and archive were asked for."""

    ids: tuple[str, ...]
    everything: bool
    service: str
    message: str
    dry_run: bool
    yes: bool


def _settle(verb: str, given: Given, wanted: Wanted) -> int:
    if bool(wanted.ids) == wanted.everything or ((wanted.service or wanted.message) and not wanted.everything):
        raise click.UsageError(f"{verb} needs either ids, or --all (with --service or --message to restrict it).")
    names = list(wanted.ids)
    if wanted.everything:
        chosen = _listed(given, "open", wanted.service, wanted.message, 10_000)
        names = [failure.id for failure in chosen]
        _announce(verb, chosen)
    if wanted.dry_run:
        if given.as_json:
            print_json({"status": "dry run", "settled": [], "skipped": names})
        return DONE
    if wanted.everything and names and not wanted.yes:
        if given.as_json:
            raise click.UsageError("with --json nothing is asked. Add --yes if it is meant, or --dry-run to look.")
        click.confirm("Continue?", abort=True, err=True)

    async def question(operations: Operations) -> Settled:
        return await (operations.retry(names) if verb == "retry" else operations.archive(names))

    settled = ask(given, question)
    if given.as_json:
        print_json(settled)
    else:
        click.echo(f"{settled.status} {len(settled.settled)}")
        for id in settled.skipped:
            say(f"{id} was settled before; nothing was done")
    return SOME_FAILED if settled.skipped else DONE


def _announce(verb: str, chosen: list[Failure]) -> None:
    if not chosen:
        say(f"nothing to {verb}")
        return
    say(f"would {verb} {len(chosen)} dead letters, the oldest from {clock(chosen[0].at)}:")
    counts: dict[tuple[str, str], int] = {}
    for failure in chosen:
        counts[failure.service, failure.message] = counts.get((failure.service, failure.message), 0) + 1
    for (service, message), count in counts.items():
        say(f"  {count} {message} in {service}")


def _line_of(error: str) -> str:
    return error.splitlines()[0][:100] if error else ""
