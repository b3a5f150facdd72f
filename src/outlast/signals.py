"""What the runtime did, as values. Logs and metrics are observers of these; the runtime knows neither.

| signal       | when                                                                  |
|--------------|-----------------------------------------------------------------------|
| Started      | a service takes messages in this process from now on                  |
| Warned       | a setting is not good; it is used all the same                        |
| Turned       | a turn was committed                                                  |
| Retrying     | a message failed and will be delivered again                          |
| GaveUp       | a message became a dead letter                                        |
| Overruled    | a turn or a result was dropped because another turn was first         |
| Interrupted  | the engine failed; the worker goes on trying                          |
| Stopped      | a service takes no more messages in this process                      |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Started:
    service: str
    engine: str


@dataclass(frozen=True, slots=True)
class Warned:
    """The worker has started, and something in its settings is not good."""

    warning: str


@dataclass(frozen=True, slots=True)
class Turned:
    service: str
    handled: int
    claimed: int
    sent: int


@dataclass(frozen=True, slots=True)
class Retrying:
    service: str
    type: str
    id: str
    attempt: int
    error: BaseException
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class GaveUp:
    service: str
    type: str
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Overruled:
    service: str
    why: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    service: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class Troubled:
    """A part of the engine does not work; what it should do waits, and nothing is lost."""

    trouble: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """All parts of the engine work again."""


@dataclass(frozen=True, slots=True)
class Stopped:
    service: str
    released: int


Signal = Started | Warned | Turned | Retrying | GaveUp | Overruled | Interrupted | Troubled | Recovered | Stopped
Observer = Callable[[Signal], None]


def unobserved(signal: Signal) -> None:
    """The observer that looks away."""
