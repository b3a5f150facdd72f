"""The engines of this package keep the contract of all engines."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from outlast.adapters.broker import BrokerEngine
from outlast.adapters.memory import MemoryEngine, MemoryStore
from outlast.adapters.sqlite import SqliteEngine
from outlast.engines import inspector_of
from outlast.errors import OutlastError
from outlast.ports import (
    Address,
    Changes,
    DeadLetter,
    Engine,
    Entry,
    Inspector,
    Parcel,
    Saved,
    Stash,
    World,
)
from outlast.ports import Store as BrokerStore
from outlast.testing import EngineContract, Features, StillWorld, Store
from outlast.testing.broker import SimulatedBroker, SimulatedTransport
from outlast.testing.contracts.rig import Rig, promise
from tests.contracts.stores import AtUrl

BROUGHT: dict[str, Any] = {
    "ordered": False,
    "shared": False,
    "leases": False,
    "arrives_within": timedelta(milliseconds=2),
    "returns_within": timedelta(seconds=1),
}
"""What a broker does otherwise than a database."""


class InMemory:
    def __init__(self) -> None:
        self.store = MemoryStore()

    def open(self, world: World) -> BrokerStore:
        return MemoryEngine(self.store, world)

    def inspector(self, engine: Engine) -> Inspector:
        return inspector_of(engine)


@dataclass(frozen=True)
class InSqlite:
    path: Path

    def open(self, world: World) -> BrokerStore:
        return SqliteEngine(self.path, world, synchronous="NORMAL")

    def inspector(self, engine: Engine) -> Inspector:
        return inspector_of(engine)


class AtBroker:
    """A simulated broker with a store."""

    def __init__(self, kind: str, store: InMemory | InSqlite | AtUrl, *, bundle: int = 1) -> None:
        self.bundle = bundle
        self.broker = SimulatedBroker(kind)
        self.store = store

    def open(self, world: World) -> Engine:
        return BrokerEngine(SimulatedTransport(self.broker), self.store.open(world), world, bundle=self.bundle)

    def inspector(self, engine: Engine) -> Inspector:
        return inspector_of(engine)


class TestMemory(EngineContract):
    features = Features(overlapping=True)

    @pytest.fixture
    def store(self) -> Store:
        return InMemory()


@pytest.mark.parametrize("kind", ["rabbitmq", "nats"])
class TestBrokerWithMemory(EngineContract):
    features = Features(overlapping=True, **BROUGHT)

    @pytest.fixture
    def store(self, kind: str) -> Store:
        return AtBroker(kind, InMemory())


@pytest.mark.parametrize("kind", ["rabbitmq", "nats"])
class TestBrokerWithBundles(EngineContract):
    features = Features(overlapping=True, **BROUGHT)

    @pytest.fixture
    def store(self, kind: str) -> Store:
        return AtBroker(kind, InMemory(), bundle=64)

    @promise()
    async def test_queues_are_counted(self, rig: Rig) -> None:
        """TR-34: by what the broker has, for which a bundle is one message."""
        await rig.engine.declare("shop", [])
        await rig.send("shop", b"1", b"2", b"3")
        await rig.arrived()

        (shop,) = [queue for queue in await rig.inspector.queues() if queue.service == "shop"]

        assert shop.waiting == 1


@pytest.mark.parametrize("kind", ["rabbitmq", "nats"])
class TestBrokerWithSqlite(EngineContract):
    features = Features(durable=True, **BROUGHT)

    @pytest.fixture
    def store(self, tmp_path: Path, kind: str) -> Store:
        return AtBroker(kind, InSqlite(tmp_path / "contract.db"))


@pytest.mark.parametrize("kind", ["rabbitmq", "nats"])
class TestBrokerWithPostgres(EngineContract):
    features = Features(durable=True, overlapping=True, **BROUGHT)

    @pytest.fixture
    def store(self, postgres_database: str, kind: str) -> Store:
        return AtBroker(kind, AtUrl(postgres_database))


class TestSqlite(EngineContract):
    features = Features(durable=True, processes=True, notices_death=True)

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return InSqlite(tmp_path / "contract.db")

    @pytest.mark.parametrize(
        "table", ["outlast_history", "outlast_dead", "outlast_stash", "outlast_dated", "outlast_instances"]
    )
    async def test_a_write_that_fails_halfway_leaves_nothing(self, tmp_path: Path, table: str) -> None:
        """OB-20, CP-05: whichever statement of a commit is refused, none of them has happened."""
        path = tmp_path / "contract.db"
        engine = SqliteEngine(path, world := StillWorld(), synchronous="NORMAL")
        inspector, due = inspector_of(engine), world.now() + timedelta(hours=1)
        with sqlite3.connect(path) as other:
            other.execute(f"CREATE TRIGGER fault BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'fault'); END")
        other.close()
        address = Address("shop", "fulfilment", "1")
        changes = Changes(
            parcels=[Parcel("1", b"1", queue="shop"), Parcel("2", b"2", queue="shop", due=due)],
            saved=[Saved(address, b"{}", 0, "c")],
            stashed=[Stash(Address("shop", "fulfilment", "2"), b"3", due)],
            dead=[DeadLetter(id="d", service="shop", packet=b"4", reason="it failed", at=world.now())],
            history=[Entry("c", world.now(), "shop", "handled", b"5")],
        )

        work = await engine.begin("shop")
        with pytest.raises((OutlastError, sqlite3.Error)):
            await work.commit(changes)

        assert await engine.receive("shop", 9) == []
        assert await inspector.instances(key="", done=None, limit=9) == []
        assert await inspector.dead_letters(status="", id="", limit=9) == []
        assert await inspector.history(conversation="", after=0, limit=9) == []
        assert await engine.relay(world.now(), 9) is None
        await (await engine.begin("shop")).rollback()
        await engine.close()


class TestPostgres(EngineContract):
    features = Features(
        durable=True, processes=True, notices_death=True, overlapping=True, returns_within=timedelta(seconds=2)
    )

    @pytest.fixture
    def store(self, postgres_database: str) -> Store:
        return AtUrl(postgres_database)
