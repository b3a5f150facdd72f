"""Plants one bug after the other in a copy of the library, and prints which search finds it.

    python -m tests.seeded_bugs [part of a name]

Exits with 1 if a bug is found by no search, or if a search finds something in the library as it is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.seeded_bugs.bugs import BROKER_BUGS, BUGS, SQLITE_BUGS, Bug
from tests.seeded_bugs.searches import ALL

ROOT = Path(__file__).parents[2]
NONE = Bug("none (the library as it is)", ())


def planted(bug: Bug, directory: Path) -> Path:
    """A copy of the library with this bug in it."""
    source = directory / "src"
    shutil.copytree(ROOT / "src" / "outlast", source / "outlast", ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in bug.edits:
        path = source / "outlast" / file
        text = path.read_text()
        if text.count(old) != 1:
            raise SystemExit(f"{bug.name}: {file} has {text.count(old)} times, and not once, the text\n{old}")
        path.write_text(text.replace(old, new))
    return source


def found(bug: Bug, searches: str) -> dict[str, str]:
    """Which rule each search finds broken."""
    with tempfile.TemporaryDirectory() as directory:
        paths = os.pathsep.join([str(planted(bug, Path(directory))), str(ROOT)])
        done = subprocess.run(
            [sys.executable, "-m", "tests.seeded_bugs.searches", searches],
            env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            return {searching.__name__: "fails" for searching in ALL[searches]}
        result: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        return result


def table(bugs: Sequence[Bug], searches: str) -> list[str]:
    """Prints what each search finds; returns the bugs that none finds, and the library if one finds anything."""
    names = [searching.__name__ for searching in ALL[searches]]
    shown = [name.removeprefix(f"{searches}_").replace("_", " ") for name in names]
    print("| planted bug | " + " | ".join(shown) + " |")
    print("|---|" + "---|" * len(names))
    bad: list[str] = []
    for bug in [NONE, *bugs]:
        result = found(bug, searches)
        print(f"| {bug.name} | " + " | ".join(result[name] or "-" for name in names) + " |", flush=True)
        if any(result.values()) == (bug is NONE):
            bad.append(bug.name)
    print()
    return bad


def main() -> int:
    wanted = " ".join(sys.argv[1:])
    started = time.perf_counter()
    bad: list[str] = []
    count = 0
    for searches, bugs in (("memory", BUGS), ("sqlite", SQLITE_BUGS), ("broker", BROKER_BUGS)):
        chosen = [bug for bug in bugs if wanted in bug.name or wanted == searches]
        count += len(chosen)
        bad += table(chosen, searches) if chosen else []
    print(f"{count} bugs, {len(bad)} surprises, {time.perf_counter() - started:.0f} s", *bad, sep="\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
