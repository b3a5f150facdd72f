"""What makes a service a program: where its files are, its tables, and a worker until a signal comes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from contextlib import closing
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


def create_tables(directory: Path, tables: str) -> None:
    """Makes the tables that are missing. Several processes may do so at once."""
    with closing(sqlite3.connect(shop_file(directory), timeout=30)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(tables)


def run_program(service: Service, *, tables: str) -> None:
    """Makes the service's tables and runs it until SIGTERM or SIGINT."""
    directory = shop_directory()
    create_tables(directory, tables)
    worker = Worker([service], url=url_of(directory), observe=_report)
    asyncio.run(run(worker))


def _report(signal: Signal) -> None:
    if isinstance(signal, GaveUp | Interrupted | Retrying):
        print(signal, file=sys.stderr, flush=True)
