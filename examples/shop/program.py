"""What makes a service a program: where its files are, and a worker until a signal comes."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from outlast import Service, Worker, run
from outlast.signals import GaveUp, Interrupted, Retrying, Signal


def shop_directory() -> Path:
    """Where the shop's files are: the directory in SHOP_DIRECTORY, or the current one."""
    return Path(os.environ.get("SHOP_DIRECTORY", "."))


def shop_file(directory: Path) -> Path:
    """The file that the services share: messages, state, and every service's own tables."""
    return directory / "shop.db"


def url_of(directory: Path) -> str:
    """What outlast calls that file."""
    return f"sqlite:///{shop_file(directory)}"


def run_program(service: Service) -> None:
    """Runs the service until SIGTERM or SIGINT."""
    asyncio.run(run(Worker([service], url=url_of(shop_directory()), observe=_report)))


def _report(signal: Signal) -> None:
    if isinstance(signal, GaveUp | Interrupted | Retrying):
        print(signal, file=sys.stderr, flush=True)
