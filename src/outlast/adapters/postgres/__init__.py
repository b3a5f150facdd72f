"""Queue, state, timers and history in one PostgreSQL database that any number of processes share."""

from outlast.adapters.postgres.engine import PostgresEngine
from outlast.adapters.postgres.inspector import PostgresInspector

__all__ = ["PostgresEngine", "PostgresInspector"]
