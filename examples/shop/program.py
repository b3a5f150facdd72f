"""What makes a service a program: where its files are, and a worker until a signal comes."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from outlast import Service, Worker, run
from outlast.errors import Unavailable
from outlast.signals import GaveUp, Interrupted, Retrying, Signal

TRY_AGAIN = 75
"""The exit code that asks for another start later, as sendmail and many others have it (EX_TEMPFAIL)."""


def shop_directory() -> Path:
    """Where the shop's files are: the directory in SHOP_DIRECTORY, or the current one."""
    return Path(os.environ.get("SHOP_DIRECTORY", "."))


def outside_directory() -> Path:
    """Where the gateway and the carrier have their ledgers: SHOP_OUTSIDE, since their disks are not ours."""
    return Path(os.environ.get("SHOP_OUTSIDE") or shop_directory())


def shop_file(directory: Path) -> Path:
    """The file that the services share unless SHOP_URL says otherwise: messages, state, every service's own tables."""
    return directory / "shop.db"


def has_a_shop(directory: Path) -> bool:
    """Whether a shop was run here before, be it in a file or with servers."""
    return shop_file(directory).exists() or (directory / "ordering.log").exists()


def url_of(directory: Path) -> str:
    """What outlast calls that file."""
    return f"sqlite:///{shop_file(directory)}"


def shop_url() -> str:
    """Where the shop's messages and tables are: SHOP_URL, which may name any engine, or the file in its directory."""
    return os.environ.get("SHOP_URL") or url_of(shop_directory())


def run_program(service: Service) -> None:
    """Runs the service until SIGTERM or SIGINT. Exits with `TRY_AGAIN` if it cannot begin at the moment."""
    is_ready = False

    def ready() -> None:
        nonlocal is_ready
        is_ready = True

    try:
        asyncio.run(run(Worker([service], url=shop_url(), observe=_report), ready=ready))
    except Unavailable as error:
        if is_ready:
            raise
        print(error, file=sys.stderr, flush=True)
        raise SystemExit(TRY_AGAIN) from None


def _report(signal: Signal) -> None:
    if isinstance(signal, GaveUp | Interrupted | Retrying):
        print(signal, file=sys.stderr, flush=True)
