"""What is behind a simulated world: the real engines, one per process, over one store, and a look into that store."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from outlast.adapters.memory import MemoryEngine, MemoryStore
from outlast.adapters.sqlite import SqliteEngine
from outlast.adapters.sqlite.schema import connect, micros, moment
from outlast.ports import Address, DeadLetter, Engine, World
from outlast.testing.faults import FaultyEngine, Vessel
from outlast.testing.invariants import Books, Remains
from outlast.testing.tape import Fault
from outlast.testing.turnstile import Turnstile


class Backstage(Protocol):
    """One store that several simulated processes share."""

    turnstile: Turnstile | None
    """Who may write, if only one may."""

    def engine(self, world: World, vessel: Vessel, books: Books) -> FaultyEngine:
        """A process's engine."""
        ...

    async def prepare(self, engine: Engine, topics: Mapping[str, Sequence[str]]) -> None:
        """Declares these services."""
        ...

    def silent(self, engine: Any) -> None:
        """The process that has this engine has not been heard of for a while."""
        ...

    def befall(self, engine: Any, fault: Fault) -> None:
        """Something happens to the broker, or to this process's connection."""
        ...

    def kill(self, engine: Any) -> None:
        """What SIGKILL does to the process that has this engine."""
        ...

    def is_idle(self) -> bool:
        """Nothing waits, nothing is dated, nothing is stashed."""
        ...

    def next_expiry(self, now: datetime) -> datetime | None:
        """When the next claim ends by itself."""
        ...

    def remains(self, now: datetime) -> Remains:
        """Everything that is there."""
        ...

    def state(self, address: Address) -> bytes | None:
        """The stored state of an instance."""
        ...

    def close(self) -> None: ...


class DatabaseBackstage:
    """What all have in common that have no broker."""

    turnstile: Turnstile | None = None

    def connect(self, world: World) -> Engine:
        """One more engine on the store."""
        raise NotImplementedError

    def engine(self, world: World, vessel: Vessel, books: Books) -> FaultyEngine:
        return FaultyEngine(self.connect(world), vessel, books, self.turnstile)

    async def prepare(self, engine: Engine, topics: Mapping[str, Sequence[str]]) -> None:
        for name, wanted in topics.items():
            await engine.declare(name, wanted)

    def silent(self, engine: Any) -> None:
        pass

    def befall(self, engine: Any, fault: Fault) -> None:
        pass


class MemoryBackstage(DatabaseBackstage):
    """The reference engine's store."""

    def __init__(self) -> None:
        self.store = MemoryStore()

    def connect(self, world: World) -> Engine:
        return MemoryEngine(self.store, world)

    def kill(self, engine: Any) -> None:
        engine.die()

    def is_idle(self) -> bool:
        store = self.store
        return not (any(store.queues.values()) or store.dated or store.stashes)

    def next_expiry(self, now: datetime) -> datetime | None:
        rows = [row for queue in self.store.queues.values() for row in queue.values()]
        return min((row.claimed_until for row in rows if row.claimed_until and row.claimed_until > now), default=None)

    def remains(self, now: datetime) -> Remains:
        store = self.store
        return Remains(
            waiting=[(name, row.packet) for name, queue in store.queues.items() for row in queue.values()],
            claimed=sum(row.owner is not None for queue in store.queues.values() for row in queue.values()),
            dated=[(parcel.queue, parcel.topic, parcel.packet) for _, _, parcel in store.dated],
            stashed=[stash.packet for stash in store.stashes],
            instances={address: (row.version, row.saved.done) for address, row in store.instances.items()},
            dead=[item.letter for item in store.dead],
        )

    def state(self, address: Address) -> bytes | None:
        row = self.store.instances.get(address)
        return row.saved.state if row is not None else None

    def close(self) -> None:
        self.store.engines.clear()


