"""`outlast doctor`."""

from __future__ import annotations

import click

from outlast.cli.asking import ask
from outlast.cli.errors import DONE, PROBLEMS
from outlast.cli.output import print_json
from outlast.cli.settings import Given, options
from outlast.operations import Operations


@click.command("doctor")
@options()
def doctor_command(given: Given) -> int:
    """Examine the engine: versions, settings, limits, rights and clocks. Exits with 8 if something is not good."""
    findings = ask(given, Operations.examine)
    if given.as_json:
        print_json(findings)
    else:
        for finding in findings:
            mark = click.style("ok", fg="green") if finding.is_good else click.style("! ", fg="red", bold=True)
            click.echo(f"{mark}  {finding.what}: {finding.seen}")
            if not finding.is_good:
                click.echo(f"    {finding.advice}")
    return DONE if all(finding.is_good for finding in findings) else PROBLEMS
