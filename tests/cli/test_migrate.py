"""`outlast migrate`: tables and queues made ahead of time, by somebody with the rights to."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from outlast.cli.group import run

PROGRAM = """
from outlast import Event, Service


class Placed(Event):
    order_id: str


shop = Service("shop")


@shop.handles
async def note(event: Placed) -> None: ...
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "corner.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)
    return "corner:shop"


async def test_tables_are_made_once_and_again(postgres_database: str, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert await asyncio.to_thread(run, ["migrate", "--url", postgres_database]) == 0
    assert "up to date" in capsys.readouterr().out


async def test_the_sql_is_printed_and_nothing_is_made(
    postgres_database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await asyncio.to_thread(run, ["migrate", "--url", postgres_database, "--sql"]) == 0
    assert "CREATE SCHEMA" in capsys.readouterr().out


async def test_a_file_has_no_tables_to_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(run, ["migrate", "--url", f"sqlite:///{tmp_path / 'a.db'}"]) != 0
    assert "no tables that anybody has to make" in capsys.readouterr().err


async def test_queues_are_made_ahead_for_services_that_may_not(
    rabbitmq_vhost: str, postgres_database: str, app: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """BR-24: a service whose user may not configure the broker finds what it needs."""
    url = f"{rabbitmq_vhost}?store={postgres_database}"

    code = await asyncio.to_thread(run, ["migrate", "--url", url, "--topology", "--app", app, "--json"])

    assert code == 0
    assert json.loads(capsys.readouterr().out) == {"migrated": True, "topology": ["shop"]}
    from outlast.adapters.rabbitmq.transport import RabbitMQTransport
    from outlast.adapters.system import SystemWorld

    passive = RabbitMQTransport(f"{rabbitmq_vhost}?topology=passive", SystemWorld())
    passive.open(Deaf())
    await passive.declare("shop", ["placed"], [])
    await passive.close()


class Deaf:
    """Takes nothing from a transport."""

    def arrived(self, service: str, arrivals: object) -> None: ...

    def lost(self, service: str) -> None: ...

    def answered(self, request: str, packet: bytes) -> None: ...
