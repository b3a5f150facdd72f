"""A lock as a file has one: one writer inside, the others in a row."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from outlast.errors import Unavailable

LOCK_WAIT_SECONDS = 10.0


@dataclass(eq=False, slots=True)
class Ticket:
    """One stay of a process inside the turnstile."""

    who: object
    called: asyncio.Future[None] | None = None


class Turnstile:
    """Lets one writer in at a time, in the order in which they came, as a file lock does."""

    def __init__(self) -> None:
        self._inside: Ticket | None = None
        self._waiting: deque[Ticket] = deque()

    async def enter(self, who: object, *, is_patient: bool) -> Ticket:
        """Raises `Unavailable` when nobody leaves in time, unless whoever comes is patient."""
        ticket = Ticket(who)
        if self._inside is None:
            self._inside = ticket
            return ticket
        loop = asyncio.get_running_loop()
        ticket.called = loop.create_future()
        self._waiting.append(ticket)
        if is_patient:
            await ticket.called
            return ticket
        deadline = loop.call_later(LOCK_WAIT_SECONDS, self._turn_away, ticket)
        try:
            await ticket.called
        finally:
            deadline.cancel()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Lets the next one in. Harmless for one who is not inside."""
        if self._inside is ticket:
            self._inside = None
            while self._waiting and self._inside is None:
                follower = self._waiting.popleft()
                if follower.called is not None and not follower.called.done():
                    self._inside = follower
                    follower.called.set_result(None)

    def forget(self, who: object) -> None:
        """Takes a dead process out, wherever it stands."""
        self._waiting = deque(ticket for ticket in self._waiting if ticket.who is not who)
        if self._inside is not None and self._inside.who is who:
            self.leave(self._inside)

    def _turn_away(self, ticket: Ticket) -> None:
        if ticket in self._waiting and ticket.called is not None and not ticket.called.done():
            self._waiting.remove(ticket)
            ticket.called.set_exception(
                Unavailable(
                    f"waiting {LOCK_WAIT_SECONDS:.0f} s for the simulated write lock was in vain. Another process "
                    "holds it; nothing was changed, and it is tried again."
                )
            )
