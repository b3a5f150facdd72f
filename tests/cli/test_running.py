"""run and dev: processes, signals, and starting again."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path

from tests.cli.terminal import outlast


def send(directory: Path, order: str) -> None:
    said = outlast(directory, "send", "--app", "shop", "MakePayment", f"order_id={order}", "amount=1")
    assert said.code == 0, said.err


def test_a_worker_stops_on_sigterm_when_its_handlers_have_ended(shop: Path, start) -> None:
    worker = start("run", "shop:payment")
    worker.reads("payment ready on sqlite:///shop.db")
    send(shop, "slow")
    worker.prints("paying")

    worker.signal(signal.SIGTERM)

    said = worker.ends()
    assert said.code == 0
    assert "paid" in said.out
    assert "payment: stopped" in said.err


def test_a_second_signal_stops_at_once_and_gives_the_message_back(shop: Path, start) -> None:
    worker = start("run", "shop:payment")
    worker.reads("ready on")
    send(shop, "slow for ever")
    worker.prints("paying")

    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGINT)

    said = worker.ends()
    assert said.code == 0
    assert "messages given back: 1" in said.err
    services = outlast(shop, "status", "--json").value["services"]
    assert [s["waiting"] for s in services if s["service"] == "payment"] == [1]


def test_the_grace_period_ends_the_patience(shop: Path, start) -> None:
    worker = start("run", "shop:payment", "--grace", "0.2")
    worker.reads("ready on")
    send(shop, "slow for ever")
    worker.prints("paying")

    worker.signal(signal.SIGTERM)

    assert "messages given back: 1" in worker.ends().err


def test_signals_of_the_runtime_are_json_lines(shop: Path, start) -> None:
    worker = start("run", "shop", "--json")
    worker.prints("Started")
    send(shop, "b3")
    line = worker.prints("GaveUp")
    worker.signal(signal.SIGTERM)

    assert '"type":"make-payment"' in line
    assert {value["signal"] for value in worker.ends().lines} >= {"Stopped"}


def children_of(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_a_worker_process_that_dies_is_started_again(shop: Path, start) -> None:
    supervisor = start("run", "shop", "--workers", "2")
    supervisor.reads("ready on")
    supervisor.reads("ready on")
    first, second = children_of(supervisor.process.pid)
    status = outlast(shop, "status", "--json").value

    os.kill(first, signal.SIGKILL)

    assert {service["workers"] for service in status["services"]} == {2}
    assert "ended with signal SIGKILL; starting it again" in supervisor.reads("ended")
    supervisor.reads("ready on")
    assert second in children_of(supervisor.process.pid)
    supervisor.signal(signal.SIGTERM)
    said = supervisor.ends()
    assert said.code == 0
    assert said.err.count("ordering: stopped") == 2


def test_worker_processes_that_cannot_start_end_the_supervisor(shop: Path) -> None:
    said = outlast(shop, "run", "nothing_here", "--workers", "2")

    assert said.code == 2
    assert "no module 'nothing_here'" in said.err


def test_workers_whose_supervisor_was_killed_stop_by_themselves(shop: Path, start) -> None:
    supervisor = start("run", "shop:payment", "--workers", "2")
    supervisor.reads("ready on")
    supervisor.reads("ready on")

    supervisor.signal(signal.SIGKILL)

    supervisor.reads("payment: stopped")
    supervisor.reads("payment: stopped")


def test_a_saved_file_is_run_anew(shop: Path, start) -> None:
    program = shop / "shop.py"
    dev = start("dev", "shop", "--quiet")
    dev.reads("ready on")

    program.write_text(program.read_text() + "\nreturns = Service('returns')\n")

    assert "shop.py changed" in dev.reads("changed")
    assert "returns" in dev.reads("ready on")


def test_a_file_that_was_saved_with_a_mistake_is_run_when_it_is_mended(shop: Path, start) -> None:
    program = shop / "shop.py"
    good = program.read_text()
    dev = start("dev", "shop")
    dev.reads("ready on")

    program.write_text(good + "\noops(\n")
    dev.reads("error[Misuse]")
    program.write_text(good)

    dev.reads("ready on")
    dev.signal(signal.SIGINT)
    assert dev.ends().code == 130


def test_dev_has_an_engine_when_none_is_configured(empty: Path) -> None:
    (empty / "broken.py").write_text("oops(")

    assert outlast(empty, "dev", OUTLAST_URL="").code == 2
    assert not (empty / "outlast.db").exists()


def test_what_was_sent_while_a_service_was_down_is_handled_when_it_is_up(shop: Path, start) -> None:
    start("run", "shop").reads("ready on")

    assert outlast(shop, "follow", "2", "--timeout", "10").code == 0
    with sqlite3.connect(shop / "shop.db") as connection:
        assert connection.execute("SELECT sum(done) FROM outlast_instances").fetchone() == (2,)
    connection.close()
