"""A RabbitMQ that the tests of this folder may harm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers.rabbitmq import RabbitMQ

from tests.real_servers import numbers, started

SETTINGS = ("max_message_size = 3000000",)


@pytest.fixture(scope="session")
def mortal_rabbitmq() -> Iterator[RabbitMQ]:
    """For the whole session; whoever ends or halts it starts it again."""
    yield from started(RabbitMQ(settings=SETTINGS))


@pytest.fixture
def mortal_vhost(mortal_rabbitmq: RabbitMQ) -> Iterator[str]:
    """The URL of an empty virtual host on it."""
    name = f"mortal-{next(numbers)}"
    yield mortal_rabbitmq.add_vhost(name)
    mortal_rabbitmq.delete_vhost(name)
