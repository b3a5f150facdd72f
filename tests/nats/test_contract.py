"""The contract of all engines, on a real NATS with a store."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from outlast.engines import inspector_of, open_engine
from outlast.ports import Engine, Inspector, World
from outlast.testing.contracts import EngineContract, Features, Store


class OnNats:
    def __init__(self, url: str) -> None:
        self.url = url

    def open(self, world: World) -> Engine:
        return open_engine(self.url, world)[0]

    def inspector(self, engine: Engine) -> Inspector:
        return inspector_of(engine)


class TestNatsWithSqlite(EngineContract):
    features = Features(
        durable=True,
        shared=False,
        leases=False,
        arrives_within=timedelta(seconds=5),
        returns_within=timedelta(seconds=5),
    )

    @pytest.fixture
    def store(self, nats_account: str, tmp_path: Path) -> Store:
        return OnNats(f"{nats_account}?ack_wait=2&store=sqlite:///{tmp_path}/contract.db?synchronous=normal")
