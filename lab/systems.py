"""The six systems that are compared: four ways, the last one on three engines."""

from __future__ import annotations

from dataclasses import dataclass

from lab import chained, monolith, orchestrated, workflow
from lab.way import Way


@dataclass(frozen=True)
class System:
    """A way to build the shop, on what it stands on."""

    title: str
    modules: tuple[str, ...]
    """The files that only this way needs, or only those that call."""
    way: Way
    engine: str = ""
    """outlast's engine, for those who use it."""

    @property
    def has_database_server(self) -> bool:
        return self.engine != "sqlite"

    @property
    def is_asynchronous(self) -> bool:
        return bool(self.engine)


SYSTEMS = {
    "monolith": System("monolith", ("monolith",), monolith.WAY),
    "chained": System("service to service", ("chained", "service", "calls"), chained.WAY),
    "orchestrated": System("synchronous orchestrator", ("orchestrated", "service", "calls"), orchestrated.WAY),
    "sqlite": System("workflow on SQLite", ("workflow",), workflow.WAY, "sqlite"),
    "postgres": System("workflow on PostgreSQL", ("workflow",), workflow.WAY, "postgres"),
    "rabbitmq": System("workflow on RabbitMQ", ("workflow",), workflow.WAY, "rabbitmq"),
}
