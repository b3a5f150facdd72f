"""The `outlast` command: which commands there are, and what their exit codes mean.

A command's module is imported when the command is run, so that help and completion answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from outlast.cli.errors import DONE, INTERRUPTED, USAGE, exit_code_of, report

COMMANDS = {
    "new": ("new", "Make a project: three services, a workflow, tests and a README."),
    "dev": ("dev", "Run all services in one process; start again when a file is saved."),
    "run": ("run", "Run services until SIGTERM."),
    "send": ("send", "Send a command, or publish an event."),
    "status": ("status", "Show services, what waits for them, and what needs a person."),
    "list": ("instances", "List workflow instances, the latest first."),
    "show": ("instances", "Show all that is known under a business key."),
    "follow": ("instances", "Print what happens under a business key, as it happens."),
    "failures": ("failures", "Look at dead letters, send them again, or put them away."),
    "graph": ("flow", "Draw the message flow as Mermaid text."),
    "check": ("flow", "Look for messages without a receiver before anything runs."),
    "demo": ("demo", "Run the example shop through failures and show that nothing is lost."),
}


class LazyGroup(click.Group):
    """Knows its commands by name, and imports the one that is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"outlast.cli.{COMMANDS[cmd_name][0]}"), f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(
    cls=LazyGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 unexpected error, 2 wrong usage, 3 not found or ambiguous, 4 engine not "
    "reachable, 5 finished but some items failed, 6 refused, 7 time ran out, 8 problems found, 130 interrupted.",
)
@click.version_option(package_name="outlast", message="outlast %(version)s")
def outlast() -> None:
    """Workflows that outlast failures.

    The engine is named by --url, else by OUTLAST_URL, else by url in [tool.outlast] of pyproject.toml.
    Every command prints JSON with --json.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits with a documented code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    # As in `python -m`: what lies in the working directory can be named.
    sys.path.insert(0, os.getcwd())
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str]) -> int:
    try:
        color = False if os.environ.get("NO_COLOR") else None
        code = outlast.main(list(arguments), prog_name="outlast", standalone_mode=False, color=color)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return USAGE
    except Exception as error:  # the edge of the program: everything becomes a text and an exit code
        report(error, as_json="--json" in arguments, verbose="-v" in arguments or "--verbose" in arguments)
        return exit_code_of(error)
    return code if isinstance(code, int) else DONE
