"""How an error becomes a text (or JSON) on stderr, and an exit code.

What only an error needs is imported when there is one: help is to answer at once.
"""

from __future__ import annotations

import click

from outlast.errors import Misuse, NotFound, OutlastError, Refused, RequestTimeout, Unavailable

DONE, FAILED, USAGE, NOT_FOUND, UNREACHABLE, SOME_FAILED, REFUSED, TIMED_OUT, PROBLEMS = range(9)
INTERRUPTED = 130

_CODES: tuple[tuple[type[Exception], int], ...] = (
    (click.UsageError, USAGE),
    (Misuse, USAGE),
    (NotFound, NOT_FOUND),
    (Unavailable, UNREACHABLE),
    (Refused, REFUSED),
    (RequestTimeout, TIMED_OUT),
)


def exit_code_of(error: Exception) -> int:
    """The documented exit code for an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def report(error: Exception, *, as_json: bool, verbose: bool) -> None:
    """Says on stderr what went wrong and what to do; the traceback only if `verbose`."""
    is_ours = isinstance(error, OutlastError | click.ClickException)
    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    if not is_ours:
        text = f"{type(error).__name__}: {text}. This was not expected. With -v it says where it comes from."
    candidates = error.candidates if isinstance(error, NotFound) else []
    kind = type(error).__name__
    if as_json:
        import json

        value = {"error": kind, "message": text, "candidates": candidates, "exit_code": exit_code_of(error)}
        click.echo(json.dumps(value), err=True)
    else:
        click.echo(click.style(f"error[{kind}]: ", fg="red", bold=True) + _laid_out(text), err=True)
        for candidate in candidates:
            click.echo(f"    {candidate}", err=True)
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"  See `{error.ctx.command_path} --help`.", err=True)
    if verbose:
        import traceback

        click.echo("".join(traceback.format_exception(error)), err=True)


def _laid_out(text: str) -> str:
    """The first sentence, which says what happened, on a line; what to do below it."""
    import textwrap

    head, dot, rest = text.partition(". ")
    if not dot:
        return text
    below = textwrap.fill(rest, 96, initial_indent="  ", subsequent_indent="  ", break_long_words=False)
    return f"{head}.\n{below}"
