"""`outlast list`, `outlast show` and `outlast follow`: workflow instances and what happened to them."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import click

from outlast.cli.asking import ask
from outlast.cli.errors import DONE, TIMED_OUT
from outlast.cli.output import (
    clock,
    instant,
    is_terminal,
    next_steps,
    pretty,
    print_json,
    print_table,
    say,
    span,
)
from outlast.cli.settings import Given, options
from outlast.operations import Operations
from outlast.views import InstanceView, Line, Pending, Story


@click.command("list")
@click.option("--workflow", default="", help="Only this workflow.")
@click.option("--running", is_flag=True, help="Only those that are not completed.")
@click.option("--completed", is_flag=True, help="Only those that are completed.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@options()
def list_command(
    given: Given,
    workflow: str,
    running: bool,
    completed: bool,
    limit: int,
) -> None:
    """List workflow instances, the latest first."""
    if running and completed:
        raise click.UsageError("--running and --completed exclude each other. Leave both out to see all.")
    done = True if completed else False if running else None

    async def question(operations: Operations) -> list[InstanceView]:
        return await operations.instances(workflow=workflow, done=done, limit=limit)

    instances = ask(given, question)
    if given.as_json:
        print_json(instances)
        return
    if not instances:
        say("no instances")
        return
    print_table(
        ["workflow", "key", "is", "started", "changed", "turns", "next timer"],
        [[i.workflow, i.key, i.status, i.started_at, i.changed_at, i.version, _next_timer(i)] for i in instances],
    )
    next_steps(f"outlast show {instances[0].key}", quiet=given.quiet)


def _next_timer(instance: InstanceView) -> str:
    first = min(instance.timers, key=lambda timer: timer.due, default=None)
    return f"{first.name} {clock(first.due)}" if first is not None else ""


@click.command("show")
@click.argument("key")
@options()
def show_command(given: Given, key: str) -> None:
    """Show all that is known under a business KEY (or a conversation's id)."""

    async def question(operations: Operations) -> tuple[Story, datetime]:
        return await operations.show(key), operations.world.now()

    story, now = ask(given, question)
    if given.as_json:
        print_json(story)
        return
    for instance in story.instances:
        _print_instance(instance, now)
    if story.timeline:
        rows = [_cells(line) for line in story.timeline]
        print_table(["at", "message", "from", "to", "became", "after", "note"], rows)
    for item in story.pending:
        click.echo(_pending(item, now))
    for failure in story.failures:
        click.echo(f"{failure.message} is a dead letter in {failure.service}: {failure.reason}")
    hints = [f"outlast failures retry {failure.id}" for failure in story.failures[:1]]
    next_steps(*hints, f"outlast follow {key}", quiet=given.quiet)


def _print_instance(instance: InstanceView, now: datetime) -> None:
    is_done = instance.status == "completed"
    title = click.style(f"{instance.workflow} {instance.key}", bold=True)
    length = span((instance.changed_at if is_done else now) - instance.started_at)
    when = f"took {length}" if is_done else f"{length} ago"
    click.echo(f"{title}   {instance.status}   started {clock(instance.started_at)}, {when}")
    for timer in instance.timers:
        click.echo(f"timer {timer.name} at {clock(timer.due)}")
    click.echo(pretty(instance.state))
    click.echo()


def _cells(line: Line) -> list[object]:
    receiver = f"{line.service} ({line.workflow} {line.key})" if line.workflow else line.service
    took = span(line.at - line.sent_at) if line.sent_at is not None else ""
    return [instant(line.at), line.message, line.sender, receiver, line.outcome, took, line.note]


def _pending(item: Pending, now: datetime) -> str:
    due = clock(item.due) if item.due is not None else ""
    match item.state:
        case "timer":
            return f"{item.message} is a timer, due {due}"
        case "dated":
            retry = f" (attempt {item.attempt})" if item.attempt > 1 else ""
            return f"{item.message} goes to {item.service or 'its subscribers'} at {due}{retry}"
        case "stashed":
            return f"{item.message} waits in {item.service} for its instance to begin, until {due}"
        case "claimed":
            return f"{item.message} is being handled by {item.service}, sent {span(now - item.sent_at)} ago"
        case _:
            down = "" if item.workers else ", which is down; nothing is lost"
            return f"{item.message} has waited {span(now - item.sent_at)} for {item.service}{down}"


@click.command("follow")
@click.argument("key")
@click.option("--timeout", type=click.FloatRange(0), help="Seconds after which to stop, with exit code 7.")
@options()
def follow_command(given: Given, key: str, timeout: float | None) -> int:
    """Print what happens under a business KEY, as it happens, until it is completed.

    With --json every line is one JSON object.
    """

    async def question(operations: Operations) -> int:
        lines = operations.follow(key)
        try:
            async with asyncio.timeout(timeout):
                async for line in lines:
                    print_json(line) if given.as_json else _print_line(line)
        except TimeoutError:
            say(f"{key} was not completed within {span(timedelta(seconds=timeout or 0))}")
            return TIMED_OUT
        if not given.as_json:
            for instance in await operations.instances(key=key):
                say(f"{instance.workflow} {key} completed in {span(instance.changed_at - instance.started_at)}")
        return DONE

    if not given.as_json and not given.quiet and is_terminal():
        say("Ctrl-C to stop")
    return ask(given, question)


def _print_line(line: Line) -> None:
    at, message, sender, receiver, outcome, took, note = map(str, _cells(line))
    tail = f"   {note}" if note else ""
    click.echo(f"{at}  {message:<24} {sender:<12} -> {receiver:<36} {outcome:<12} {took}{tail}")
