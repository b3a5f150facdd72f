"""Names of services and workflows, and the numbers that stand for them in the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from outlast.adapters.postgres.schema import within
from outlast.adapters.postgres.sessions import Session

Workflow = tuple[str, str]
"""Service and name."""


class Names:
    """What is known for sure: it was committed, so it never changes."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self.queues: dict[str, int] = {}
        self.workflows: dict[Workflow, int] = {}
        self.services: dict[int, str] = {}
        """The names of queues by their numbers."""

    def learn(self, queues: Mapping[str, int], workflows: Mapping[Workflow, int]) -> None:
        """Remembers what is committed."""
        self.queues.update(queues)
        self.workflows.update(workflows)
        self.services.update({number: name for name, number in queues.items()})


class Numbers:
    """The numbers as one transaction sees them; it may add some, which count when it has committed."""

    def __init__(self, names: Names, session: Session) -> None:
        self._names = names
        self._session = session
        self._queues: dict[str, int] = {}
        self._workflows: dict[Workflow, int] = {}

    def committed(self) -> None:
        """What was added is there for everybody."""
        if self._queues or self._workflows:
            self._names.learn(self._queues, self._workflows)

    async def queue(self, name: str) -> int:
        """The number of a queue; it is made if there is none."""
        known = self._names.queues.get(name)
        return known if known is not None else (await self.queues([name]))[name]

    async def queues(self, names: Iterable[str], *, make: bool = True) -> Mapping[str, int]:
        """The numbers of these queues; those that are missing are made, unless told otherwise."""
        known = self._names.queues
        missing = sorted({name for name in names if name not in known and name not in self._queues})
        for statement, makes in _QUEUES if make else _QUEUES[:1]:
            if missing:
                rows = await self._rows(statement, missing)
                found = {name: number for number, name in rows}
                self._queues.update(found) if makes else self._names.learn(found, {})
                missing = [name for name in missing if name not in found]
        return {**known, **self._queues} if self._queues else known

    async def workflows(self, wanted: Iterable[Workflow], *, make: bool) -> Mapping[Workflow, int]:
        """The numbers of these workflows; those that are missing are made if told so."""
        known = self._names.workflows
        missing = sorted({workflow for workflow in wanted if workflow not in known and workflow not in self._workflows})
        for statement, makes in _WORKFLOWS if make else _WORKFLOWS[:1]:
            if missing:
                rows = await self._rows(statement, [service for service, _ in missing], [name for _, name in missing])
                found = {(service, name): number for number, service, name in rows}
                self._workflows.update(found) if makes else self._names.learn({}, found)
                missing = [workflow for workflow in missing if workflow not in found]
        return {**known, **self._workflows} if self._workflows else known

    async def _rows(self, sql: str, *values: object) -> Iterable[Any]:
        return await self._session.fetch(within(self._names.schema, sql), *values)


_FIND_QUEUES = "SELECT id, name FROM outlast.queues WHERE name = ANY($1::text[])"
_QUEUES = (
    (_FIND_QUEUES, False),
    ("INSERT INTO outlast.queues (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING RETURNING id, name", True),
    (_FIND_QUEUES, False),  # what another made meanwhile
)
_FIND_WORKFLOWS = (
    "SELECT w.id, w.service, w.name FROM unnest($1::text[], $2::text[]) AS wanted (service, name) "
    "JOIN outlast.workflows w ON w.service = wanted.service AND w.name = wanted.name"
)
_WORKFLOWS = (
    (_FIND_WORKFLOWS, False),
    (
        "INSERT INTO outlast.workflows (service, name) SELECT * FROM unnest($1::text[], $2::text[]) "
        "ON CONFLICT DO NOTHING RETURNING id, service, name",
        True,
    ),
    (_FIND_WORKFLOWS, False),
)
