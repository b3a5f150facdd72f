"""The pytest plugin, as a project that has outlast installed meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PLUGIN = ["-p", "outlast.testing.plugin", "-p", "no:cacheprovider", "-q"]
# It is named, and not found by itself, so that the test does not depend on how outlast was installed.
ENVIRONMENT = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def pytest_run(folder: Path, source: str) -> str:
    (folder / "test_it.py").write_text(source)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGIN, str(folder)],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout + run.stderr


MODULE = """
from outlast import Event, Workflow, starts
from outlast.testing import Scenario

class Begun(Event):
    id: str

class Flow(Workflow, key="id"):
    count: int = 0

    @starts
    def begun(self, event: Begun) -> None:
        self.count = 1
        self.complete()
"""


def test_a_scenario_is_made_for_the_workflow_in_the_annotation(tmp_path: Path) -> None:
    source = MODULE + (
        "\ndef test_it(scenario: Scenario[Flow]) -> None:\n"
        "    scenario.when(Begun(id='1')).state(count=1)\n"
        "\ndef test_it_fails(scenario: Scenario[Flow]) -> None:\n"
        "    scenario.when(Begun(id='1')).state(count=2)\n"
    )

    output = pytest_run(tmp_path, source)

    assert "1 failed, 1 passed" in output
    assert "E       expected: count = 2\nE       actual:   count = 1" in output


def test_a_scenario_without_a_workflow_says_what_to_write(tmp_path: Path) -> None:
    output = pytest_run(tmp_path, MODULE + "\ndef test_it(scenario): ...\n")

    assert "Annotate the parameter: scenario: Scenario[Fulfilment]." in output


def test_a_simulation_is_made_of_services_and_ends_with_the_test(tmp_path: Path) -> None:
    source = MODULE + (
        "from outlast import Service\n"
        "made = []\n"
        "\ndef test_it(simulation):\n"
        "    sim = simulation([Service('flows', workflows=[Flow])], seed=3)\n"
        "    made.append(sim)\n"
        "    sim.publish(Begun(id='1'))\n"
        "    sim.run_until_quiet()\n"
        "    assert sim.instance(Flow, '1').count == 1\n"
        "\ndef test_it_ended():\n"
        "    assert made[0].stage.is_over\n"
    )

    output = pytest_run(tmp_path, source)

    assert "2 passed" in output, output


def test_an_engine_url_is_a_file_of_the_test(tmp_path: Path) -> None:
    output = pytest_run(tmp_path, "def test_it(engine_url, tmp_path): assert str(tmp_path) in engine_url\n")

    assert "1 passed" in output


def test_a_project_that_uses_nothing_of_it_pays_nothing(tmp_path: Path) -> None:
    source = (
        "import sys\n"
        "def test_it():\n"
        "    loaded = sorted(name for name in sys.modules if name.startswith(('outlast', 'msgspec')))\n"
        "    assert loaded == ['outlast', 'outlast.testing', 'outlast.testing.plugin']\n"
    )

    output = pytest_run(tmp_path, source)

    assert "1 passed" in output, output
