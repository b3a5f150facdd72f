"""`outlast run`: services at work in this process, or in several that are looked after."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta

import click
import msgspec

from outlast.adapters.system import SystemWorld
from outlast.cli.loading import load_services
from outlast.cli.output import instant, say
from outlast.cli.settings import Given, apps_of, options, url_of
from outlast.cli.supervisor import SUPERVISOR, Supervisor
from outlast.signals import (
    GaveUp,
    Interrupted,
    Overruled,
    Recovered,
    Retrying,
    Signal,
    Started,
    Stopped,
    Troubled,
    Turned,
    Warned,
)
from outlast.worker import CONCURRENCY, GRACE, Worker, run


@click.command("run")
@click.argument("targets", nargs=-1, metavar="[MODULE[:SERVICE]]...")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 256), help="Processes.")
@click.option(
    "--concurrency",
    default=CONCURRENCY,
    show_default=True,
    type=click.IntRange(1),
    help="Handlers that wait at the same time, for each service and process.",
)
@click.option(
    "--grace",
    default=GRACE.total_seconds(),
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds that running handlers are given to end after SIGTERM.",
)
@options()
def run_command(given: Given, targets: Sequence[str], workers: int, concurrency: int, grace: float) -> int:
    """Run services until SIGTERM or SIGINT; a second signal stops at once.

    A target is a module (all services it has) or module:service. Without one, those of OUTLAST_APP or of
    pyproject.toml are run.
    """
    apps, url = apps_of(targets), url_of(given.url)
    if workers > 1:
        arguments = [*apps, "--url", url, "--concurrency", str(concurrency), "--grace", str(grace)]
        return asyncio.run(Supervisor(_child(arguments, given), count=workers, say=say).run())
    worker = Worker(
        load_services(apps),
        url=url,
        concurrency=concurrency,
        grace=timedelta(seconds=grace),
        observe=json_lines if given.as_json else remarks,
    )
    asyncio.run(_run(worker, url, given))
    return 0


def _child(arguments: Sequence[str], given: Given) -> list[str]:
    return [sys.executable, "-m", "outlast.cli", "run", *arguments, *(["--json"] if given.as_json else [])]


async def _run(worker: Worker, url: str, given: Given) -> None:
    def ready() -> None:
        if not given.as_json:
            say(f"{', '.join(service.name for service in worker.services)} ready on {url}, process {os.getpid()}")

    watching = asyncio.create_task(_stop_without_supervisor())
    try:
        await run(worker, ready=ready)
    finally:
        watching.cancel()


async def _stop_without_supervisor() -> None:
    """Ends this process in good order when the one that supervises it is gone."""
    supervisor = os.environ.get(SUPERVISOR)
    if supervisor is None:
        return
    while os.getppid() == int(supervisor):  # noqa: ASYNC110 - the kernel tells nobody of a parent's end
        await asyncio.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def remarks(signal: Signal) -> None:
    """What a person at the terminal, or a log, wants to know; on stderr."""
    match signal:
        case Retrying(service, type, id, attempt, error, delay):
            when = f"in {delay:.1f} s" if delay else "at once"
            text = f"{service}: attempt {attempt} at {type} {id} failed, again {when}: {kind_of(error)}: {error}"
        case GaveUp(service, type, id, reason):
            text = f"{service}: {type} {id} is a dead letter now: {reason}"
        case Interrupted(service, error):
            text = f"{service}: interrupted, and going on as soon as possible: {error}"
        case Warned(warning):
            text = f"warning: {warning}"
        case Troubled(trouble):
            text = f"trouble: {trouble}"
        case Recovered():
            text = "the trouble is over"
        case Stopped(service, released):
            text = f"{service}: stopped" + (f", messages given back: {released}" if released else "")
        case Started() | Turned() | Overruled():
            return
    say(f"{instant(SystemWorld().now())}  {text}")


def kind_of(value: object) -> str:
    """The name of an error's or a signal's class."""
    return type(value).__name__


def json_lines(signal: Signal) -> None:
    """Every signal but the turns themselves, as a JSON object on a line of stdout."""
    if isinstance(signal, Turned):
        return
    fields = {name: getattr(signal, name) for name in type(signal).__slots__}
    if isinstance(error := fields.get("error"), BaseException):
        fields["error"] = f"{kind_of(error)}: {error}"
    value = {"signal": kind_of(signal), "at": SystemWorld().now(), **fields}
    click.echo(msgspec.json.encode(value).decode())
    sys.stdout.flush()
