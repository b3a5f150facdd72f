"""status, list, show and follow."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

from tests.cli.terminal import command, environment, outlast


def test_status_counts_what_waits_for_a_service_that_is_down(past: Path) -> None:
    status = outlast(past, "status", "--json").value

    services = {service["service"]: service for service in status["services"]}
    assert services["payment"]["waiting"] == 1
    assert services["payment"]["workers"] == 0
    assert services["payment"]["dead"] == 2
    assert services["payment"]["oldest"].endswith("Z")
    assert services["ordering"]["topics"] == ["label-created", "order-placed", "payment-completed"]
    assert [(flow["workflow"], flow["running"], flow["done"]) for flow in status["workflows"]] == [("fulfilment", 3, 1)]


def test_status_says_in_words_what_needs_a_person(past: Path) -> None:
    said = outlast(past, "status")

    assert said.code == 0
    assert "payment is down; 1 message waits for it, and nothing is lost" in said.out
    assert "payment has 2 dead letters" in said.out
    assert re.search(r"^payment +down +0 +1 ", said.out, re.MULTILINE)


def test_a_check_of_the_status_tells_a_script_that_there_are_problems(past: Path) -> None:
    assert outlast(past, "status", "--check").code == 8


def test_a_piped_answer_has_no_colours_and_no_hints(past: Path) -> None:
    said = outlast(past, "status")

    assert "\x1b" not in said.out + said.err
    assert "Next:" not in said.out + said.err


def test_a_terminal_is_given_colours_and_a_hint_of_what_to_do_next(past: Path) -> None:
    screen = on_a_terminal(past, "status")

    assert b"\x1b[31m" in screen
    assert b"Next:" in screen
    assert b"outlast failures" in screen


def test_a_reader_who_wants_no_colours_gets_none(past: Path) -> None:
    assert b"\x1b[31m" not in on_a_terminal(past, "status", NO_COLOR="1")


def on_a_terminal(directory: Path, *arguments: str, **variables: str) -> bytes:
    ours, theirs = pty.openpty()
    kept = environment(OUTLAST_URL="sqlite:///shop.db", TERM="xterm-256color", COLUMNS="120", **variables)
    process = subprocess.Popen(command(*arguments), cwd=directory, env=kept, stdout=theirs, stderr=theirs)
    os.close(theirs)
    screen = b""
    while chunk := _read(ours):
        screen += chunk
    os.close(ours)
    assert process.wait(10) == 0
    return screen


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # how a pseudo-terminal says that the other side is closed
        return b""


def test_list_has_the_instances_and_can_be_restricted(past: Path) -> None:
    everything = outlast(past, "list", "--json").value
    running = outlast(past, "list", "--running", "--json").value
    completed = outlast(past, "list", "--completed", "--json").value
    none = outlast(past, "list", "--workflow", "refunds", "--json").value

    assert [instance["key"] for instance in everything] == ["2", "b2", "b1", "1"]
    assert {instance["status"] for instance in running} == {"running"}
    assert [instance["key"] for instance in completed] == ["1"]
    assert none == []
    assert "1" in outlast(past, "list").out.splitlines()[-1]


def test_show_tells_the_story_of_a_key(past: Path) -> None:
    story = outlast(past, "show", "1", "--json").value

    assert story["instances"][0]["status"] == "completed"
    assert story["instances"][0]["state"] == {"paid_at": None}
    assert [(line["message"], line["outcome"]) for line in story["timeline"]] == [
        ("order-placed", "started"),
        ("make-payment", "handled"),
        ("payment-completed", "continued"),
        ("create-label", "handled"),
        ("label-created", "completed"),
    ]
    assert story["timeline"][0]["body"] == {"order_id": "1", "total": "84.90"}
    assert story["pending"] == []
    human = outlast(past, "show", "1").out
    assert "fulfilment 1   completed" in human
    assert "create-label" in human


def test_show_says_which_message_waits_for_which_service(past: Path) -> None:
    said = outlast(past, "show", "2")

    assert said.code == 0
    assert re.search(r"make-payment has waited .+ for payment, which is down; nothing is lost", said.out)


def test_show_names_the_dead_letters_of_a_key(past: Path) -> None:
    story = outlast(past, "show", "b1", "--json").value

    assert [failure["message"] for failure in story["failures"]] == ["make-payment"]
    assert "make-payment is a dead letter in payment" in outlast(past, "show", "b1").out


def test_show_takes_a_conversation_too(past: Path) -> None:
    conversation = outlast(past, "show", "1", "--json").value["instances"][0]["conversation"]

    assert len(outlast(past, "show", conversation, "--json").value["timeline"]) == 5


def test_an_unknown_key_is_not_found(past: Path) -> None:
    said = outlast(past, "show", "1313")

    assert said.code == 3
    assert "error[NotFound]: nothing is known under '1313'" in said.err
    assert "give the conversation that `outlast send` printed" in " ".join(said.err.split())
    assert said.out == ""


def test_follow_prints_a_completed_key_and_ends(past: Path) -> None:
    human = outlast(past, "follow", "1")
    lines = outlast(past, "follow", "1", "--json").lines

    assert human.code == 0
    assert "fulfilment 1 completed in" in human.err
    assert [line["message"] for line in lines][-1] == "label-created"
    assert len(human.out.splitlines()) == len(lines) == 5


def test_follow_gives_up_after_its_timeout(past: Path) -> None:
    said = outlast(past, "follow", "2", "--timeout", "0.3")

    assert said.code == 7
    assert "order-placed" in said.out
    assert "2 was not completed within 300 ms" in said.err


def test_follow_sees_what_happens_while_it_looks(shop: Path, start) -> None:
    follower = start("follow", "2", "--json")
    follower.prints("order-placed")

    start("run", "shop").reads("ready on")

    said = follower.ends()
    assert said.code == 0
    assert [line["outcome"] for line in said.lines] == ["handled", "continued", "handled", "completed"]


def test_a_reader_that_has_seen_enough_is_no_error_to_talk_about(past: Path) -> None:
    script = f"{' '.join(command('list', '--json'))} | true"
    env = environment(OUTLAST_URL="sqlite:///shop.db")
    done = subprocess.run(
        ["bash", "-c", script], cwd=past, env=env, capture_output=True, text=True, timeout=20, check=False
    )

    assert done.stderr == ""
