"""Lets a test be `async def`, and holds every such test to leaving nothing behind."""

from __future__ import annotations

import asyncio
import gc
import inspect
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["tests.real_servers"]
LONGEST = 60.0


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a coroutine test on a loop of its own. SD-16: what it leaves running or unread fails it."""
    function = pyfuncitem.obj
    if not inspect.iscoroutinefunction(function):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(function).parameters}
    complaints: list[str] = []

    def complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        complaints.append(f"{context['message']}: {context.get('exception')!r}")

    async def whole() -> None:
        asyncio.get_running_loop().set_exception_handler(complain)
        async with asyncio.timeout(LONGEST):
            await function(**arguments)
        await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        complaints.extend(f"a task was left running: {task!r}" for task in left)

    with asyncio.Runner() as runner:
        runner.run(whole())
        gc.collect(0)  # an exception that nobody fetched is told of when its future goes
    allowed = pyfuncitem.get_closest_marker("complains")
    if complaints and allowed is None:
        pytest.fail("the event loop complained:\n" + "\n".join(complaints))
    return True


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "complains: the event loop is expected to complain in this test")


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An engine of its own for this test, of each kind in turn."""
    if request.param == "memory":
        return f"memory://{tmp_path.name}-{id(request)}"
    if request.param == "postgres":
        database: str = request.getfixturevalue("postgres_database")
        return database
    return f"sqlite:///{tmp_path}/system.db?synchronous=normal"


@pytest.fixture(params=["sqlite", "postgres"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same, of each kind that several processes may open."""
    if request.param == "postgres":
        database: str = request.getfixturevalue("postgres_database")
        return database
    return f"sqlite:///{tmp_path}/system.db?synchronous=normal"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A file of its own for this test."""
    return f"sqlite:///{tmp_path}/system.db?synchronous=normal"
