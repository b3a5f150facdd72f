"""Queue, state, timers and history in one SQLite file that several processes share."""

from outlast.adapters.sqlite.engine import SqliteEngine
from outlast.adapters.sqlite.inspector import SqliteInspector

__all__ = ["SqliteEngine", "SqliteInspector"]
