"""The contract of all engines, on a real NATS with a store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from servers.nats import Nats

from outlast.engines import inspector_of, open_engine
from outlast.ports import Engine, Inspector, World
from outlast.testing.contracts import EngineContract, Features, Store


@pytest.fixture(scope="module")
def roomy() -> Iterator[Nats]:
    """A NATS that takes larger messages than it does unless told."""
    with Nats(accounts=100, settings=["max_payload: 8MB"]) as server:
        yield server


class OnNats:
    def __init__(self, url: str) -> None:
        self.url = url

    def open(self, world: World) -> Engine:
        return open_engine(self.url, world)[0]

    def inspector(self, engine: Engine) -> Inspector:
        return inspector_of(engine)


class TestNatsWithSqlite(EngineContract):
    features = Features(
        ordered=False,
        durable=True,
        shared=False,
        leases=False,
        arrives_within=timedelta(milliseconds=100),
        returns_within=timedelta(seconds=5),
    )

    @pytest.fixture
    def store(self, roomy: Nats, tmp_path: Path) -> Store:
        return OnNats(f"{roomy.new_account()}?ack_wait=2&store=sqlite:///{tmp_path}/contract.db?synchronous=normal")
