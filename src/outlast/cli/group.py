"""The group of all commands, as Click knows it. A command's module is imported when the command is run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module

import click

from outlast.cli.commands import ABOUT, COMMANDS, EXIT_CODES
from outlast.cli.errors import DONE, INTERRUPTED, USAGE, exit_code_of, report


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
    help=ABOUT,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)
@click.version_option(package_name="outlast", message="outlast %(version)s")
def outlast() -> None:
    pass


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code; every error becomes a text on stderr."""
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
