"""How the command line starts, finds its engine and services, and says what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.terminal import environment, outlast

HEAVY = ("asyncio", "rich", "sqlite3", "msgspec", "shop")

SEE_WHAT_HELP_LOADS = f"""
import sys
from outlast.cli.main import main
try:
    main({{arguments}})
except SystemExit:
    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], []])
def test_help_loads_nothing_heavy(empty: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SEE_WHAT_HELP_LOADS.format(arguments=arguments)],
        cwd=empty,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stderr == "[]\n"
    assert "outlast" in done.stdout


def test_every_command_has_help(empty: Path) -> None:
    names = [line.split()[0] for line in outlast(empty, "--help").out.partition("Commands:")[2].splitlines()[1:13]]

    assert len(names) >= 12
    for name in names[:12]:
        said = outlast(empty, name, "--help")
        assert said.code == 0, said.err
        assert "--json" in said.out


def test_an_unknown_command_is_wrong_usage(empty: Path) -> None:
    said = outlast(empty, "stauts")

    assert said.code == 2
    assert "stauts" in said.err


def test_an_unknown_option_is_wrong_usage_in_json_too(empty: Path) -> None:
    said = outlast(empty, "status", "--json", "--nope")

    assert said.code == 2
    assert said.error["exit_code"] == 2


def test_without_a_url_the_three_ways_to_give_one_are_named(empty: Path) -> None:
    said = outlast(empty, "status", OUTLAST_URL="")

    assert said.code == 2
    assert all(way in said.err for way in ("--url", "OUTLAST_URL", "[tool.outlast]"))


def test_the_option_comes_before_the_environment_and_that_before_the_project(past: Path, tmp_path: Path) -> None:
    there, missing = f"sqlite:///{past / 'shop.db'}", "sqlite:///missing.db"
    (tmp_path / "pyproject.toml").write_text(f'[tool.outlast]\nurl = "{there}"\n')

    by_project = outlast(tmp_path, "list", OUTLAST_URL="")
    by_environment = outlast(tmp_path, "list", OUTLAST_URL=missing)
    by_option = outlast(tmp_path, "list", "--url", there, OUTLAST_URL=missing)

    assert [by_project.code, by_environment.code, by_option.code] == [0, 4, 0]


@pytest.mark.parametrize("url", ["carrier-pigeon://loft", "sqlite://shop.db", "nonsense"])
def test_a_url_that_names_no_engine_is_wrong_usage(empty: Path, url: str) -> None:
    said = outlast(empty, "status", "--url", url, "--json")

    assert said.code == 2
    assert said.error["error"] == "BadUrl"
    assert url in said.error["message"]


def test_looking_into_a_file_that_does_not_exist_does_not_make_it(empty: Path) -> None:
    said = outlast(empty, "status")

    assert said.code == 4
    assert "shop.db does not exist" in said.err
    assert not (empty / "shop.db").exists()


def test_a_file_that_is_no_database_is_not_reachable(empty: Path) -> None:
    (empty / "shop.db").write_text("this is no database, and long enough to be taken for something" * 20)

    said = outlast(empty, "status")

    assert said.code == 4
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("shopp", "there is no module 'shopp'"),
        ("shop:paymant", "has no such name. It has the services ordering, payment, warehouse"),
        ("shop:not_a_service", "has a int by that name"),
        ("json", "has no services"),
        ("broken", "ZeroDivisionError: division by zero at broken.py:2"),
        ("typo", "SyntaxError: '(' was never closed"),
        ("needs", "ModuleNotFoundError: No module named 'nothing_here' at needs.py:1"),
        ("wrong", "has no method marked @starts"),
    ],
)
def test_services_that_cannot_be_loaded_are_named_with_the_reason(empty: Path, target: str, what: str) -> None:
    (empty / "broken.py").write_text("value = 0\nvalue = 1 / value\n")
    (empty / "typo.py").write_text("value = (\n")
    (empty / "needs.py").write_text("import nothing_here\n")
    (empty / "wrong.py").write_text(
        "from outlast import Service, Workflow\nclass W(Workflow, key='id'): ...\ns = Service('s', workflows=[W])"
    )

    said = outlast(empty, "run", target)

    assert said.code == 2
    assert what in " ".join(said.err.split())
    assert "Traceback" not in said.err


def test_a_traceback_is_shown_when_asked_for(empty: Path) -> None:
    (empty / "broken.py").write_text("value = 1 / 0\n")

    assert "Traceback" in outlast(empty, "run", "broken", "-v").err


def test_services_come_from_the_project_when_none_is_named(empty: Path) -> None:
    unnamed = outlast(empty, "check")
    (empty / "pyproject.toml").write_text('[tool.outlast]\napp = "shop"\n')

    assert unnamed.code == 2
    assert "OUTLAST_APP" in unnamed.err
    assert outlast(empty, "check").code == 0
    assert outlast(empty, "check", OUTLAST_APP="nothing_here").code == 2


def test_a_project_file_that_cannot_be_read_is_named(empty: Path) -> None:
    (empty / "pyproject.toml").write_text("[tool.outlast\n")

    said = outlast(empty, "status", OUTLAST_URL="")

    assert said.code == 2
    assert "pyproject.toml" in said.err


def test_the_public_names_are_found_where_they_are_said_to_be() -> None:
    import outlast as package

    assert {name for names in package._HOMES.values() for name in names} == set(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)
    with pytest.raises(AttributeError, match="nope"):
        _ = package.nope
