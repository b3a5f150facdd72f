"""The engines of this package keep the contract of all engines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from outlast.adapters.memory import MemoryEngine, MemoryStore
from outlast.adapters.sqlite import SqliteEngine
from outlast.engines import inspector_of
from outlast.ports import Engine, Inspector, World
from outlast.testing import EngineContract, Features, Store


class InMemory:
    def __init__(self) -> None:
        self.store = MemoryStore()

    def open(self, world: World) -> Engine:
        return MemoryEngine(self.store, world)

    def inspector(self, engine: Engine) -> Inspector:
        return inspector_of(engine)


@dataclass(frozen=True)
class InSqlite:
    path: Path

    def open(self, world: World) -> Engine:
        return SqliteEngine(self.path, world, synchronous="NORMAL")

    def inspector(self, engine: Engine) -> Inspector:
        return inspector_of(engine)


class TestMemory(EngineContract):
    features = Features(overlapping=True)

    @pytest.fixture
    def store(self) -> Store:
        return InMemory()


class TestSqlite(EngineContract):
    features = Features(durable=True, processes=True, notices_death=True)

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return InSqlite(tmp_path / "contract.db")
