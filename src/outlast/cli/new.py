"""`outlast new`: a project that runs and is tested, to begin with."""

from __future__ import annotations

import keyword
from importlib.util import find_spec
from pathlib import Path

import click

from outlast.cli.output import next_steps, print_json
from outlast.cli.settings import Given, options
from outlast.errors import Misuse, Refused

TEMPLATE = Path(__file__).with_name("template")
PLACEHOLDER = "__project__"


@click.command("new")
@click.argument("name")
@options(url=False)
def new_command(given: Given, name: str) -> None:
    """Make a project in the directory NAME: three services, a workflow, tests and a README."""
    written = write_project(name, Path.cwd())
    if given.as_json:
        print_json({"directory": name, "files": written})
        return
    click.echo(f"created {name}/")
    for path in written:
        click.echo(f"  {path}")
    next_steps(f"cd {name}", "outlast dev", "pytest", quiet=given.quiet)


def write_project(name: str, parent: Path) -> list[str]:
    """Writes the files of the project and returns their paths in it. Raises `Misuse` or `Refused`."""
    if not name.isidentifier() or not name.isascii() or name != name.lower() or keyword.iskeyword(name):
        raise Misuse(
            f"a project cannot be named {name!r}, since its package must have that name too. Use small letters, "
            "digits and underscores, as in outlast new shop."
        )
    directory = parent / name
    if directory.exists():
        raise Refused(f"{name!r} was not made: {directory} exists already. Choose another name, or move it away.")
    if name == "tests" or find_spec(name) is not None:
        raise Misuse(
            f"a project cannot be named {name!r}: a module of that name is installed, and one would hide the "
            "other. Choose another name."
        )
    written: list[str] = []
    for source in sorted(TEMPLATE.rglob("*.template")):
        path = _place(source.relative_to(TEMPLATE), name)
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text(encoding="utf-8").replace(PLACEHOLDER, name), encoding="utf-8")
        written.append(path.as_posix())
    return written


def _place(source: Path, name: str) -> Path:
    parts = [name if part == "project" else part for part in source.parts]
    last = parts[-1].removesuffix(".template")
    return Path(*parts[:-1], ".gitignore" if last == "gitignore" else last)
