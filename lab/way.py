"""What is asked of a way to build the shop: which programs it has, and where its books are. The rest is its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lab.business import SERVICES


@dataclass(frozen=True)
class Settings:
    """What a program is told."""

    directory: Path
    """For this run alone: files of trouble, files of readiness, logs."""
    ports: Mapping[str, int]
    """By program."""
    books: Mapping[str, str]
    """The URL of the database of each service."""
    engine: str = ""
    """The URL of outlast's engine, for those who use it."""

    def url_of(self, program: str) -> str:
        """Where this program listens."""
        return f"http://127.0.0.1:{self.ports[program]}"

    def ready_file(self, program: str) -> Path:
        """Holds the id of the process that is ready."""
        return self.directory / f"{program}.ready"

    def log_file(self, program: str) -> Path:
        return self.directory / f"{program}.log"

    def save(self) -> None:
        (self.directory / "settings.json").write_bytes(msgspec.json.encode(self, enc_hook=str))


def saved_settings(directory: Path) -> Settings:
    """What was saved in this directory."""
    saved = (directory / "settings.json").read_bytes()
    return msgspec.json.decode(saved, type=Settings, dec_hook=lambda kind, value: kind(value))


@dataclass(frozen=True)
class Way:
    """One way to build the shop. Its first program takes POST /orders."""

    programs: Mapping[str, Callable[[Settings], None]]
    """Runs each of its processes, for ever."""
    databases: Mapping[str, str]
    """The database in which each service has its books."""

    @property
    def front(self) -> str:
        return next(iter(self.programs))

    def program_of(self, service: str) -> str:
        """The program that does the work of this service."""
        return service if service in self.programs else self.front


APART: Mapping[str, str] = {service: service for service in SERVICES}
"""A database for each service."""
TOGETHER: Mapping[str, str] = dict.fromkeys(SERVICES, "shop")
"""One for all."""
