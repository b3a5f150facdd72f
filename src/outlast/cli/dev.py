"""`outlast dev`: all services in one process, started again whenever a file is saved."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from outlast.cli.errors import DONE, INTERRUPTED
from outlast.cli.output import say
from outlast.cli.settings import Given, apps_of, options, url_of
from outlast.cli.supervisor import SUPERVISOR

LOOK_EVERY = 0.3
"""Seconds between two looks at the files."""
GRACE = 3.0
"""Seconds that handlers are given before a restart; what does not end is handed over again."""
SKIPPED = frozenset({"__pycache__", "node_modules", "venv", "site-packages"})

Snapshot = dict[str, int]


@click.command("dev")
@click.argument("targets", nargs=-1, metavar="[MODULE[:SERVICE]]...")
@options()
def dev_command(given: Given, targets: Sequence[str]) -> int:
    """Run all services of the given modules in one process, and again when a Python file here is saved.

    Without a configured engine the file outlast.db is used.
    """
    apps, url = apps_of(targets), url_of(given.url, default="sqlite:///outlast.db")
    command = [sys.executable, "-m", "outlast.cli", "run", *apps, "--url", url, "--grace", str(GRACE)]
    command += ["--json"] if given.as_json else []
    # Noted, and not raised: an exception that comes while an object is being deleted would be lost.
    ended: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: ended.append(number))
    say(f"engine {url}, services of {', '.join(apps)}; restarts when a file is saved, Ctrl-C stops")
    files = look(Path.cwd())
    child = _start(command)
    try:
        while not ended:
            time.sleep(LOOK_EVERY)
            now = look(Path.cwd())
            changed = sorted(name for name in files.keys() | now.keys() if files.get(name) != now.get(name))
            if changed and not ended:
                files = now
                say(f"{', '.join(changed[:3])}{' and others' if len(changed) > 3 else ''} changed; starting again")
                _stop(child)
                child = _start(command)
    finally:
        _stop(child)
    return INTERRUPTED if signal.SIGINT in ended else DONE


def look(directory: Path) -> Snapshot:
    """The Python files below a directory with the times of their last change, hidden folders left out."""
    found: Snapshot = {}
    for folder, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in SKIPPED]
        for name in files:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                try:
                    found[os.path.relpath(path, directory)] = os.stat(path).st_mtime_ns
                except FileNotFoundError:  # editors replace a file by renaming another one
                    continue
    return found


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    # A session of its own, or Ctrl-C would reach it twice: from the terminal and from here.
    env = {**os.environ, SUPERVISOR: str(os.getpid())}
    return subprocess.Popen(command, start_new_session=True, env=env)


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(GRACE + 2)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
