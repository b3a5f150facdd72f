"""Names of services and workflows, and the numbers that stand for them in the file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from outlast.adapters.sqlite.schema import QUEUE, run_script
from outlast.errors import Unavailable


class Tables:
    """Finds the tables of one file. What it remembers was committed, so it never changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._queues: dict[str, int] = {}
        self._workflows: dict[tuple[str, str], int] = {}

    def view(self, service: str, connection: sqlite3.Connection) -> str:
        """What waits in a queue: a name made of a number of ours, never of anything from outside."""
        return f"outlast_queue_{self.queue(service, connection)}"

    def queue(self, service: str, connection: sqlite3.Connection) -> int:
        """The number of a queue; it is made if there is none (within the transaction, if there is one)."""
        known = self._queues.get(service)
        if known is not None:
            return known
        found = connection.execute("SELECT id FROM outlast_queues WHERE name = ?", (service,)).fetchone()
        if found is None:
            return self._make_queue(service, connection)
        number: int = found[0]
        if not connection.in_transaction:
            # Within one it might be rolled back yet.
            self._queues[service] = number
        return number

    def _make_queue(self, service: str, connection: sqlite3.Connection) -> int:
        connection.execute("SAVEPOINT outlast_queue")
        number: int = connection.execute(
            "INSERT INTO outlast_queues (name) VALUES (?) ON CONFLICT (name) DO UPDATE SET name = name RETURNING id",
            (service,),
        ).fetchone()[0]
        run_script(connection, QUEUE.format(id=number))
        connection.execute("RELEASE outlast_queue")
        return number

    def workflow(self, service: str, name: str, connection: sqlite3.Connection) -> int | None:
        """The number of a workflow, if an instance of it has ever been stored."""
        known = self._workflows.get((service, name))
        if known is not None:
            return known
        found = connection.execute(
            "SELECT id FROM outlast_workflows WHERE service = ? AND name = ?", (service, name)
        ).fetchone()
        if found is None:
            return None
        number: int = found[0]
        if not connection.in_transaction:
            self._workflows[service, name] = number
        return number

    def unavailable(self, attempt: str, error: BaseException) -> Unavailable:
        """The error for a failure of the file or the disk."""
        return Unavailable(
            f"{attempt} on {self.path} failed: {error}. Nothing was changed, and it is tried again. Look for a full "
            "or read-only disk, or a process that holds the file locked."
        )
