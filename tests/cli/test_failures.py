"""failures list, show, retry and archive."""

from __future__ import annotations

from pathlib import Path

from tests.cli.terminal import outlast


def ids(directory: Path, *restriction: str) -> list[str]:
    return [failure["id"] for failure in outlast(directory, "failures", "list", "--json", *restriction).value]


def waiting(directory: Path, service: str) -> int:
    services = outlast(directory, "status", "--json").value["services"]
    return next(found["waiting"] for found in services if found["service"] == service)


def test_failures_lists_what_is_open(past: Path) -> None:
    found = outlast(past, "failures", "--json").value
    human = outlast(past, "failures").out

    assert [failure["key"] for failure in found] == ["b1", "b2"]
    assert found[0]["error"] == "ValueError: [no] money for b1"
    assert "ValueError: [no] money for b1" in human
    assert found == outlast(past, "failures", "list", "--json").value


def test_failures_can_be_restricted(past: Path) -> None:
    assert len(ids(past, "--service", "payment", "--message", "make-payment")) == 2
    assert ids(past, "--service", "warehouse") == []
    assert ids(past, "--status", "archived") == []
    assert len(ids(past, "--limit", "1")) == 1


def test_a_failure_is_shown_with_its_body_and_traceback(past: Path) -> None:
    failure = outlast(past, "failures", "show", ids(past)[0], "--json").value
    human = outlast(past, "failures", "show", "b1").out

    assert failure["body"] == {"order_id": "b1", "amount": "84.90", "notes": []}
    assert "raise ValueError" in failure["traceback"]
    assert "raise ValueError" in human
    assert failure["id"] in human


def test_an_ambiguous_beginning_lists_the_candidates(past: Path) -> None:
    said = outlast(past, "failures", "show", ids(past)[0][:6], "--json")

    assert said.code == 3
    assert said.out == ""
    assert len(said.error["candidates"]) == 2
    assert said.error["exit_code"] == 3


def test_an_unknown_id_is_not_found_and_nothing_is_sent(shop: Path) -> None:
    before = waiting(shop, "payment")

    said = outlast(shop, "failures", "retry", ids(shop)[0], "nonsense")

    assert said.code == 3
    assert "'nonsense'" in said.err
    assert waiting(shop, "payment") == before


def test_a_retry_sends_the_message_again_and_only_once(shop: Path) -> None:
    before, id = waiting(shop, "payment"), ids(shop)[0]

    first = outlast(shop, "failures", "retry", id, "--json")
    second = outlast(shop, "failures", "retry", id, "--json")

    assert (first.code, first.value) == (0, {"status": "retried", "settled": [id], "skipped": []})
    assert (second.code, second.value) == (5, {"status": "retried", "settled": [], "skipped": [id]})
    assert waiting(shop, "payment") == before + 1
    assert ids(shop, "--status", "retried") == [id]


def test_a_retried_message_begins_with_its_first_attempt(shop: Path, start) -> None:
    (shop / "shop.py").write_text((shop / "shop.py").read_text().replace('startswith("b")', 'startswith("x")'))
    outlast(shop, "failures", "retry", "b1")

    start("run", "shop").reads("ready on")
    lines = outlast(shop, "follow", "b1", "--json", "--timeout", "10").lines

    payments = [line for line in lines if line["message"] == "make-payment"]
    assert [(line["outcome"], line["attempt"]) for line in payments] == [("dead letter", 1), ("handled", 1)]
    assert lines[-1]["outcome"] == "completed"


def test_an_archived_message_is_not_sent(shop: Path) -> None:
    before = waiting(shop, "payment")

    said = outlast(shop, "failures", "archive", "b1")

    assert (said.code, said.out) == (0, "archived 1\n")
    assert waiting(shop, "payment") == before
    assert len(ids(shop)) == 1


def test_a_retry_of_all_says_first_what_it_would_do_and_asks(shop: Path) -> None:
    refused = outlast(shop, "failures", "retry", "--all", typed="n\n")
    dry = outlast(shop, "failures", "retry", "--all", "--dry-run")
    agreed = outlast(shop, "failures", "retry", "--all", typed="y\n")

    assert "would retry 2 dead letters" in refused.err
    assert "2 make-payment in payment" in refused.err
    assert refused.code == 130
    assert (dry.code, dry.out) == (0, "")
    assert (agreed.code, agreed.out) == (0, "retried 2\n")
    assert ids(shop) == []


def test_nothing_is_asked_in_json_mode(shop: Path) -> None:
    asked = outlast(shop, "failures", "archive", "--all", "--json")
    meant = outlast(shop, "failures", "archive", "--all", "--json", "--yes")

    assert asked.code == 2
    assert "--yes" in asked.err
    assert len(meant.value["settled"]) == 2


def test_a_retry_needs_to_know_of_what(past: Path) -> None:
    assert outlast(past, "failures", "retry").code == 2
    assert outlast(past, "failures", "retry", "b1", "--all").code == 2
    assert outlast(past, "failures", "retry", "b1", "--service", "payment").code == 2
