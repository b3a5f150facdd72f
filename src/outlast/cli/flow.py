"""`outlast graph` and `outlast check`: the message flow, drawn and checked without running anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import click

from outlast.cli.errors import DONE, PROBLEMS
from outlast.cli.loading import load_services
from outlast.cli.output import print_json
from outlast.cli.settings import Given, apps_of, options
from outlast.flow import OUTSIDE, Edge, Node, flow_of, problems_of

ARROWS = {"command": "-->", "event": "-.->", "failure": "-.->", "timer": "-.->"}


@click.command("graph")
@click.argument("targets", nargs=-1, metavar="[MODULE[:SERVICE]]...")
@options(url=False)
def graph_command(given: Given, targets: Sequence[str]) -> None:
    """Draw the message flow as Mermaid text: commands as full lines, all else as dotted ones."""
    edges = flow_of(load_services(apps_of(targets))).edges()
    if given.as_json:
        print_json({"edges": [asdict(edge) for edge in edges]})
    else:
        click.echo(mermaid(edges))


def mermaid(edges: Sequence[Edge]) -> str:
    """A Mermaid flowchart of these edges."""
    nodes = dict.fromkeys(node for edge in edges for node in (edge.source, edge.target))
    names = {node: f"n{number}" for number, node in enumerate(nodes)}
    lines = ["flowchart LR"]
    lines += [f"    {names[node]}{_shape(node)}" for node in nodes]
    for edge in edges:
        label = f"⏰ {edge.message}" if edge.kind == "timer" else edge.message
        lines.append(f'    {names[edge.source]} {ARROWS[edge.kind]}|"{label}"| {names[edge.target]}')
    return "\n".join(lines)


def _shape(node: Node | None) -> str:
    if node is None:
        return f"(({OUTSIDE}))"
    return f'[["{node.label}"]]' if node.workflow else f'["{node.label}"]'


@click.command("check")
@click.argument("targets", nargs=-1, metavar="[MODULE[:SERVICE]]...")
@click.option("--strict", is_flag=True, help="Warnings too lead to exit code 8.")
@options(url=False)
def check_command(given: Given, targets: Sequence[str], strict: bool) -> int:
    """Look for commands that nobody handles, events that nobody gets, and messages without a key.

    Exits with 8 if there are errors. What looks wrong but may be meant is a warning.
    """
    services = load_services(apps_of(targets))
    problems = problems_of(services)
    if given.as_json:
        print_json([asdict(problem) for problem in problems])
    else:
        for problem in problems:
            mark = click.style(f"{problem.severity}: ", fg="red" if problem.severity == "error" else "yellow")
            click.echo(mark + problem.text)
        if not problems:
            click.echo(f"{len(services)} services checked; every message has a receiver")
    is_bad = any(strict or problem.severity == "error" for problem in problems)
    return PROBLEMS if is_bad else DONE
