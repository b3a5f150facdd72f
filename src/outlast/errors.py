"""Everything outlast raises. Each error is named by what is wrong and says what to do about it.

OutlastError
├── Misuse            the program is wrong; raised at definition, at start or at the call
│   ├── BadMessage        a message class that cannot be sent or found again
│   ├── BadWorkflow       a workflow class that cannot be decided
│   ├── BadHandler        a handler that cannot be called
│   ├── BadUrl            an engine URL that names nothing we have
│   └── Unroutable        a message with no receiver
├── Rejected          a delivery that no attempt can make good; set aside at once
│   ├── Undecodable       bytes that are not the message they claim to be
│   ├── UnreadableState   stored state that its workflow class cannot read any more
│   ├── UnknownMessage    a wire name this service has no class for
│   └── KeyMissing        a message without the key that would find its instance
├── TimeLimitExceeded a handler ran longer than it may
├── RequestTimeout    no answer came in time
├── RequestFailed     the command of a request is a dead letter now
├── NotFound          an operator asked for something that is not there
├── Refused           an operator asked for something that would do harm as things are
├── Conflict          another turn committed first; repeated at once, never counted
└── Unavailable       the engine cannot be used now; nothing was changed
"""

from __future__ import annotations

from collections.abc import Sequence


class OutlastError(Exception):
    """Base of all errors of outlast."""


class Misuse(OutlastError):
    """The program is wrong; the text says what to write instead."""


class BadMessage(Misuse):
    """A message class that cannot be sent, or not be found again by its name."""


class BadWorkflow(Misuse):
    """A workflow class that cannot be decided."""


class BadHandler(Misuse):
    """A handler whose message, dependencies or answers cannot be understood."""


class BadUrl(Misuse):
    """An engine URL that names no engine."""


class Unroutable(Misuse):
    """A message was given to send that has no receiver."""


class Rejected(OutlastError):
    """A delivery that no further attempt can make good; it becomes a dead letter at once."""


class Undecodable(Rejected):
    """Bytes that are not an envelope, or a body that is not the message it claims to be."""


class UnreadableState(Rejected):
    """The stored state of an instance that its workflow class, as it is now, cannot read."""


class UnknownMessage(Rejected):
    """A wire name for which the receiving service has no class, handler or workflow."""


class KeyMissing(Rejected):
    """A message lacks the key by which its workflow instance would be found."""


class TimeLimitExceeded(OutlastError):
    """A handler ran longer than its time limit and was cancelled."""


class RequestTimeout(OutlastError, TimeoutError):
    """No answer to a request came in time. The command may still be carried out."""


class RequestFailed(OutlastError):
    """The command of a request failed for good; it is a dead letter now."""


class NotFound(OutlastError):
    """What an operator asked for does not exist, or its name is ambiguous."""

    def __init__(self, text: str, candidates: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.candidates = list(candidates)
        """What an ambiguous name may mean."""


class Refused(OutlastError):
    """What an operator asked for is not done, because of the state that things are in."""


class Conflict(OutlastError):
    """Another turn changed the same instance first. The turn is repeated; no attempt is counted."""


class Unavailable(OutlastError):
    """The engine cannot be used now (locked, full, gone). Nothing of the turn took effect."""
