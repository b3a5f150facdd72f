"""The table of cases says what is true."""

from pathlib import Path

from tests.coverage_report import CONTRACTS, TABLE, Case, cases, faults, named_by_tests, written


def test_every_case_has_a_test_or_a_reason() -> None:
    assert faults(cases(TABLE.read_text()), named_by_tests(contracts=CONTRACTS)) == []


def test_a_case_without_either_is_found(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text('def test_it():\n    """TR-01: it is so."""\n')
    named = named_by_tests(tmp_path)

    found = faults([Case("TR-01", "so", "`test_some.py`"), Case("TR-02", "not so", "")], named)

    assert "TR-02 has neither a test nor a reason." in found
    assert not [fault for fault in found if fault.startswith("TR-01")]
    assert written("| TR-01 | so |  |\n", named) == "| TR-01 | so | `test_some.py` |\n"
