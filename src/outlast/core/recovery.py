"""What becomes of a delivery that failed: again at once, again later, or set aside for a person."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from outlast.errors import Misuse, Rejected


@dataclass(frozen=True, slots=True)
class RetryAt:
    """Deliver the message again, not before `at`; `None` means at once."""

    at: datetime | None


@dataclass(frozen=True, slots=True)
class SetAside:
    """Make it a dead letter."""

    reason: str


Recovery = RetryAt | SetAside


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """When a failed message is delivered again.

    First `immediate` times at once, then `delayed` times with a delay that starts at `first` and grows by
    `factor` up to `longest`; each delay is stretched at random by up to `jitter` of itself, so that messages
    that failed together do not come back together. Then the message becomes a dead letter.
    """

    immediate: int = 2
    delayed: int = 5
    first: timedelta = timedelta(seconds=1)
    factor: float = 4.0
    longest: timedelta = timedelta(minutes=10)
    jitter: float = 0.5
    give_up_on: tuple[type[BaseException], ...] = ()
    """Errors after which no further attempt is made."""

    def __post_init__(self) -> None:
        counts, delays = (self.immediate, self.delayed), (self.first, self.longest)
        if min(counts) < 0 or min(delays) < timedelta() or self.factor < 1 or not 0 <= self.jitter <= 1:
            raise Misuse(
                f"{self!r} cannot be followed: immediate, delayed, first and longest must not be negative, factor "
                "must be at least 1 and jitter between 0 and 1."
            )

    @property
    def attempts(self) -> int:
        """How often a message is tried in all."""
        return 1 + self.immediate + self.delayed

    @property
    def horizon(self) -> timedelta:
        """How long after its first attempt a message may be tried again: the longest that all delays may last."""
        longest = self.longest.total_seconds() / (1 + self.jitter)
        delay = min(self.first.total_seconds(), longest)
        seconds = 0.0
        for round in range(self.delayed):
            following = min(delay * self.factor, longest)
            if following == delay:  # it grows no more, however many rounds there are
                seconds += delay * (self.delayed - round)
                break
            seconds += delay
            delay = following
        try:
            return timedelta(seconds=seconds * (1 + self.jitter))
        except OverflowError:
            return timedelta.max

    def recover(self, error: BaseException, attempt: int, now: datetime, dice: float) -> Recovery:
        """What to do after attempt number `attempt` (from 1) ended with `error`. `dice` is in [0, 1)."""
        name = type(error).__name__
        if isinstance(error, Rejected | Misuse):
            return SetAside(str(error))
        if isinstance(error, self.give_up_on):
            return SetAside(f"{name} is an error that retrying does not cure")
        if attempt >= self.attempts:
            return SetAside(f"{name} after {attempt} attempt{'s' if attempt != 1 else ''}")
        if attempt <= self.immediate:
            return RetryAt(None)
        return RetryAt(now + self.delay(attempt - self.immediate, dice))

    def delay(self, round: int, dice: float) -> timedelta:
        """The delay before delayed round number `round` (from 1)."""
        # Room for the stretch below the longest delay, so that the last rounds are spread, too.
        longest = self.longest.total_seconds() / (1 + self.jitter)
        seconds = min(self.first.total_seconds(), longest)
        for _ in range(round - 1):
            seconds = min(seconds * self.factor, longest)
        return timedelta(seconds=seconds * (1 + self.jitter * dice))


NO_RETRY = Retry(immediate=0, delayed=0)
"""The first failure makes a dead letter."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a message may be handed over without any turn to show for it.

    What dies with its process was mostly innocent, so doubt grows in steps. Of deliveries that were handed over
    `few_after` times only `few` are handled at once; one that was handed over `alone_after` times is handled
    alone, so that the one that kills takes no others along; after `limit` times it is set aside unhandled.
    """

    few_after: int = 2
    few: int = 10
    alone_after: int = 3
    limit: int = 5

    def refuses(self, handed_over: int) -> SetAside | None:
        """A verdict on a message that was handed over `handed_over` times before, never to an end."""
        if handed_over < self.limit:
            return None
        return SetAside(
            f"its process ended {handed_over} times while handling it, without an error of its own; "
            "look for crashes (memory, native code, os._exit) before retrying"
        )
