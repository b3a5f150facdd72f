"""Who gets a message within one service, and to whom a message that leaves it goes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from outlast.core.annotations import (
    answers_of,
    hints_of,
    incoming,
    name_of_function,
    outgoing,
    parameters_of,
    unaliased,
)
from outlast.core.message import Command, Event, Message, is_command
from outlast.core.naming import Catalogue, name_of, name_of_type
from outlast.core.plan import Plan
from outlast.core.recovery import Retry
from outlast.errors import BadHandler, Unroutable

TIME_LIMIT_DEFAULT = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class HandlerPlan:
    """A handler function, read once."""

    function: Callable[..., Any]
    name: str
    kinds: tuple[Any, ...]
    needs: tuple[tuple[str, Any], ...]
    """The parameters after the message: name and type, to be injected."""
    is_async: bool
    returns: tuple[Any, ...]
    retry: Retry | None
    time_limit: timedelta


def handler_plan(
    function: Callable[..., Any], *, retry: Retry | None = None, time_limit: timedelta = TIME_LIMIT_DEFAULT
) -> HandlerPlan:
    """Reads a handler. Raises `BadHandler` when it could not be called or its flow not be known."""
    where = name_of_function(function)
    parameters = parameters_of(function)
    hints = hints_of(function, BadHandler)
    if not parameters or parameters[0].name not in hints:
        raise BadHandler(
            f"{where} has no annotated message as its first parameter. Write it like "
            "async def make_payment(command: MakePayment, ...) -> PaymentCompleted."
        )
    kinds = incoming(hints[parameters[0].name])
    if not kinds:
        raise BadHandler(
            f"{where} takes {hints[parameters[0].name]!r} first, which is no command or event (or union of them). "
            "The first parameter of a handler is its message."
        )
    _check_returning(where, function, hints)
    missing = [p.name for p in parameters[1:] if p.name not in hints and p.default is inspect.Parameter.empty]
    if missing:
        raise BadHandler(
            f"{where} has parameters without a type: {', '.join(missing)}. What a handler needs is found by type."
        )
    returns = tuple(outgoing(hints["return"]))
    _check_answers(where, kinds, returns)
    return HandlerPlan(
        function=function,
        name=getattr(function, "__name__", "handler"),
        kinds=tuple(kinds),
        needs=tuple((p.name, unaliased(hints[p.name])) for p in parameters[1:] if p.name in hints),
        is_async=inspect.iscoroutinefunction(function),
        returns=returns,
        retry=retry,
        time_limit=time_limit,
    )


def _check_returning(where: str, function: Callable[..., Any], hints: Mapping[str, Any]) -> None:
    if "return" not in hints:
        raise BadHandler(
            f"{where} does not say what it returns. Annotate it (-> None when it sends nothing), so that the "
            "message flow can be checked and drawn."
        )
    if inspect.isasyncgenfunction(function):
        raise BadHandler(
            f"{where} is an async generator (an async def with yield), and nothing of a turn is sent before all of it "
            "is known. Collect the messages and return them, as in -> list[PaymentCompleted]."
        )


def _check_answers(where: str, kinds: Sequence[Any], returns: Sequence[Any]) -> None:
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Command)):
            continue
        answers = answers_of(kind)  # pyright: ignore[reportUnknownArgumentType]  # a command of any answers
        if answers and not set(answers) & set(returns):
            raise BadHandler(
                f"{where} handles {kind.__name__}, whose answers are "
                f"{', '.join(answer.__name__ for answer in answers)}, and returns none of them. Return one, or "
                f"say Command[None] in the bases of {kind.__name__}."
            )


class Routes:
    """Handlers and workflows of one service by the wire name of their message."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.catalogue = Catalogue()
        self.handlers: dict[str, HandlerPlan] = {}
        self.workflows: dict[str, list[Plan]] = {}
        self.plans: dict[str, Plan] = {}

    def add_handler(self, plan: HandlerPlan) -> None:
        """Raises `BadHandler` when one of its messages has a handler in this service."""
        for kind in plan.kinds:
            name = self.catalogue.add(kind)
            other = self.handlers.setdefault(name, plan)
            if other is not plan:
                raise BadHandler(
                    f"service {self.service!r} has two handlers for {name!r}: {name_of_function(other.function)} "
                    f"and {name_of_function(plan.function)}. Keep one, or put the other into a service of its own."
                )
            self._check_owner(kind)

    def add_workflow(self, plan: Plan) -> None:
        """Raises `BadHandler` when the service has a workflow of this name."""
        if plan.name in self.plans:
            raise BadHandler(f"service {self.service!r} has two workflows named {plan.name!r}. Give one another name=.")
        self.plans[plan.name] = plan
        for name, kind in plan.kinds.items():
            self.catalogue.add(kind)
            self.workflows.setdefault(name, []).append(plan)
            self._check_owner(kind)
        for step in plan.steps.values():
            for kind in step.returns:
                self.catalogue.add(kind)

    def _check_owner(self, kind: Any) -> None:
        if isinstance(kind, type) and issubclass(kind, Command) and kind.__owner__ not in (None, self.service):
            raise BadHandler(
                f"service {self.service!r} handles the command {name_of_type(kind)!r}, which goes to "
                f"{kind.__owner__!r}. A command has one owner: move the handler, or change to={kind.__owner__!r}."
            )

    @property
    def topics(self) -> list[str]:
        """The wire names of the events that this service subscribes to."""
        names = {**self.handlers, **self.workflows}
        return sorted(
            name for name in names if not name.startswith("failed:") and issubclass(self.catalogue[name], Event)
        )

    def __contains__(self, name: str) -> bool:
        return name in self.handlers or name in self.workflows


def owner_of(command: Message, to: str | None = None) -> str:
    """The service that a command goes to. Raises `Unroutable`."""
    if not is_command(command):
        raise Unroutable(
            f"send was given the event {name_of(command)!r}. Commands are sent to their owner; an event is published."
        )
    owner = to or type(command).__owner__
    if not owner:
        raise Unroutable(
            f"the command {name_of(command)!r} has no owner to go to. Name it in its class: "
            f"class {type(command).__name__}(Command[...], to='the-service')."
        )
    return owner


def check_event(event: Message) -> None:
    """Raises `Unroutable` for a command."""
    if not isinstance(event, Event):
        raise Unroutable(
            f"publish was given the command {name_of(event)!r}. An event is published; a command is sent to its owner."
        )
