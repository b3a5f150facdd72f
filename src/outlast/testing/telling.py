"""A simulated run, told for people: messages and crashes in the order in which they happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from outlast.core.message import Envelope
from outlast.ports import Changes
from outlast.testing.invariants import told

LINES_MAX = 120


@dataclass(frozen=True, slots=True)
class Line:
    """Something that happened at a virtual time, in a process (or outside of all)."""

    at: float
    process: str
    what: str | Changes

    def __str__(self) -> str:
        return f"{_clock(self.at)}  {self.process or 'client':<14} {self.what}"


def tell(lines: Sequence[Line], envelope: Callable[[bytes], Envelope]) -> str:
    """The lines as text; of a long story the beginning and the end."""
    texts = [
        str(Line(line.at, line.process, _told(line.what, envelope)) if isinstance(line.what, Changes) else line)
        for line in lines
    ]
    if len(texts) > LINES_MAX:
        left_out = len(texts) - LINES_MAX
        texts = [*texts[: LINES_MAX // 2], f"  ... {left_out} lines ...", *texts[-LINES_MAX // 2 :]]
    return "\n".join(texts)


def _told(changes: Changes, envelope: Callable[[bytes], Envelope]) -> str:
    parts: list[str] = []
    outcomes = [f"{told(envelope(entry.packet))} → {_outcome(entry.outcome, entry.key)}" for entry in changes.history]
    if outcomes:
        parts.append("; ".join(outcomes))
    if changes.claimed:
        parts.append("claims " + ", ".join(told(envelope(d.packet)) for d in changes.claimed))
    if changes.parcels:
        sent = [
            told(envelope(p.packet)) + (f" for {p.due:%d %b %H:%M:%S}" if p.due is not None else "")
            for p in changes.parcels
        ]
        parts.append("sends " + ", ".join(sent))
    if changes.withdrawn:
        parts.append(f"cancels {len(changes.withdrawn)} timers")
    return "; ".join(parts) or "commits nothing"


def _outcome(outcome: str, key: str) -> str:
    return f"{outcome} {key!r}" if key else outcome


def _clock(at: float) -> str:
    days, rest = divmod(at, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{int(days):>3}d {int(hours):02}:{int(minutes):02}:{seconds:06.3f}"
