"""What went otherwise than usual in one simulated run, small enough to print, and the dice that choose it.

A tape names what is unusual and nothing else: the empty tape is the run in which everything happens in order
and nothing fails. So a tape is shortened by leaving entries out, and a shorter tape tells a shorter story.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from outlast.errors import Misuse

_MASK = (1 << 64) - 1


class Fault(StrEnum):
    """What can go wrong at one effect of a process."""

    CRASH_BEFORE = "crash-before"
    """The process dies; the effect does not happen."""
    CRASH_AFTER = "crash-after"
    """The effect happens; the process dies before it learns so."""
    ERROR_BEFORE = "error-before"
    """The engine cannot be reached; nothing happened."""
    ERROR_AFTER = "error-after"
    """The outcome is unknown: the effect happened, and the process is told that it failed."""
    PAUSE = "pause"
    """The whole process stands still for longer than its claims are valid, and then goes on."""
    DELAY = "delay"
    """This effect takes some seconds; everything else goes on."""
    DUPLICATE = "duplicate"
    """What was handed over (and perhaps handled) before is handed over again."""
    REORDER = "reorder"
    """What is waiting is handed over in the opposite order."""
    PARTIAL = "partial"
    """Of what is waiting only every second message is handed over; the others are for other processes."""
    DEAF = "deaf"
    """Notifications do not reach this process until its next poll."""
    AWAY = "away"
    """The process dies, and its service is away for hours."""
    CUT = "cut"
    """The connection of this process to the broker is lost, and a new one is made soon."""
    OUTAGE = "outage"
    """The broker is away for some time. It keeps its messages."""
    HALF = "half"
    """The connection is lost when the broker has one half of what is published, and has confirmed nothing."""
    REFUSED = "refused"
    """The broker takes one half of what is published, and refuses the other."""
    BLOCKED = "blocked"
    """The broker takes nothing in for some time, and goes on handing over."""


CRASHES = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER)
ERRORS = (Fault.ERROR_BEFORE, Fault.ERROR_AFTER)
RECEIVING = (Fault.DUPLICATE, Fault.REORDER, Fault.PARTIAL)
"""Faults that only an effect that receives messages can have."""
PUBLISHING = (Fault.HALF, Fault.REFUSED, Fault.BLOCKED)
"""Faults that only an effect that publishes messages can have."""
BROKEN_BROKERS = (Fault.CUT, Fault.OUTAGE, *PUBLISHING)
"""Faults of a world that has a broker."""


def fits(fault: Fault, effect: str) -> bool:
    """Whether this effect can have this fault."""
    return (effect == "receive" or fault not in RECEIVING) and (effect == "publish" or fault not in PUBLISHING)


@dataclass(frozen=True, slots=True)
class Tape:
    """What to do otherwise: faults by the number of the effect, and who goes first by the number of the choice."""

    faults: Mapping[int, Fault] = field(default_factory=dict[int, Fault])
    order: Mapping[int, int] = field(default_factory=dict[int, int])
    skews: Mapping[int, int] = field(default_factory=dict[int, int])
    """Seconds by which the clock of a process is off, by the number of the process."""

    def __str__(self) -> str:
        words = [f"{number}={fault}" for number, fault in sorted(self.faults.items())]
        words += [f"order{number}={choice}" for number, choice in sorted(self.order.items())]
        words += [f"clock{number}={seconds}" for number, seconds in sorted(self.skews.items())]
        return " ".join(words) or "nothing unusual"

    def __len__(self) -> int:
        return len(self.faults) + len(self.order) + len(self.skews)

    @classmethod
    def parse(cls, text: str) -> Tape:
        """The tape that printed this text. Raises `Misuse`."""
        faults: dict[int, Fault] = {}
        order: dict[int, int] = {}
        skews: dict[int, int] = {}
        try:
            for word in [] if text == "nothing unusual" else text.split():
                name, _, value = word.partition("=")
                if name.startswith("order"):
                    order[int(name[5:])] = int(value)
                elif name.startswith("clock"):
                    skews[int(name[5:])] = int(value)
                else:
                    faults[int(name)] = Fault(value)
        except ValueError as error:
            raise Misuse(
                f"the tape {text!r} cannot be read: {error}. Copy it as it was printed, such as "
                "'13=crash-after order40=1'."
            ) from error
        return cls(faults, order, skews)

    @property
    def entries(self) -> list[tuple[str, int]]:
        """What `without` can leave out: the field and the number of each entry."""
        return [
            *(("faults", number) for number in sorted(self.faults)),
            *(("skews", number) for number in sorted(self.skews)),
            *(("order", number) for number in sorted(self.order)),
        ]

    def without(self, entries: Collection[tuple[str, int]]) -> Tape:
        """This tape, some of its entries left out."""
        return Tape(
            {number: fault for number, fault in self.faults.items() if ("faults", number) not in entries},
            {number: choice for number, choice in self.order.items() if ("order", number) not in entries},
            {number: seconds for number, seconds in self.skews.items() if ("skews", number) not in entries},
        )


class Dice:
    """Random numbers that depend on the seed and on nothing else (SplitMix64)."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = (seed * 0x9E3779B97F4A7C15 + 0x1234567) & _MASK

    def throw(self) -> float:
        """A number in [0, 1)."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((z ^ (z >> 31)) >> 11) / (1 << 53)

    def below(self, bound: int) -> int:
        """A whole number from 0 up to, and without, the bound."""
        return int(self.throw() * bound)
