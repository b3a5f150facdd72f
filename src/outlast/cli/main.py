"""The `outlast` command: help at once, and everything else handed on.

Only Python itself is imported here, so that help answers at once; all else is, when a command is run.
"""

from __future__ import annotations

import os
import sys

from outlast.cli.commands import ABOUT, COMMANDS, EXIT_CODES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits with a documented code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments in ([], ["-h"], ["--help"]):
        print(overview())
        sys.exit(0 if arguments else 2)
    from outlast.cli.group import run

    # As in `python -m`: what lies in the working directory can be named.
    sys.path.insert(0, os.getcwd())
    sys.exit(run(arguments))


def overview() -> str:
    """What `outlast --help` says."""
    commands = "\n".join(f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items())
    codes = EXIT_CODES.replace("not reachable, ", "not reachable,\n")
    return f"Usage: outlast [OPTIONS] COMMAND [ARGS]...\n\n{ABOUT}\n\nCommands:\n{commands}\n\n{codes}"
