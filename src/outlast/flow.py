"""The message flow of some services, read from annotations without running anything: to be drawn and checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from outlast.core.annotations import answers_of
from outlast.core.message import Command, Event
from outlast.core.naming import FAILED, name_of_type
from outlast.core.plan import Plan
from outlast.runtime.service import Service

OUTSIDE = "outside"
"""Who sends what no listed service sends: clients, and services that are not listed."""


@dataclass(frozen=True, slots=True)
class Node:
    """A service's handlers, or one of its workflows."""

    service: str
    workflow: str = ""

    @property
    def label(self) -> str:
        return f"{self.workflow} ({self.service})" if self.workflow else self.service


@dataclass(frozen=True, slots=True)
class Edge:
    """One message from one node to another. `None` stands for the outside."""

    message: str
    kind: str
    """`command`, `event`, `failure` or `timer`."""
    source: Node | None
    target: Node | None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that will go wrong, or looks as if it was forgotten."""

    severity: str
    """`error`, or `warning` for what may be meant."""
    message: str
    where: str
    text: str


@dataclass(frozen=True, slots=True)
class Flow:
    """Which nodes send and which receive each message, by wire name."""

    services: tuple[str, ...]
    kinds: dict[str, Any]
    senders: dict[str, list[Node]]
    receivers: dict[str, list[Node]]
    timers: dict[str, list[Node]]

    def edges(self) -> list[Edge]:
        """Every way that a message takes, in the order in which services and handlers are written."""
        found: dict[Edge, None] = {}
        for name, kind in self.kinds.items():
            sort = "failure" if name.startswith(FAILED) else "command" if _is_command(kind) else "event"
            for target in self.receivers.get(name, [None]):
                if target is not None and target in self.timers.get(name, ()):
                    found[Edge(name, "timer", target, target)] = None
                    if name not in self.senders:
                        continue
                for source in self._sources(name, target):
                    found[Edge(name, sort, source, target)] = None
        return list(found)

    def _sources(self, name: str, target: Node | None) -> Sequence[Node | None]:
        if name.startswith(FAILED):
            return self.receivers.get(name.removeprefix(FAILED), [None])
        return self.senders.get(name) or ([] if target is None else [None])


def flow_of(services: Sequence[Service]) -> Flow:
    """The flow among these services."""
    flow = Flow(tuple(service.name for service in services), {}, {}, {}, {})
    for service in services:
        for name, handler in service.routes.handlers.items():
            node = Node(service.name)
            _receive(flow, node, name, service.routes.catalogue[name])
            _send(flow, node, handler.returns)
        for plan in service.routes.plans.values():
            node = Node(service.name, plan.name)
            for name, step in plan.steps.items():
                _receive(flow, node, name, plan.kinds[name])
                _send(flow, node, step.returns)
            for name in _timers(plan):
                flow.timers.setdefault(name, []).append(node)
    return flow


def problems_of(services: Sequence[Service]) -> list[Problem]:
    """What will go wrong with these services when they run, as far as their annotations tell."""
    flow = flow_of(services)
    answers = _answers_to_outside(flow)
    found = [
        _unreceived(flow, name, senders)
        for name, senders in flow.senders.items()
        if name not in flow.receivers and name not in answers
    ]
    for service in services:
        for plan in service.routes.plans.values():
            found += _keyless(service.name, plan)
    return found


def _answers_to_outside(flow: Flow) -> set[str]:
    """What answers the commands that no listed service sends: it goes to whoever sent them."""
    asked = [kind for name, kind in flow.kinds.items() if _is_command(kind) and name not in flow.senders]
    return {name_of_type(answer) for kind in asked for answer in answers_of(kind)}


def _unreceived(flow: Flow, name: str, senders: Sequence[Node]) -> Problem:
    kind, where = flow.kinds[name], ", ".join(dict.fromkeys(node.label for node in senders))
    if not _is_command(kind):
        text = f"{where} publishes {name!r}, and no listed service handles it. It reaches nobody, unless others do."
        return Problem("warning", name, where, text)
    owner = kind.__owner__
    if not owner:
        text = f"{where} sends {name!r}, which has no owner to go to. Name it in the class: to='the-service'."
    elif owner in flow.services:
        text = f"{where} sends {name!r} to {owner}, which has no handler for it. Write one, with @{owner}.handles."
    else:
        text = f"{where} sends {name!r} to {owner}, which is not among the services. List it, or correct to=."
    return Problem("error", name, where, text)


def _keyless(service: str, plan: Plan) -> Iterable[Problem]:
    """Messages by which a workflow's instance could never be found."""
    sent = {kind for step in plan.steps.values() for kind in step.returns if _is_command(kind)}
    answers = {name_of_type(answer) for command in sent for answer in answers_of(command)}
    known = answers | _timers(plan) | {FAILED + name_of_type(command) for command in sent}
    for name, step in plan.steps.items():
        if step.key_of is None and name not in known:
            where = Node(service, plan.name).label
            text = (
                f"{where} handles {name!r} in {step.name}, which has no field {plan.cls.__options__.key!r} "
                "and answers no command that the workflow sends. Its instance cannot be found; say @on(key=...)."
            )
            yield Problem("error", name, where, text)


def _receive(flow: Flow, node: Node, name: str, kind: Any) -> None:
    flow.kinds[name] = kind
    if node not in flow.receivers.setdefault(name, []):
        flow.receivers[name].append(node)
    if name.startswith(FAILED):
        flow.kinds.setdefault(name.removeprefix(FAILED), get_args(kind)[0])


def _send(flow: Flow, node: Node, kinds: Iterable[Any]) -> None:
    for kind in kinds:
        name = name_of_type(kind)
        flow.kinds[name] = kind
        if node not in flow.senders.setdefault(name, []):
            flow.senders[name].append(node)


def _timers(plan: Plan) -> set[str]:
    """What a workflow seems to send to itself later: events it handles whose class its own code names.

    Timers are set in the bodies of methods, where no annotation tells of them.
    """
    mentioned = {name for step in plan.steps.values() for name in step.method.__code__.co_names}
    returned = {name_of_type(kind) for step in plan.steps.values() for kind in step.returns}
    return {
        name
        for name, kind in plan.kinds.items()
        if name not in returned and not name.startswith(FAILED) and getattr(kind, "__name__", "") in mentioned
    }


def _is_command(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Command) and not issubclass(kind, Event)
