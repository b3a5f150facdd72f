"""All orders of a race: a walk through the tree of choices that leaves out the orders that cannot differ.

A *step* is all that happens between two choices. A step is *quiet* if one process took it alone and only read: it
received, began, looked, loaded, or was refused its commit. Two quiet steps of two processes lead to the same world
in either order, for neither changes what the other reads, no time passes between two choices, and what a process
has read stays with it. (Ids may be dealt the other way round; they are names.) So when one of them was searched
first, it need not be searched again right behind the other. Everything that follows it is searched all the same.
This is the reduction by sleep sets, and it leaves out no state that a race can lead to: Godefroid, *Partial-Order
Methods for the Verification of Concurrent Systems*, 1996.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from outlast.testing.loop import Owner


@dataclass(slots=True)
class Choice:
    """Some processes could have gone first."""

    at: int
    """How many effects there had been."""
    owners: Sequence[Owner | None]

    @property
    def who(self) -> tuple[str, ...]:
        return tuple(owner.name if owner is not None else "" for owner in self.owners)


@dataclass(slots=True)
class Fork:
    """A choice on the way to the run at hand."""

    who: tuple[str, ...]
    asleep: frozenset[str]
    """Processes whose step from here has been searched, in the other order."""
    taken: int = 0
    quiet: set[str] = field(default_factory=set[str])
    """Processes whose step from here was taken before, and was quiet."""

    def is_asleep(self) -> bool:
        return self.who[self.taken] in self.asleep


class Orders:
    """Where the walk is. Take `order`, run it, say how it `went`, and go `on`."""

    def __init__(self) -> None:
        self._forks: list[Fork] = []
        self._is_quiet: Callable[[int], bool] = lambda number: False

    @property
    def order(self) -> Mapping[int, int]:
        """Who is to go first, by the number of the choice."""
        return {number: fork.taken for number, fork in enumerate(self._forks)}

    def went(self, choices: Sequence[Choice], is_quiet: Callable[[int], bool]) -> None:
        """Takes note of a run in this order: its choices, and which of the steps behind them were quiet."""
        self._is_quiet = is_quiet
        for number in range(len(self._forks), len(choices)):
            if self._forks and self._forks[-1].is_asleep():
                return  # the rest of this run has been seen
            self._forks.append(Fork(choices[number].who, self._asleep_after(number - 1)))

    def on(self) -> bool:
        """Goes on to the next order, the last choice first. False if that was the last one."""
        while self._forks:
            fork = self._forks[-1]
            name = fork.who[fork.taken]
            # A process that stands there with two of its tasks has two steps, which its name cannot tell apart.
            if not fork.is_asleep() and fork.who.count(name) == 1 and self._is_quiet(len(self._forks) - 1):
                fork.quiet.add(name)
            for option in range(fork.taken + 1, len(fork.who)):
                if fork.who[option] not in fork.asleep:
                    fork.taken = option
                    return True
            self._forks.pop()
        return False

    def _asleep_after(self, number: int) -> frozenset[str]:
        if number < 0 or not self._is_quiet(number):
            return frozenset()
        return self._forks[number].asleep | self._forks[number].quiet