class SimulatedBell:
    """Wakes simulated processes instead of real ones, and knows which of them died."""

    def __init__(self, hung: dict[str, tuple[SimulatedBell, Callable[[], None]]]) -> None:
        self.hung = hung
        self.is_alive = True

    def hang(self, name: str, number: int, *, notify: Callable[[], None]) -> None:
        self.hung[f"{name}.{number}"] = (self, notify)

    def ring(self, names: Iterable[str]) -> None:
        wanted = set(names)
        for entry, (bell, notify) in list(self.hung.items()):
            if bell.is_alive and entry.rpartition(".")[0] in wanted:
                notify()

    def dead(self, name: str) -> list[str]:
        return [e for e, (bell, _) in self.hung.items() if e.rpartition(".")[0] == name and not bell.is_alive]

    def alive(self, name: str) -> int:
        return sum(e.rpartition(".")[0] == name and bell.is_alive for e, (bell, _) in self.hung.items())

    def remove(self, entries: Iterable[str]) -> None:
        for entry in entries:
            self.hung.pop(entry, None)

    def close(self) -> None:
        self.remove([entry for entry, (bell, _) in self.hung.items() if bell is self])


class SqliteBackstage(DatabaseBackstage):
    """The real SQLite engine on a real file, in memory where the system has such a directory."""

    def __init__(self) -> None:
        shared = Path("/dev/shm")
        self.directory = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))
        self.path = self.directory / "simulated.db"
        self.turnstile: Turnstile | None = Turnstile()
        self._hung: dict[str, tuple[SimulatedBell, Callable[[], None]]] = {}
        self._engines: list[SqliteEngine] = []
        self._connection = connect(self.path, synchronous="OFF")

    def connect(self, world: World) -> Engine:
        engine = SqliteEngine(self.path, world, synchronous="OFF")
        engine.bell = SimulatedBell(self._hung)  # type: ignore[assignment]  # no FIFOs in virtual time
        self._engines.append(engine)
        return engine

    def kill(self, engine: Any) -> None:
        engine.bell.is_alive = False
        # SQLite rolls back what was open, as it does after a process has died.
        engine.connection.really_close()
        self._engines.remove(engine)

    def is_idle(self) -> bool:
        tables = ["outlast_dated", "outlast_stash", *self._queues().values()]
        return not any(self._rows(f"SELECT 1 FROM {table} LIMIT 1") for table in tables)

    def next_expiry(self, now: datetime) -> datetime | None:
        found = [
            row[0]
            for table in self._queues().values()
            for row in self._rows(f"SELECT min(claimed_until) FROM {table} WHERE claimed_until > {micros(now)}")
        ]
        return min((moment(at) for at in found if at is not None), default=None)

    def remains(self, now: datetime) -> Remains:
        queues, rows = self._queues(), self._rows
        decode = msgspec.json.Decoder(DeadLetter).decode
        return Remains(
            waiting=[(name, row[0]) for name, table in queues.items() for row in rows(f"SELECT packet FROM {table}")],
            claimed=sum(
                rows(f"SELECT count(*) FROM {table} WHERE owner IS NOT NULL")[0][0] for table in queues.values()
            ),
            dated=[
                (queue, topic, packet)
                for queue, topic, packet in rows("SELECT queue, topic, packet FROM outlast_dated")
            ],
            stashed=[packet for (packet,) in rows("SELECT packet FROM outlast_stash")],
            instances={
                Address(service, workflow, key): (version, bool(done))
                for service, workflow, key, version, done in rows(
                    "SELECT w.service, w.name, i.key, i.version, i.done FROM outlast_instances i "
                    "JOIN outlast_workflows w ON w.id = i.workflow"
                )
            },
            dead=[
                msgspec.structs.replace(decode(letter), packet=packet)
                for letter, packet in rows("SELECT letter, packet FROM outlast_dead ORDER BY number")
            ],
        )

    def state(self, address: Address) -> bytes | None:
        found = self._connection.execute(
            "SELECT i.state FROM outlast_instances i JOIN outlast_workflows w ON w.id = i.workflow "
            "WHERE w.service = ? AND w.name = ? AND i.key = ?",
            (address.service, address.workflow, address.key),
        ).fetchone()
        return found[0] if found is not None else None

    def close(self) -> None:
        for engine in self._engines:
            engine.connection.really_close()
        self._connection.really_close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _queues(self) -> Mapping[str, str]:
        return {name: f"outlast_queue_{id}" for id, name in self._rows("SELECT id, name FROM outlast_queues")}

    def _rows(self, sql: str) -> Sequence[Any]:
        try:
            return self._connection.execute(sql).fetchall()
        except sqlite3.OperationalError:  # a queue that another process is just making
            return []
