"""What an outside system keeps: an append-only ledger in a file of its own, and the keys that it has seen.

Nothing here takes part in any transaction of outlast. A process that is killed after an effect and before its own
commit leaves the effect behind, as it would at a real gateway; only the idempotency key tells the next attempt.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

TABLES = """
CREATE TABLE IF NOT EXISTS effects (    -- nothing is unique but the number: a double effect is to be seen
    number INTEGER PRIMARY KEY,
    at REAL NOT NULL,                   -- by the monotonic clock, which no process can have to itself
    kind TEXT NOT NULL,
    order_id TEXT NOT NULL,
    amount TEXT NOT NULL,
    key TEXT NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS effects_order ON effects (order_id);
CREATE TABLE IF NOT EXISTS keys (
    key TEXT PRIMARY KEY,
    number INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS repeats (    -- requests that found their key, and had no second effect
    at REAL NOT NULL,
    key TEXT NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that an outside system did: a charge, a refund, a label, a void."""

    kind: str
    order_id: str
    amount: Decimal
    key: str
    reason: str = ""
    at: float = field(default=0.0, compare=False)
    """In seconds of the machine's monotonic clock."""


class Ledger:
    """The ledger in one file. Several processes may use it at the same time."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=30)
        self.connection.execute("PRAGMA journal_mode = WAL")
        # It stands for another company's machine, which does not crash here; ours would pay for its fsync.
        self.connection.execute("PRAGMA synchronous = OFF")
        self.connection.executescript(TABLES)

    def enter(
        self, kind: str, order_id: str, amount: Decimal, *, key: str, unless: str = "", reason: str = ""
    ) -> int | None:
        """Enters an effect, once for each key, and returns its number.

        `None`, and no entry, if there is an effect of the kind `unless` for this order.
        """
        effect = Effect(kind, order_id, amount, key, reason, time.monotonic())
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            number = self._entered(effect, unless)
        except BaseException:
            execute("ROLLBACK")
            raise
        execute("COMMIT")
        return number

    def _entered(self, effect: Effect, unless: str) -> int | None:
        execute = self.connection.execute
        seen = execute("SELECT number FROM keys WHERE key = ?", (effect.key,)).fetchone()
        if seen is not None:
            execute("INSERT INTO repeats VALUES (?, ?)", (effect.at, effect.key))
            return int(seen[0])
        refusing = "SELECT 1 FROM effects WHERE order_id = ? AND kind = ?"
        if unless and execute(refusing, (effect.order_id, unless)).fetchone():
            return None
        number = execute(
            "INSERT INTO effects (at, kind, order_id, amount, key, reason) VALUES (?, ?, ?, ?, ?, ?) RETURNING number",
            (effect.at, effect.kind, effect.order_id, str(effect.amount), effect.key, effect.reason),
        ).fetchone()[0]
        execute("INSERT INTO keys VALUES (?, ?)", (effect.key, number))
        return int(number)

    def effects(self) -> list[Effect]:
        """All that was done, in order."""
        rows = self.connection.execute("SELECT kind, order_id, amount, key, reason, at FROM effects ORDER BY number")
        return [Effect(kind, id, Decimal(amount), key, reason, at) for kind, id, amount, key, reason, at in rows]

    def repeats(self) -> int:
        """How many requests came with a key that was known, and were absorbed."""
        return int(self.connection.execute("SELECT count(*) FROM repeats").fetchone()[0])

    def close(self) -> None:
        self.connection.close()
