"""The hand-written limit on SQLite: the order workflow as one would write it for this one purpose.

No retries, no envelopes, no history, no dead letters, one process, large batches: what the standard library's
driver can do when nothing else is asked of it. `synchronous=FULL`, so every commit is on the disk.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from bench.by_hand import (
    ORDERING,
    PAYMENT,
    Paid,
    Pay,
    Placed,
    Ship,
    Shipped,
    State,
    new_id,
    placed,
    read,
    read_state,
    write,
)

BATCH = 512


class Limit:
    """The file and its three queues."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
        self.execute, self.many = self.connection.execute, self.connection.executemany
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("PRAGMA synchronous = FULL")
        self.execute("PRAGMA cache_size = -65536")
        self.execute("PRAGMA wal_autocheckpoint = 4000")
        for queue in range(3):
            self.execute(f"CREATE TABLE q{queue} (id INTEGER PRIMARY KEY, body BLOB)")
        self.execute("CREATE TABLE state (id TEXT PRIMARY KEY, version INT, done INT, data BLOB) WITHOUT ROWID")

    def place(self, first: int, last: int) -> None:
        self.execute("BEGIN IMMEDIATE")
        self.many(
            "INSERT INTO q0 (body) VALUES (?)",
            [(write(placed(number)),) for number in range(first, last)],
        )
        self.execute("COMMIT")

    def step(self, queue: int) -> int:
        """One transaction for one queue; returns how many messages it handled."""
        self.execute("BEGIN IMMEDIATE")
        rows = self.execute(f"SELECT id, body FROM q{queue} ORDER BY id LIMIT ?", (BATCH,)).fetchall()
        if rows:
            messages = [read(body) for _, body in rows]
            if queue == ORDERING:
                self.order(messages)
            elif queue == PAYMENT:
                answers = [(write(Paid(new_id(), m.order, f"pay-{m.order[:8]}")),) for m in messages]
                self.many("INSERT INTO q0 (body) VALUES (?)", answers)
            else:
                answers = [(write(Shipped(new_id(), m.order, f"label-{m.order[:8]}")),) for m in messages]
                self.many("INSERT INTO q0 (body) VALUES (?)", answers)
            self.execute(f"DELETE FROM q{queue} WHERE id <= ?", (rows[-1][0],))
        self.execute("COMMIT")
        return len(rows)

    def order(self, messages: list) -> None:
        wanted = [m.order for m in messages if not isinstance(m, Placed)]
        found = self.execute(
            "SELECT id, data FROM state WHERE id IN (SELECT value FROM json_each(?))", (write(wanted).decode(),)
        )
        states = {id: read_state(data) for id, data in found}
        begun, changed, pay, ship = [], [], [], []
        for m in messages:
            if isinstance(m, Placed):
                state = State(m.order, m.customer, m.sku)
                begun.append((m.order, 1, 0, write(state)))
                pay.append((write(Pay(new_id(), m.order, m.customer, m.amount)),))
                continue
            state = states[m.order]
            if isinstance(m, Paid):
                state.payment = m.payment
                ship.append((write(Ship(new_id(), m.order, state.customer, state.sku)),))
            else:
                state.label, state.done = m.label, True
            state.version += 1
            changed.append((state.version, state.done, write(state), m.order, state.version - 1))
        self.many("INSERT INTO state VALUES (?, ?, ?, ?)", begun)
        self.many("UPDATE state SET version = ?, done = ?, data = ? WHERE id = ? AND version = ?", changed)
        self.many("INSERT INTO q1 (body) VALUES (?)", pay)
        self.many("INSERT INTO q2 (body) VALUES (?)", ship)


def run(path: Path, orders: int) -> float:
    """Orders per second, placing included."""
    limit = Limit(path)
    begin = time.perf_counter()
    for first in range(0, orders, BATCH):
        limit.place(first, min(first + BATCH, orders))
    while sum(limit.step(queue) for queue in range(3)):
        pass
    seconds = time.perf_counter() - begin
    (done,) = limit.execute("SELECT count(*) FROM state WHERE done").fetchone()
    assert done == orders
    limit.connection.close()
    return orders / seconds
