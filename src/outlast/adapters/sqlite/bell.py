"""Waking other processes on this machine: each has a FIFO beside the database and sleeps until it is rung.

A FIFO that nobody reads tells something else as well: its process died without taking it away.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path


class Bell:
    """The FIFOs of one database. Without FIFOs (Windows, some network disks) it never rings; polling remains."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._own: dict[str, int] = {}
        self._others: dict[str, int] = {}
        self._listed_at = -1
        self._names: list[str] = []

    def hang(self, name: str, number: int, *, notify: Callable[[], None]) -> None:
        """Makes a FIFO, called by the name and our number, that calls `notify` when someone rings for `name`."""
        own = f"{name}.{number}"
        if own in self._own or not hasattr(os, "mkfifo"):
            return
        hidden = self.directory / f".{own}"
        try:
            self.directory.mkdir(exist_ok=True)
            os.mkfifo(hidden, 0o600)
            # Opened before it can be seen: a FIFO without a reader would look like that of a dead process.
            descriptor = os.open(hidden, os.O_RDWR | os.O_NONBLOCK)
        except OSError:
            return
        hidden.rename(self.directory / own)
        self._own[own] = descriptor
        asyncio.get_running_loop().add_reader(descriptor, self._rung, descriptor, notify)

    def ring(self, names: Iterable[str]) -> None:
        """Wakes every process that listens for one of these names."""
        wanted = set(names)
        if not wanted:
            return
        for entry in self._entries():
            if entry.rpartition(".")[0] in wanted:
                self._ring(entry)

    def dead(self, name: str) -> list[str]:
        """The FIFOs for this name whose process is gone."""
        return [entry for entry in self._entries() if entry.rpartition(".")[0] == name and not self._is_read(entry)]

    def alive(self, name: str) -> int:
        """How many processes listen for this name."""
        return sum(entry.rpartition(".")[0] == name and self._is_read(entry) for entry in self._entries())

    def remove(self, entries: Iterable[str]) -> None:
        """Takes away the FIFOs of dead processes."""
        for entry in entries:
            (self.directory / entry).unlink(missing_ok=True)

    def close(self) -> None:
        """Takes our own FIFOs away: this process has stopped in good order."""
        loop = asyncio.get_running_loop()
        for entry, descriptor in self._own.items():
            loop.remove_reader(descriptor)
            (self.directory / entry).unlink(missing_ok=True)
            os.close(descriptor)
        self.drop()
        self._own.clear()

    def drop(self) -> None:
        """Closes what was opened to ring others."""
        for descriptor in self._others.values():
            os.close(descriptor)
        self._others.clear()

    def _entries(self) -> list[str]:
        try:
            changed = self.directory.stat().st_mtime_ns
            if changed != self._listed_at:
                self._names = [entry for entry in os.listdir(self.directory) if not entry.startswith(".")]
                self._listed_at = changed
                for entry in [entry for entry in self._others if entry not in self._names]:
                    os.close(self._others.pop(entry))
        except OSError:
            return []
        return self._names

    def _ring(self, entry: str) -> None:
        try:
            descriptor = self._others.get(entry)
            if descriptor is None:
                path = self.directory / entry
                descriptor = self._others[entry] = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            os.write(descriptor, b"!")
        except OSError as error:
            # Full: it has enough to wake up for. Unread or gone: nobody to wake.
            if error.errno not in (errno.EAGAIN, errno.EWOULDBLOCK) and entry in self._others:
                os.close(self._others.pop(entry))

    def _is_read(self, entry: str) -> bool:
        try:
            os.close(os.open(self.directory / entry, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            return error.errno not in (errno.ENXIO, errno.ENOENT)
        return True

    @staticmethod
    def _rung(descriptor: int, notify: Callable[[], None]) -> None:
        try:
            while len(os.read(descriptor, 4096)) == 4096:
                pass
        except OSError:
            pass
        notify()
