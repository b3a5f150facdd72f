"""A disk that runs full: a small file system for the shop's files, and a filler that takes its last bytes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

LARGEST = 2 << 30
"""Bytes. A larger file system is no small one: it is not filled."""
BLOCK = b"\0" * (1 << 20)


class Skipped(Exception):
    """A fault cannot be brought about here; the text says why."""


class Disk:
    """The small file system that has this directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._filler = directory / "filler"

    @asynccontextmanager
    async def full(self) -> AsyncGenerator[None]:
        """Leaves no free byte for as long as the block runs; what becomes free meanwhile is taken as well."""
        with self._filler.open("ab", buffering=0) as filler:
            _fill(filler.fileno())
            filling = asyncio.create_task(_keep_full(filler.fileno()))
            try:
                yield
            finally:
                filling.cancel()
                self._filler.unlink()


async def _keep_full(file: int) -> None:
    while True:
        await asyncio.sleep(0.02)
        _fill(file)


def _fill(file: int) -> None:
    size = len(BLOCK)
    while size:
        try:
            os.write(file, BLOCK[:size])
        except OSError:
            size //= 2


@contextmanager
def small_disk(place: Path, *, megabytes: int) -> Generator[Disk]:
    """A file system in memory, mounted at `place` for as long as the block runs. Raises `Skipped`."""
    place.mkdir(parents=True, exist_ok=True)
    options = f"size={megabytes}m,mode=700"
    try:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "outlast-chaos", str(place)],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise Skipped(f"there is no mount: {error}") from error
    if made.returncode != 0:
        raise Skipped(
            f"a small file system cannot be mounted ({made.stderr.strip()}). Run as root, or name a directory on a "
            "small file system with --directory."
        )
    try:
        yield Disk(place)
    finally:
        if subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode != 0:
            subprocess.run(["umount", "--lazy", str(place)], check=False)


@contextmanager
def disk_at(given: Path) -> Generator[Disk]:
    """A fresh directory within the given one, for as long as the block runs. Raises `Skipped`."""
    found = os.statvfs(given)
    size = found.f_frsize * found.f_blocks
    if size > LARGEST:
        raise Skipped(
            f"the file system of {given} has {size >> 20} MB, and others may need it. Name a directory on one that "
            f"has at most {LARGEST >> 20} MB and is there for this alone."
        )
    with tempfile.TemporaryDirectory(prefix="outlast-chaos-", dir=given) as directory:
        yield Disk(Path(directory))
