"""graph, check, new and demo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.terminal import environment, outlast

INCOMPLETE = """
from outlast import Command, Event, Service, Workflow, on, starts

class Asked(Event):
    id: str

class Answer(Event):
    text: str

class Overdue(Event):
    pass

class Stray(Event):
    text: str

class Ask(Command[Answer], to="oracle"):
    id: str

class Shout(Command[None], to="asking"):
    id: str

class Whisper(Command[None]):
    id: str

class Heard(Event):
    id: str

class Asking(Workflow, key="id"):
    @starts
    def asked(self, event: Asked) -> tuple[Ask, Shout, Whisper, Heard]:
        self.after(__import__("datetime").timedelta(1), Overdue())
        return Ask(id=event.id), Shout(id=event.id), Whisper(id=event.id), Heard(id=event.id)

    @on
    def answered(self, event: Answer | Overdue) -> None: ...

    @on
    def strayed(self, event: Stray) -> None: ...

asking = Service("asking", workflows=[Asking])
"""

NOTING = """
from outlast import Event, Service

class Seen(Event):
    id: str

class Noted(Event):
    id: str

notes = Service("notes")

@notes.handles
async def note(event: Seen) -> Noted:
    return Noted(id=event.id)
"""

FAILING = """
from outlast import Command, Event, Failed, Service, Workflow, on, starts

class Begun(Event):
    id: str

class Stopped(Event):
    id: str

class Try(Command[None], to="trying"):
    id: str

class Trying(Workflow, key="id"):
    failed: bool = False

    @starts
    def begun(self, event: Begun) -> Try:
        return Try(id=event.id)

    @on
    def over(self, event: Stopped | Failed[Try]) -> None:
        self.failed = isinstance(event, Failed)
        self.complete()

trying = Service("trying", workflows=[Trying])

@trying.handles
async def attempt(command: Try) -> None: ...
"""


def test_the_message_flow_is_drawn_from_annotations(empty: Path) -> None:
    lines = [line.strip() for line in outlast(empty, "graph", "shop").out.splitlines()]

    assert lines[0] == "flowchart LR"
    assert 'n1[["fulfilment (ordering)"]]' in lines
    assert 'n0 -.->|"order-placed"| n1' in lines
    assert 'n1 -->|"make-payment"| n2' in lines
    assert 'n2 -.->|"payment-completed"| n1' in lines


def test_the_graph_is_json_on_demand(empty: Path) -> None:
    edges = outlast(empty, "graph", "shop", "--json").value["edges"]

    assert {
        "message": "make-payment",
        "kind": "command",
        "source": {"service": "ordering", "workflow": "fulfilment"},
        "target": {"service": "payment", "workflow": ""},
    } in edges


def test_a_timer_is_drawn_as_a_message_to_oneself(empty: Path) -> None:
    (empty / "incomplete.py").write_text(INCOMPLETE)

    edges = outlast(empty, "graph", "incomplete", "--json").value["edges"]

    timers = [edge for edge in edges if edge["kind"] == "timer"]
    assert [(edge["message"], edge["source"] == edge["target"]) for edge in timers] == [("overdue", True)]


def test_a_complete_flow_passes_the_check(empty: Path) -> None:
    said = outlast(empty, "check", "--strict", "shop")

    assert said.code == 0
    assert "3 services checked" in said.out


def test_the_check_finds_what_has_no_receiver_and_no_key(empty: Path) -> None:
    (empty / "incomplete.py").write_text(INCOMPLETE)

    said = outlast(empty, "check", "incomplete", "--json")

    assert said.code == 8
    assert [(problem["severity"], problem["message"]) for problem in said.value] == [
        ("error", "ask"),
        ("error", "shout"),
        ("error", "whisper"),
        ("warning", "heard"),
        ("error", "stray"),
    ]


def test_a_warning_is_a_problem_only_when_strict(empty: Path) -> None:
    (empty / "app.py").write_text(NOTING)

    lenient, strict = outlast(empty, "check", "app"), outlast(empty, "check", "app", "--strict")

    assert "warning: notes publishes 'noted'" in lenient.out
    assert [lenient.code, strict.code] == [0, 8]


def test_an_answer_to_a_command_from_outside_is_no_problem(empty: Path) -> None:
    (empty / "app.py").write_text("from shop import payment\n")

    assert outlast(empty, "check", "app", "--strict").code == 0


def test_a_failure_that_a_method_tells_from_others_is_no_timer(empty: Path) -> None:
    (empty / "app.py").write_text(FAILING)

    edges = outlast(empty, "graph", "app", "--json").value["edges"]

    assert {edge["kind"] for edge in edges if edge["message"] == "failed:try"} == {"failure"}


def test_a_new_project_passes_its_own_tests_and_checks(tmp_path: Path) -> None:
    made = outlast(tmp_path, "new", "store", "--json")

    project = tmp_path / "store"
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "store/ordering.py" in made.value["files"]
    assert tests.returncode == 0, tests.stdout
    assert "7 passed" in tests.stdout
    assert outlast(project, "check", "--strict").code == 0
    assert not [path for path in project.rglob("*") if path.is_file() and "__project__" in path.read_text("latin1")]


@pytest.mark.parametrize("command", [["ruff", "check"], ["ruff", "format", "--check", "--line-length", "115"]])
def test_a_new_project_is_in_good_style(tmp_path: Path, command: list[str]) -> None:
    outlast(tmp_path, "new", "store")

    subprocess.run([sys.executable, "-m", *command, "--isolated", "."], cwd=tmp_path / "store", check=True)


@pytest.mark.parametrize(("name", "code"), [("json", 2), ("my-shop", 2), ("class", 2), ("../up", 2), ("taken", 6)])
def test_a_project_gets_no_name_that_would_do_harm(tmp_path: Path, name: str, code: int) -> None:
    (tmp_path / "taken").mkdir()

    assert outlast(tmp_path, "new", name).code == code
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_the_demo_says_where_it_can_be_had(tmp_path: Path) -> None:
    said = outlast(tmp_path, "demo")

    assert said.code == 3
    assert "source distribution" in said.err


def test_the_demo_is_given_its_options_and_gives_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "examples/shop").mkdir(parents=True)
    (tmp_path / "examples/shop/demo.py").write_text(
        "def run_demo(*, seed, keep, as_json, engine):\n    print(engine, seed, keep, as_json)\n    return 5\n"
    )

    said = outlast(tmp_path, "demo", "--engine", "nats", "--seed", "7", "--keep", "here", "--json")

    assert (said.code, said.out) == (5, "nats 7 here True\n")
