"""A process as the receiver of one service's messages: its number, and its note of what it is handling.

A turn that dies with its process leaves nothing in the database, so nothing there tells which messages may have
killed it. The note does. It is in a file mapped into memory: taking it costs no system call, and it outlives its
process. It need not outlive a power cut, since nobody suspects a message of that.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_RANGE = struct.Struct("<qq")
_NOTHING = (1, 0)


class Claimant:
    """Claims under `number`. Where no file can be made, the note is not taken, and nothing is suspected."""

    def __init__(self, directory: Path, service: str, number: int) -> None:
        self.number = number
        self._path = note_of(directory, f"{service}.{number}")
        self._map: mmap.mmap | None = None
        try:
            directory.mkdir(exist_ok=True)
            with self._path.open("w+b") as file:
                file.write(_RANGE.pack(*_NOTHING))
                file.flush()
                self._map = mmap.mmap(file.fileno(), _RANGE.size)
        except OSError:
            self._map = None

    def handles(self, first: int, last: int) -> None:
        """Notes that a turn is about the messages with these ids and those between."""
        if self._map is not None:
            _RANGE.pack_into(self._map, 0, first, last)

    def rests(self) -> None:
        """Notes that the turn has ended."""
        self.handles(*_NOTHING)

    def close(self) -> None:
        """Takes the note away: this process has stopped in good order."""
        if self._map is not None:
            self._map.close()
            self._map = None
            self._path.unlink(missing_ok=True)


def note_of(directory: Path, name: str) -> Path:
    """Where the note is of the process that is called `service.number`."""
    return directory / f".{name}.turn"


def handled_by_dead(directory: Path, name: str) -> tuple[int, int] | None:
    """The first and the last id that a turn was about when its process died; `None` if there was no turn."""
    try:
        first, last = _RANGE.unpack(note_of(directory, name).read_bytes())
    except (OSError, struct.error):
        return None
    return (first, last) if first <= last else None
