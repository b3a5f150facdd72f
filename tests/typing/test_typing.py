"""What type checkers accept of user code, and what they refuse.

A line of `refused/` ends in `# refused: why`, or `# refused by mypy: why` where the other checker lets it pass.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REFUSED = HERE / "refused"
MARK = re.compile(r"# refused(?: by (mypy|pyright))?(?:: |$)")

Lines = Mapping[str, str]
"""What is said about lines, by `file:line`."""


def expected_of(checker: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in sorted(REFUSED.glob("*.py")):
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            mark = MARK.search(line)
            if mark is not None and mark[1] in (None, checker):
                found[f"{file.name}:{number}"] = line.strip()
    return found


def mypy(*paths: Path) -> dict[str, str]:
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", *map(str, paths)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found: dict[str, str] = {}
    for path, number, text in re.findall(r"^(.+?):(\d+): error: (.+)$", run.stdout, re.MULTILINE):
        found[f"{Path(path).name}:{number}"] = text
    return found


def pyright() -> dict[str, str]:
    # The project's own configuration leaves `refused` out, so another one stands in for it.
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(HERE)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    report = json.loads(run.stdout)
    assert report["summary"]["filesAnalyzed"] > 0
    return {
        f"{Path(item['file']).name}:{item['range']['start']['line'] + 1}": item["message"]
        for item in report["generalDiagnostics"]
        if item["severity"] == "error"
    }


def compare(expected: Lines, refused: Lines) -> None:
    passed = [f"{place} passes: {line}" for place, line in expected.items() if place not in refused]
    extra = [f"{place} is refused: {text}" for place, text in refused.items() if place not in expected]
    assert not passed + extra, "\n" + "\n".join(passed + extra)


@pytest.fixture(scope="module", params=["mypy", "pyright"])
def checked(request: pytest.FixtureRequest) -> tuple[str, Lines]:
    """The name of a checker, and what it says about all the user code here (one run, because a run is slow)."""
    if request.param == "mypy":
        return "mypy", mypy(HERE / "accepted.py", *sorted(REFUSED.glob("*.py")))
    return "pyright", pyright()


def test_what_a_tutorial_would_say_is_accepted(checked: tuple[str, Lines]) -> None:
    _, refused = checked

    assert [text for text in refused.items() if text[0].startswith("accepted.py")] == []


def test_wrong_code_is_refused_at_the_marked_lines_and_nowhere_else(checked: tuple[str, Lines]) -> None:
    checker, refused = checked

    expected = expected_of(checker)

    assert len(expected) > 60
    compare(expected, {place: text for place, text in refused.items() if not place.startswith("accepted.py")})
