"""Real brokers with real stores keep the contract of all engines."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psutil
import pytest
from servers.nats import Nats

from outlast.testing.contracts import EngineContract, Features, Store
from tests.contracts.stores import AtUrl
from tests.real_servers import started

BROUGHT: dict[str, Any] = {
    "ordered": False,
    "durable": True,
    "processes": True,
    "notices_death": True,
    "shared": False,
    "leases": False,
    "arrives_within": timedelta(milliseconds=100),
    "returns_within": timedelta(seconds=5),
}
"""What these engines have, whatever their store is."""


def connections() -> set[tuple[Any, Any]]:
    """Both ends of every connection that this process holds."""
    return {(one.laddr, one.raddr) for one in psutil.Process().net_connections("tcp") if one.raddr}


class BrokerContract(EngineContract):
    """The contract; and a test leaves no process of its own and no connection behind."""

    @pytest.fixture(autouse=True)
    def leaves_nothing(self, store: Store) -> Iterator[None]:
        before = connections()
        yield
        assert connections() <= before
        assert multiprocessing.active_children() == []


@pytest.fixture(scope="module")
def roomy_nats() -> Iterator[Nats]:
    """A NATS that takes larger messages than it does unless told."""
    yield from started(Nats(accounts=200, settings=["max_payload: 8MB"]))


@pytest.fixture
def nats_url(roomy_nats: Nats) -> str:
    """An account of this test's own, which does not wait long for what a killed process had."""
    return f"{roomy_nats.new_account()}?ack_wait=2"


class TestRabbitMQWithPostgres(BrokerContract):
    features = Features(overlapping=True, **BROUGHT)

    @pytest.fixture
    def store(self, rabbitmq_vhost: str, postgres_database: str) -> Store:
        return AtUrl(f"{rabbitmq_vhost}?store={postgres_database}")


class TestRabbitMQWithSqlite(BrokerContract):
    features = Features(**BROUGHT)

    @pytest.fixture
    def store(self, rabbitmq_vhost: str, sqlite_url: str) -> Store:
        return AtUrl(f"{rabbitmq_vhost}?store={sqlite_url}")


class TestNatsWithPostgres(BrokerContract):
    features = Features(overlapping=True, **BROUGHT)

    @pytest.fixture
    def store(self, nats_url: str, postgres_database: str) -> Store:
        return AtUrl(f"{nats_url}&store={postgres_database}")


class TestNatsWithSqlite(BrokerContract):
    features = Features(**BROUGHT)

    @pytest.fixture
    def store(self, nats_url: str, sqlite_url: str) -> Store:
        return AtUrl(f"{nats_url}&store={sqlite_url}")
