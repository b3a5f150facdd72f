"""Every bug that `make seeded-bugs` plants has a place in the library as it is now."""

from __future__ import annotations

from pathlib import Path

import pytest

import outlast
from tests.seeded_bugs.bugs import BROKER_BUGS, BUGS, SQLITE_BUGS, Bug

LIBRARY = Path(outlast.__file__).parent


@pytest.mark.parametrize("bug", [*BUGS, *SQLITE_BUGS, *BROKER_BUGS], ids=lambda bug: bug.name)
def test_a_bug_can_be_planted(bug: Bug) -> None:
    for file, old, _ in bug.edits:
        assert (LIBRARY / file).read_text(encoding="utf-8").count(old) == 1, (file, old)
