"""A service in a process: its routes, bound handlers, engine and world in one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import msgspec

from outlast.core.message import Envelope, Message
from outlast.core.naming import open_packet
from outlast.core.plan import Plan
from outlast.core.recovery import Patience, Retry
from outlast.errors import UnknownMessage
from outlast.ports import Address, Delivery, Engine, World
from outlast.runtime.context import Bound
from outlast.runtime.inside import Inside
from outlast.runtime.service import Service
from outlast.signals import Observer, unobserved


class Letter(msgspec.Struct):
    """A delivery, opened. One that cannot be read carries the error instead of a message."""

    delivery: Delivery
    envelope: Envelope | None = None
    message: Message | None = None
    handler: Bound | None = None
    targets: list[tuple[Plan, Address]] = []
    """The workflow instances that it is for."""
    error: BaseException | None = None
    """Why it could not be read, or how its handler failed."""
    is_claimed: bool = False
    is_read: bool = False
    """User code has had its message, and may have changed what is inside."""
    returned: list[Message] | None = None
    """What its handler returned, if it ran outside of the turn."""

    runs_outside: bool = False
    """Its handler may wait, so it runs between two turns."""


@dataclass(frozen=True, slots=True)
class Host:
    """One service, ready to take turns."""

    name: str
    service: Service
    engine: Engine
    world: World
    handlers: Mapping[str, Bound]
    observe: Observer = unobserved
    patience: Patience = field(default_factory=Patience)
    lease: timedelta = timedelta(seconds=30)
    """How long a claimed delivery stays hidden from other workers unless it is renewed."""
    host_name: str = ""
    version: str = ""
    inside: Inside = field(default_factory=Inside)

    def open(self, delivery: Delivery) -> Letter:
        """Reads a delivery and finds out who it is for. Never raises: what is wrong is in the letter."""
        letter = Letter(delivery)
        routes = self.service.routes
        try:
            envelope = letter.envelope = open_packet(delivery.packet)
            message = letter.message = routes.catalogue.decode(envelope)
            handler = self.handlers.get(envelope.type)
            plans = routes.workflows.get(envelope.type)
            if envelope.only is not None:
                handler, plans = None, [plan for plan in plans or () if plan.name == envelope.only]
            letter.handler = handler
            if handler is not None:
                letter.runs_outside = not handler.in_transaction
            if plans:
                letter.targets = [
                    (plan, Address(self.name, plan.name, plan.key_for(self.name, envelope, message))) for plan in plans
                ]
            elif handler is None:
                raise UnknownMessage(
                    f"service {self.name!r} received {envelope.type!r} from {envelope.sender!r} and has no "
                    "handler or workflow for it. Register one, or send it to the service that has, and retry the dead "
                    "letter."
                )
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a key function is user code, and may fail in any way
            letter.error = error
        return letter

    def message_of(self, letter: Letter) -> Message:
        """The message as it was sent: every receiver gets one of its own, whatever the one before did to it."""
        assert letter.envelope is not None
        assert letter.message is not None
        if letter.is_read:
            return self.service.routes.catalogue.decode(letter.envelope)
        letter.is_read = True
        return letter.message

    def retry_for(self, letter: Letter) -> Retry:
        """The retry policy of this letter's handler, or of the service."""
        plan = letter.handler.plan if letter.handler is not None else None
        return plan.retry if plan is not None and plan.retry is not None else self.service.retry
