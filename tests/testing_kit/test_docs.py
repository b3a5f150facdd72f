"""The code of docs/testing.md runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
TESTS = {"test_fulfilment.py": 4, "test_crashes.py": 1, "test_system.py": 1, "test_my_engine.py": 60}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every program of the page; the first line of each is its name."""
    folder = tmp_path_factory.mktemp("docs")
    for name, program in re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (folder / name).write_text(program)
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(folder)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", TESTS)
def test_a_test_of_the_page_passes(folder: Path, name: str) -> None:
    done = run(folder, "-m", "pytest", "-p", "outlast.testing.plugin", "-p", "no:cacheprovider", "-q", name)

    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert passed is not None
    assert int(passed[1]) >= TESTS[name]


def test_the_page_shows_what_a_failed_step_prints(folder: Path) -> None:
    source = (
        "from test_fulfilment import *\n"
        "try:\n"
        "    Scenario(Fulfilment).when(PLACED).sends(MakePayment(order_id='1', amount=Decimal(6)))\n"
        "except AssertionError as error:\n"
        "    print('AssertionError:', error)\n"
    )

    done = run(folder, "-c", source)

    assert done.stdout.strip() in PAGE.read_text()


def test_what_happened_can_be_recorded(folder: Path) -> None:
    source = (
        "import asyncio\n"
        "from test_system import *\n"
        "test_an_order_goes_through('sqlite:///orders.db')\n"
        "from record import record\n"
        "print(asyncio.run(record('sqlite:///orders.db', '1')))\n"
    )

    done = run(folder, "-c", source)
    (folder / "test_recorded.py").write_text(done.stdout)
    replayed = run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_recorded.py")

    assert "scenario.sends(CreateLabel(order_id=" in done.stdout, done.stderr
    assert "1 passed" in replayed.stdout, replayed.stdout


def test_type_checkers_accept_the_page(folder: Path) -> None:
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    programs = [name for name in os.listdir(folder) if name.endswith(".py") and name != "test_recorded.py"]

    mypy = run(folder, "-m", "mypy", "--strict", *programs)
    pyright = run(folder, "-m", "pyright", "--pythonpath", sys.executable, *programs)

    assert mypy.returncode == 0, mypy.stdout
    assert pyright.returncode == 0, pyright.stdout
