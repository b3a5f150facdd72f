"""Counts which cases of `docs/coverage.md` are named by tests, and checks that none is without a test or a reason.

`python -m tests.coverage_report` prints the count; `--write` brings the last column of the tables up to date.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

TESTS = Path(__file__).parent
TABLE = TESTS.parent / "docs" / "coverage.md"

CONTRACTS = TESTS.parent / "src" / "outlast" / "testing" / "contracts"
"""The suite of tests that every engine runs, ours in `tests/contracts`."""

CASES = {
    "TR": 31,
    "CP": 21,
    "OB": 20,
    "SG": 27,
    "RC": 17,
    "TO": 17,
    "PS": 12,
    "RR": 7,
    "SD": 13,
    "PO": 19,
    "BR": 20,
    "DB": 15,
}
"""How many cases each area has; a row that is lost is noticed."""

_CASE = re.compile(rf"\b(?:{'|'.join(CASES)})-\d\d\b")
_ROW = re.compile(r"^\| ([A-Z]{2}-\d\d) \| (.+?) \| (.*?) ?\|$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the table."""

    id: str
    claim: str
    last: str
    """Files with tests, or a reason."""


def cases(text: str) -> list[Case]:
    """The rows of the tables in this text."""
    return [Case(*found) for found in _ROW.findall(text)]


def named_by_tests(folder: Path = TESTS, contracts: Path | None = None) -> dict[str, dict[str, int]]:
    """By case: the test files that name it in the docstring of a test or test class, and how many do."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    files = {path: path.relative_to(folder).as_posix() for path in folder.rglob("test_*.py")}
    if contracts:
        files |= {path: f"outlast/testing/contracts/{path.name}" for path in contracts.glob("*.py")}
    for path, name in sorted(files.items()):
        for node in ast.walk(ast.parse(path.read_text())):
            if _is_test(node):
                for case in set(_CASE.findall(ast.get_docstring(node) or "")):
                    found[case][name] += 1
    return found


def _is_test(node: ast.AST) -> TypeGuard[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    if isinstance(node, ast.ClassDef):
        return node.name.startswith("Test")
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")


def column(case: Case, named: Mapping[str, Mapping[str, int]]) -> str:
    """What the last column of a case must say."""
    if case.id not in named:
        return "" if case.last.startswith("`") else case.last
    return ", ".join(f"`{path}`" for path in sorted(named[case.id]))


def faults(rows: Sequence[Case], named: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What is wrong with the table, in sentences."""
    ids = [case.id for case in rows]
    found = [f"{id} is in the table twice." for id in sorted({id for id in ids if ids.count(id) > 1})]
    for area, count in CASES.items():
        here = sum(id.startswith(area) for id in ids)
        if here != count:
            found.append(f"{area} has {here} rows, and should have {count}.")
    found += [f"{id} is named by a test and is not in the table." for id in sorted(named) if id not in ids]
    for case in rows:
        expected = column(case, named)
        if not expected:
            found.append(f"{case.id} has neither a test nor a reason.")
        elif gone := set(re.findall(r"`(\S+?\.py)`", case.last)) - set(named.get(case.id, ())):
            found.append(f"{case.id} says {', '.join(sorted(gone))}, which does not name it. Run with --write.")
    return found


def written(text: str, named: Mapping[str, Mapping[str, int]]) -> str:
    """The text with every last column up to date."""

    def row(match: re.Match[str]) -> str:
        case = Case(*match.groups())
        return f"| {case.id} | {case.claim} | {column(case, named)} |"

    return _ROW.sub(row, text)


def main(arguments: Sequence[str]) -> int:
    """Prints the count and what is wrong; 1 if anything is."""
    named = named_by_tests(contracts=CONTRACTS)
    if "--write" in arguments:
        TABLE.write_text(written(TABLE.read_text(), named))
    rows = cases(TABLE.read_text())
    for area in CASES:
        ids = [case.id for case in rows if case.id.startswith(area)]
        tests = sum(sum(named[id].values()) for id in ids if id in named)
        covered = sum(id in named for id in ids)
        print(
            f"{area}: {covered} of {len(ids)} cases named by tests, {tests} times; {len(ids) - covered} with a reason"
        )
    wrong = faults(rows, named)
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
