"""A short run with real processes, real HTTP and real kills. Its figures are too small to mean much."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("postgres_server")  # so that the run is skipped, or fails, as others do without one
def test_a_quick_run_compares_and_reports(tmp_path: Path) -> None:
    names = "orchestrated,sqlite,postgres"

    ended = subprocess.run(
        [sys.executable, "-m", "lab", "--quick", "--only", names, "--json", "--output", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found == json.loads((tmp_path / "why.json").read_text(encoding="utf-8"))
    systems = {name: measured["with_faults"] for name, measured in found["systems"].items()}
    assert list(systems) == names.split(",")
    for name in ("sqlite", "postgres"):
        assert (systems[name]["inconsistent"], systems[name]["status_wrong"]) == (0, 0)
        assert systems[name]["settled_seconds"] is not None
        assert systems[name]["accepted"] == systems[name]["orders"]
    assert systems["orchestrated"]["shipped_not_paid"] > 0
    assert "workflow on SQLite" in (tmp_path / "why.md").read_text(encoding="utf-8")
    assert (tmp_path / "why.svg").stat().st_size > 1000
    assert (tmp_path / "why.png").stat().st_size > 1000
