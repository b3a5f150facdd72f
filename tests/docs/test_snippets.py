"""The code that the documentation shows is run, and accepted by both type checkers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def blocks(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    """The files that the README shows, in a directory."""
    for block in blocks("README.md"):
        name = block.partition("\n")[0].removeprefix("# ")
        (tmp_path / name).write_text(block, encoding="utf-8")
    return tmp_path


def test_the_test_in_the_readme_passes(readme: Path) -> None:
    result = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=readme)

    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout


def test_strict_type_checkers_accept_what_the_readme_shows(readme: Path) -> None:
    mypy = run(sys.executable, "-m", "mypy", "--strict", "--python-version", "3.11", "shop.py", cwd=readme)
    (readme / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict", "include": ["shop.py"]}')
    pyright = run(sys.executable, "-m", "pyright", "--pythonpath", sys.executable, cwd=readme)

    assert mypy.returncode == 0, mypy.stdout
    assert pyright.returncode == 0, pyright.stdout


def test_the_checks_of_the_command_line_accept_what_the_readme_shows(readme: Path) -> None:
    result = run(Path(sys.executable).with_name("outlast"), "check", "shop", cwd=readme)

    assert result.returncode == 0, result.stdout + result.stderr


def test_the_guide_is_a_program_that_books_a_room(tmp_path: Path) -> None:
    program = "\n".join(blocks("docs/guide.md")) + GUIDE_RUN
    (tmp_path / "guide.py").write_text(program, encoding="utf-8")

    result = run(sys.executable, "-W", "error", "guide.py", cwd=tmp_path)

    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["booked", "120", "240"]


GUIDE_RUN = """

import asyncio
import sqlite3


async def check() -> None:
    rooms = sqlite3.connect("hotel.db")
    rooms.execute("CREATE TABLE free_rooms (room INTEGER PRIMARY KEY)")
    rooms.execute("CREATE TABLE guests (booking_id TEXT)")
    rooms.execute("INSERT INTO free_rooms VALUES (101), (102), (103)")
    rooms.commit()
    rooms.close()
    gateway = CardGateway()
    async with (
        Worker([booking, hotel, billing], url="sqlite:///hotel.db", overrides={CardGateway: gateway}) as worker,
        Client(engine=worker.engine, world=worker.world) as client,
    ):
        await book(client)
        await book(client)
        assert await last_room(client) is not None
        await book_with_a_row(client)
        async with client.transaction() as transaction:
            assert await transaction.execute("SELECT booking_id FROM guests") == [("b-3",)]
        for _ in range(500):
            if len(gateway.charges) == 2:
                break
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
    assert await main("sqlite:///other.db") == "booking"
    print("booked", *sorted(gateway.charges.values()))


asyncio.run(check())
"""
