"""What a block of client.transaction did that stands in another one."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from outlast import Client, Event, Service
from outlast.errors import Misuse
from tests.system import running


class Noted(Event):
    key: str


async def test_a_transaction_within_a_transaction_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    """The inner block waited for the end of the outer one, which waited for it: for ever, and as the outer one holds
    the engine's lock, the worker beside them waited too. A call of another client on the same engine did the same.
    """
    service, heard = Service("s"), list[str]()

    @service.handles
    async def note(event: Noted) -> None:
        heard.append(event.key)

    path = tmp_path / "system.db"
    async with running(sqlite_url, service) as system:
        with closing(sqlite3.connect(path)) as outer, closing(sqlite3.connect(path)) as inner:
            async with (
                asyncio.timeout(5),
                Client(engine=system.engine, world=system.client.world) as other,
                system.client.transaction(outer) as messages,
            ):
                messages.publish(Noted(key="1"))
                with pytest.raises(Misuse, match="stands in"):
                    async with system.client.transaction(inner):
                        pass
                with pytest.raises(Misuse, match="stands in"):
                    await other.publish(Noted(key="2"))
            await system.quiet()
            assert heard == ["1"]
