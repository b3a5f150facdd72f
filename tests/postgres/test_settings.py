"""What a database may be set to without anything coming out otherwise."""

from __future__ import annotations

import pytest

from outlast.testing import Features, Store
from outlast.testing.contracts.instances import InstanceContract
from outlast.testing.contracts.letters import LetterContract
from tests.contracts.stores import AtUrl


@pytest.mark.parametrize("level", ["repeatable%20read", "serializable"])
class TestIsolation(InstanceContract):
    """DB-21: who is the first to change an instance is told by its version, under every level of isolation."""

    features = Features(durable=True, overlapping=True)

    @pytest.fixture
    def store(self, postgres_database: str, level: str) -> Store:
        return AtUrl(f"{postgres_database}?default_transaction_isolation={level}")


class TestTimeZone(LetterContract):
    """DB-23: dates mean what they say, wherever the database is."""

    features = Features(durable=True, overlapping=True)

    @pytest.fixture
    def store(self, postgres_database: str) -> Store:
        return AtUrl(f"{postgres_database}?timezone=Asia/Kathmandu")
