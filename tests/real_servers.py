"""Fixtures that give a test a real PostgreSQL, RabbitMQ or NATS, and a part of it that is the test's own.

One private server of each kind serves a whole test session, started when the first test asks for it. Such a variable
names one that runs already instead: OUTLAST_TEST_POSTGRES, OUTLAST_TEST_RABBITMQ, OUTLAST_TEST_NATS. On a given
RabbitMQ there is no virtual host for each test; on a given NATS every stream of the account is deleted.

A test that ends or halts a server starts a private one from `servers` and leaves these alone.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterator
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

import nats as nats_client
import psycopg
import pytest
from nats.js.errors import ServiceUnavailableError
from servers.nats import Nats
from servers.postgres import Postgres
from servers.rabbitmq import RabbitMQ
from servers.server import NotInstalled, Server

Kind = TypeVar("Kind", bound=Server)

numbers = itertools.count(1)


def started(server: Kind) -> Iterator[Kind]:
    """The server, running until the end of the session. Missing: skipped on a laptop, an error in CI."""
    try:
        server.start()
    except NotInstalled as missing:
        server.close()
        required = os.environ.get("CI") or os.environ.get("OUTLAST_REQUIRE_SERVICES")
        raise (pytest.fail if required else pytest.skip).Exception(str(missing), pytrace=False) from None
    except BaseException:
        server.close()
        raise
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """The session's private PostgreSQL."""
    yield from started(Postgres())


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitMQ]:
    """The session's private RabbitMQ."""
    yield from started(RabbitMQ())


@pytest.fixture(scope="session")
def nats_server() -> Iterator[Nats]:
    """The session's private NATS."""
    yield from started(Nats(accounts=100))


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> str:
    """The URL of a PostgreSQL that all tests share."""
    return os.environ.get("OUTLAST_TEST_POSTGRES") or request.getfixturevalue("postgres_server").url


@pytest.fixture(scope="session")
def rabbitmq(request: pytest.FixtureRequest) -> str:
    """The URL of a RabbitMQ that all tests share."""
    return os.environ.get("OUTLAST_TEST_RABBITMQ") or request.getfixturevalue("rabbitmq_server").url


@pytest.fixture(scope="session")
def nats(request: pytest.FixtureRequest) -> str:
    """The URL of a NATS with JetStream that all tests share."""
    return os.environ.get("OUTLAST_TEST_NATS") or request.getfixturevalue("nats_server").url


@pytest.fixture(scope="session")
def postgres_operator(postgres: str) -> Iterator[psycopg.Connection]:
    """A connection that makes and drops databases; not for tests."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        yield connection


@pytest.fixture
def postgres_database(postgres: str, postgres_operator: psycopg.Connection) -> Iterator[str]:
    """The URL of an empty database of this test's own. Whoever is still connected at the end is cut off."""
    name = f"outlast_test_{os.getpid()}_{next(numbers)}"
    postgres_operator.execute(f'CREATE DATABASE "{name}"')
    yield urlunsplit(urlsplit(postgres)._replace(path=f"/{name}"))
    postgres_operator.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def rabbitmq_vhost(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty virtual host of this test's own; of a given RabbitMQ the URL as it is."""
    given = os.environ.get("OUTLAST_TEST_RABBITMQ")
    if given:
        yield given
        return
    server = request.getfixturevalue("rabbitmq_server")
    name = f"test-{next(numbers)}"
    yield server.add_vhost(name)
    server.delete_vhost(name)


@pytest.fixture
def nats_account(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an account of this test's own, with an empty JetStream; a given NATS is emptied before and after."""
    given = os.environ.get("OUTLAST_TEST_NATS")
    if given:
        asyncio.run(delete_streams(given))
    url = given or request.getfixturevalue("nats_server").new_account()
    yield url
    asyncio.run(delete_streams(url))


async def delete_streams(url: str) -> None:
    """Empties an account, so that a session of many tests does not hold ever more files open."""
    connection = await nats_client.connect(url)
    try:
        jetstream = connection.jetstream()
        while streams := await jetstream.streams_info():
            for stream in streams:
                await jetstream.delete_stream(str(stream.config.name))
    except ServiceUnavailableError:
        pass  # a NATS that the test has left without JetStream keeps nothing
    finally:
        await connection.close()
