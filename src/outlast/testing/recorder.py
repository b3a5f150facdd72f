"""From history to a test: the source of a scenario that says what a workflow instance once did.

The messages come from history; what they lead to is found by replaying them. So the test passes today, and
fails when a change of the workflow would have treated that instance differently.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, cast

import msgspec

from outlast.core.instance import Outcome
from outlast.core.message import Command, Envelope, Failed, Message
from outlast.core.naming import FAILED, Catalogue, open_packet
from outlast.core.plan import plan_of
from outlast.core.workflow import Workflow
from outlast.errors import Misuse, NotFound
from outlast.ports import Entry, Inspector
from outlast.testing.scenario import Scenario

PAGE = 1000
GAP = timedelta(seconds=1)
"""Time that passed between two messages is written into the test if it was longer than this."""

_CLAIMS = {
    Outcome.COMPLETED: "completes",
    Outcome.LATE: "is_late",
    Outcome.SECOND_START: "is_ignored",
    Outcome.STASHED: "is_stashed",
}


async def scenario_of(inspector: Inspector, workflow: type[Workflow], key: object) -> str:
    """The source text of a test of what happened to one instance. Reads the whole history.

    Raises `NotFound` when history has nothing of the instance, and `Misuse` when a replay of its messages comes
    to something else than they came to then.
    """
    name = plan_of(workflow).name
    entries: list[Entry] = []
    last = 0
    while page := await inspector.history(conversation="", after=last, limit=PAGE):
        entries += [entry for _, entry in page if (entry.workflow, entry.key) == (name, str(key))]
        last = page[-1][0]
    if not entries:
        raise NotFound(
            f"history has nothing of a {workflow.__name__} with the key {key!r}. Check the key, or whether its "
            "history was cleaned away."
        )
    return Recorder(workflow, str(key), entries).source()


class Recorder:
    """Replays the entries of one instance, and writes down each step with what came of it."""

    def __init__(self, workflow: type[Workflow], key: str, entries: Sequence[Entry]) -> None:
        self.workflow = workflow
        self.key = key
        self.entries = entries
        self.text = Text()
        self.catalogue = Catalogue(plan_of(workflow).kinds.values())
        self.scenario = Scenario(workflow, now=entries[0].at)
        self.lines: list[str] = []
        self._stashed: set[str] = set()

    def source(self) -> str:
        """The module with the test."""
        for entry in self.entries:
            self._replay(entry)
        state = self.scenario.workflow
        fields = [f"{name}={self.text.of(getattr(state, name))}" for name in state.__struct_fields__]
        if fields:
            self.lines += ["", f"scenario.state({', '.join(fields)})"]
        start = f"scenario = Scenario({self.text.of(self.workflow)}, now={self.text.of(self.entries[0].at)})"
        self.text.needs("outlast.testing", "Scenario")
        name = re.sub(r"\W+", "_", f"{plan_of(self.workflow).name}_{self.key}").strip("_").lower()
        body = "\n".join(f"    {line}" if line else "" for line in [start, *self.lines])
        title = f"What {self.workflow.__name__} {self.key!r} did from {self.entries[0].at:%Y-%m-%d} on."
        return f'"""{title}"""\n\n{self.text.imports()}\n\n\ndef test_{name}() -> None:\n{body}\n'

    def _replay(self, entry: Entry) -> None:
        envelope = open_packet(entry.packet)
        if envelope.id in self._stashed:
            return  # what was stashed comes again by itself when its instance begins
        if envelope.timer is not None:
            self._fire(envelope.timer[0])
            return
        if entry.at - self.scenario.now > GAP:
            self._advance(timedelta(seconds=round((entry.at - self.scenario.now).total_seconds())))
        message = self.catalogue.decode(envelope)
        step, written = self._step(envelope, message)
        self._take(step, written)
        if entry.outcome == Outcome.STASHED:
            self._stashed.add(envelope.id)
        outcomes = [outcome.value for outcome in self.scenario.outcomes]
        if entry.outcome not in outcomes:
            raise Misuse(
                f"replaying {envelope.type!r} {envelope.id} to {self.workflow.__name__} {self.key!r} came to "
                f"{', '.join(outcomes)}, and history says {entry.outcome}. The workflow was changed since, or "
                "depends on something besides its messages."
            )

    def _step(self, envelope: Envelope, message: Message) -> tuple[Callable[[], object], str]:
        if envelope.type.startswith(FAILED):
            failure = cast("Failed[Any]", message)
            command: Command[Any] = failure.command
            kind = type(command)
            given: dict[str, Any] = {"reason": failure.reason, "error": failure.error, "attempts": failure.attempts}
            written = ", ".join(f"{name}={self.text.of(value)}" for name, value in given.items())
            return lambda: self.scenario.fails(kind, **given), f"fails({self.text.of(kind)}, {written})"
        return lambda: self.scenario.when(message), f"when({self.text.of(message)})"

    def _fire(self, timer: str) -> None:
        due = self.scenario.timers.get(timer)
        if due is not None:  # else it has fired when time passed, or was stale when it came
            self._advance(due - self.scenario.now)

    def _advance(self, delay: timedelta) -> None:
        self._take(lambda: self.scenario.advance(delay), f"advance({self.text.of(delay)})")

    def _take(self, step: Callable[[], object], written: str) -> None:
        step()
        self.lines += ["", f"scenario.{written}"]
        sent = ", ".join(map(self.text.of, self.scenario.sent))
        self.lines.append(f"scenario.sends({sent})" if sent else "scenario.sends_nothing()")
        for outcome in dict.fromkeys(self.scenario.outcomes):
            if outcome in _CLAIMS:
                self.lines.append(f"scenario.{_CLAIMS[outcome]}()")


class Text:
    """Values as source text, and the imports that it needs."""

    def __init__(self) -> None:
        self._needed: dict[str, set[str]] = {}

    def needs(self, module: str, name: str) -> None:
        """The text uses this name."""
        self._needed.setdefault(module, set()).add(name.partition(".")[0])

    def imports(self) -> str:
        """The import lines, sorted."""
        return "\n".join(
            f"from {module} import {', '.join(sorted(self._needed[module]))}" for module in sorted(self._needed)
        )

    def of(self, value: Any) -> str:
        """An expression that makes this value."""
        match value:
            case type():
                self.needs(value.__module__, value.__qualname__)
                return value.__qualname__
            case Enum():
                return f"{self.of(type(value))}.{value.name}"
            case str():
                return repr(value) if {'"', "\\"} & set(value) or not value.isprintable() else f'"{value}"'
            case msgspec.Struct():
                return self._call(value, {name: getattr(value, name) for name in value.__struct_fields__})
            case datetime() if value.tzinfo is not None:
                return self._moment(value)
            case timedelta():
                return self._duration(value)
            case list() | tuple() | set() | frozenset() | dict():
                return self._collection(cast("list[Any]", value))
            case _ if hasattr(value, "__dataclass_fields__"):
                return self._call(value, {name: getattr(value, name) for name in value.__dataclass_fields__})
            case _:
                return self._plain(value)

    def _call(self, value: object, fields: dict[str, Any]) -> str:
        return f"{self.of(type(value))}({', '.join(f'{name}={self.of(v)}' for name, v in fields.items())})"

    def _moment(self, value: datetime) -> str:
        self.needs("datetime", "datetime")
        self.needs("datetime", "UTC")
        parts = [*value.astimezone(UTC).timetuple()[:6], value.microsecond]
        while parts[-1] == 0 and len(parts) > 3:
            parts.pop()
        return f"datetime({', '.join(map(str, parts))}, tzinfo=UTC)"

    def _duration(self, value: timedelta) -> str:
        self.needs("datetime", "timedelta")
        parts = {"days": value.days, "seconds": value.seconds, "microseconds": value.microseconds}
        return f"timedelta({', '.join(f'{name}={part}' for name, part in parts.items() if part)})"

    def _collection(self, value: Any) -> str:
        if hasattr(value, "items"):
            return f"{{{', '.join(f'{self.of(key)}: {self.of(item)}' for key, item in value.items())}}}"
        items = [self.of(item) for item in value]
        if isinstance(value, tuple):
            return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
        if isinstance(value, list):
            return f"[{', '.join(items)}]"
        return f"{type(value).__name__}([{', '.join(sorted(items))}])"

    def _plain(self, value: object) -> str:
        text = repr(value)
        kind = type(value)
        short = text.removeprefix(f"{kind.__module__}.")
        if kind.__module__ != "builtins" and short.startswith(f"{kind.__name__}("):
            self.needs(kind.__module__, kind.__name__)
            return short
        return text
