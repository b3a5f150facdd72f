"""What is given by an option, else by the environment, else by [tool.outlast] in pyproject.toml."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce, wraps
from pathlib import Path
from typing import Any

import click

from outlast.errors import BadUrl, Misuse

_url = click.option("--url", metavar="URL", help="The engine, such as sqlite:///shop.db; else OUTLAST_URL.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_quiet = click.option("-q", "--quiet", is_flag=True, help="Leave out hints.")
_verbose = click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
_apps = click.option(
    "--app", "apps", metavar="MODULE[:SERVICE]", multiple=True, help="Where services are; else OUTLAST_APP."
)


@dataclass(frozen=True, slots=True)
class Given:
    """The options that commands have in common, as they were given."""

    url: str | None
    as_json: bool
    quiet: bool
    apps: tuple[str, ...]


def options(*, url: bool = True, apps: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds the common options to a command, which is called with them as `given`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def called(
            *args: Any,
            url: str | None = None,
            as_json: bool = False,
            quiet: bool = False,
            verbose: bool = False,
            apps: tuple[str, ...] = (),
            **others: Any,
        ) -> Any:
            return command(*args, given=Given(url, as_json, quiet, apps), **others)

        chosen = [_json, _quiet, _verbose] + [_url] * url + [_apps] * apps
        return reduce(lambda decorated, option: option(decorated), chosen, called)

    return decorate


def configured(directory: Path | None = None) -> dict[str, Any]:
    """[tool.outlast] of the pyproject.toml in the working directory; empty if there is none."""
    path = (directory or Path.cwd()) / "pyproject.toml"
    if not path.exists():
        return {}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
        raise Misuse(f"reading {path} failed: {error}. Mend the file, or give --url and --app.") from error
    found = document.get("tool", {}).get("outlast", {})
    return found if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def url_of(given: str | None, *, default: str = "") -> str:
    """The engine's URL. Raises `BadUrl` when nothing names one."""
    url = given or os.environ.get("OUTLAST_URL") or configured().get("url") or default
    if not url or not isinstance(url, str):
        raise BadUrl(
            "no engine was named. Give --url sqlite:///file.db, set OUTLAST_URL, or write url = "
            '"sqlite:///file.db" under [tool.outlast] in the pyproject.toml of this directory.'
        )
    return url


def apps_of(given: Sequence[str]) -> list[str]:
    """Where services are. Raises `Misuse` when nothing says so."""
    if given:
        return list(given)
    found = os.environ.get("OUTLAST_APP", "").split() or configured().get("app") or []
    apps = [found] if isinstance(found, str) else found
    if not apps or not all(isinstance(app, str) for app in apps):
        raise Misuse(
            "no services were named. Give a module (such as shop, or shop.payment:payment), set OUTLAST_APP, or "
            'write app = "shop" under [tool.outlast] in the pyproject.toml of this directory.'
        )
    return list(apps)
