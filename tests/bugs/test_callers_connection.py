"""What the way in which a caller's connection reads rows did to the messages of its transaction."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from outlast import Event, Service
from tests.system import running, until


class Noted(Event):
    key: str


def as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


@pytest.mark.parametrize(("row_factory", "text_factory"), [(as_dict, str), (sqlite3.Row, bytes), (None, bytes)])
async def test_a_transaction_sends_whatever_factories_its_connection_has(
    sqlite_url: str, tmp_path: Path, row_factory: Any, text_factory: Any
) -> None:
    """The engine asked the caller's connection who subscribes to an event, and read the answer as rows of text.

    With `text_factory = bytes` no subscriber had the event's name, so the event was committed to nobody: lost, and
    nobody was told. With a row factory that makes dicts (the recipe of Python's manual) the call failed.
    """
    service, heard = Service("s"), list[str]()

    @service.handles
    async def note(event: Noted) -> None:
        heard.append(event.key)

    async with running(sqlite_url, service) as system:
        connection = sqlite3.connect(tmp_path / "system.db")
        connection.row_factory, connection.text_factory = row_factory, text_factory
        async with system.client.transaction(connection) as messages:
            messages.publish(Noted(key="1"))
            kinds = connection.execute("SELECT 'text' AS kind").fetchone()
            assert (kinds["kind"] if row_factory else kinds[0]) == ("text" if text_factory is str else b"text")
        assert (connection.row_factory, connection.text_factory) == (row_factory, text_factory)
        connection.close()
        await until(lambda: heard == ["1"], within=5)
