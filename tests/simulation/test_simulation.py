"""Whole services, with a fault at every effect, in many orders, and at random."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from datetime import timedelta

import pytest

from outlast import Command, Context, Service, Transaction
from outlast.errors import Misuse
from outlast.ports import Changes
from outlast.testing.exploring import Scenario, explore, interleave, search
from outlast.testing.faults import Faults
from outlast.testing.simulation import Broken, Simulation
from outlast.testing.tape import Fault, Tape
from tests.simulation import workloads as w
from tests.simulation.exhaustive import VISIBLE, WORKLOADS, two_parts


class Ask(Command[None], to="asked"):
    number: int


@pytest.mark.parametrize(("scenario", "services"), WORKLOADS, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("engine", ["memory", "sqlite"])
def test_no_single_fault_breaks_a_rule(scenario: Scenario, services: Sequence[Service], engine: str) -> None:
    """CP-01 to CP-12: a crash or an error before or after every effect."""
    explore(scenario, services, engine=engine)


@pytest.mark.parametrize(("scenario", "services"), WORKLOADS[:3], ids=lambda value: getattr(value, "__name__", ""))
def test_no_pair_of_faults_breaks_a_rule(scenario: Scenario, services: Sequence[Service]) -> None:
    """CP-13: every two crashes or errors, the second anywhere in the run that has the first. Minutes, in all."""
    assert explore(scenario, services, pairs=True).is_complete


@pytest.mark.parametrize(("scenario", "services"), WORKLOADS, ids=lambda value: getattr(value, "__name__", ""))
def test_no_swarm_of_faults_breaks_a_rule(scenario: Scenario, services: Sequence[Service]) -> None:
    """CP-14 to CP-16, CP-24: crashes, pauses, duplicates, lost notifications and wrong clocks, at random."""
    search(scenario, services, seeds=range(40))
    search(scenario, services, seeds=range(1000, 1008), engine="sqlite")


def test_two_parts_that_race_for_one_instance_are_both_counted_in_every_order() -> None:
    found = interleave(two_parts, w.FAN_IN, racing="assembly", choice_points=VISIBLE)

    assert found.is_complete
    found.must_have_seen("conflict retried")


def test_two_commands_that_race_for_two_workers_are_handled_once_in_every_order() -> None:
    found = interleave(two_parts, w.FAN_IN, racing="factory", choice_points=VISIBLE)

    assert found.is_complete
    found.must_have_seen("conflict retried")


def test_a_timer_and_an_answer_that_race_never_both_win() -> None:
    found = interleave(w.timer_race, w.TIMER_RACE, racing="questions", choice_points=VISIBLE)

    assert found.is_complete
    found.must_have_seen("timer fired", "stale timer", "conflict retried")


@pytest.mark.parametrize("race", [w.timer_against_answer, w.asked_twice])
def test_orders_that_are_left_out_lead_to_nothing_new(race: Scenario) -> None:
    def histories(*, is_reduced: bool) -> tuple[set[tuple[str, ...]], int]:
        met: set[tuple[str, ...]] = set()

        def scenario(sim: Simulation) -> None:
            race(sim)
            told = sim.stage.books.envelope
            marks = [
                f"{line.process} {[(told(entry.packet).type, entry.outcome) for entry in line.what.history]}"
                for line in sim.stage.lines
                if isinstance(line.what, Changes)
            ]
            met.add(tuple(marks))

        found = interleave(scenario, w.TIMER_RACE, racing="questions", choice_points=VISIBLE, is_reduced=is_reduced)
        return met, found.runs

    every, all_runs = histories(is_reduced=False)
    reduced, runs = histories(is_reduced=True)

    assert reduced == every
    assert runs < all_runs / 2


def test_the_searches_meet_every_rare_situation() -> None:
    seen = search(w.poison, w.ORDERS, seeds=range(60)).seen
    seen += search(w.too_early, w.ORDERS, seeds=range(40)).seen
    seen += search(w.timer_race, w.TIMER_RACE, seeds=range(200, 260)).seen

    rare = {
        "conflict retried",
        "stale claim refused",
        "duplicate dropped",
        "crash during recovery",
        "handler run again",
        "message retried",
        "message set aside",
        "stashed message released",
        "timer fired",
        "late",
    }
    assert rare <= set(seen), rare - set(seen)


def test_a_seed_says_what_happens() -> None:
    def run(seed: int) -> str:
        with Simulation(w.ORDERS, seed=seed, faults=Faults.swarm(seed), workers=2) as sim:
            w.orders(sim, "a", "b")
            return sim.hash

    assert [run(seed) for seed in range(8)] == [run(seed) for seed in range(8)]
    assert run(1) != run(2)


def test_a_tape_repeats_a_random_run() -> None:
    with Simulation(w.ORDERS, seed=7, faults=Faults(crash=0.02, shuffle=0.5)) as sim:
        w.orders(sim, "a", "b")
        tape, story = str(sim.tape), sim.story()

    with Simulation(w.ORDERS, seed=7, tape=tape) as again:
        w.orders(again, "a", "b")

        assert again.story() == story


def test_a_scenario_waits_for_a_process_that_stands_still_within_its_transaction() -> None:
    """Behind the write lock of SQLite a client would be told to try again, and a scenario does not."""
    with Simulation(w.ORDERS, engine="sqlite", tape="10=pause") as sim:
        w.too_early(sim)

        assert list(sim.tape.faults.values()) == [Fault.PAUSE]


def test_a_tape_that_cannot_be_read_says_so() -> None:
    with pytest.raises(Misuse, match="cannot be read"):
        Tape.parse("7=earthquake")


def test_a_broken_rule_is_told_as_the_shortest_story() -> None:
    def wrong(sim: Simulation) -> None:
        w.orders(sim)
        assert sim.crashes < 1, "a process died"

    with pytest.raises(Broken, match="a process died") as caught:
        search(wrong, w.ORDERS, seeds=range(50), faults=lambda seed: Faults(crash=0.02, delay=0.02, shuffle=0.5))

    assert len(caught.value.tape) == 1
    assert "CRASH" in str(caught.value)
    assert "Repeat it with" in str(caught.value)


def test_what_a_service_that_was_away_should_have_done_is_done_when_it_is_back() -> None:
    with Simulation(w.ORDERS) as sim:
        w.away(sim)

        assert sim.now.day == 4


def test_a_crash_leaves_no_time_to_tidy_up() -> None:
    tidied: list[str] = []
    service = Service("asked")

    @service.handles
    async def ask(command: Ask, context: Context) -> None:
        try:
            await asyncio.sleep(1)
        finally:
            tidied.append(context.message_id)

    with Simulation([service]) as sim:
        sim.send(Ask(number=1))
        sim.run(timedelta(seconds=0.5))
        sim.kill("asked")
        sim.run_until_quiet()

        assert len(tidied) == 1


@pytest.mark.parametrize("what", ["thread", "socket"])
def test_threads_and_sockets_are_refused(what: str) -> None:
    service = Service("asked")

    @service.handles
    async def ask(command: Ask) -> None:
        if what == "thread":
            await asyncio.to_thread(print)
        else:
            await asyncio.open_connection("127.0.0.1", socket.IPPORT_RESERVED)

    with Simulation([service]) as sim:
        sim.send(Ask(number=1))
        sim.run_until_quiet()

        assert "sim.override" in sim.dead_letters[0].error
        assert sim.dead_letters[0].error.startswith("Misuse")


def test_a_handler_that_waits_for_ever_is_cut_off_in_virtual_time() -> None:
    service = Service("asked")

    @service.handles(time_limit=timedelta(hours=1))
    async def ask(command: Ask) -> None:
        await asyncio.Event().wait()

    with Simulation([service]) as sim:
        sim.send(Ask(number=1))
        sim.run_until_quiet()

        assert sim.dead_letters[0].error.startswith("TimeLimitExceeded")


def test_a_request_is_answered_in_virtual_time() -> None:
    with Simulation(w.ORDERS) as sim:
        sim.override(w.Outside, w.Outside(sim.effects))
        answer = sim.do(sim.client.request(w.CreateLabel(order_id="a"), timeout=timedelta(seconds=5)))

        assert answer == w.LabelCreated(order_id="a")


def test_an_error_with_an_unknown_outcome_changes_nothing_twice() -> None:
    for effect in range(120):
        with Simulation(w.ORDERS, tape=Tape({effect: Fault.ERROR_AFTER})) as sim:
            w.orders(sim)


def test_a_service_that_cannot_start_is_told_and_not_waited_for() -> None:
    service = Service("asked")

    @service.handles
    async def ask(command: Ask, transaction: Transaction) -> None: ...

    with Simulation([service]) as sim:
        sim.send(Ask(number=1))
        with pytest.raises(Broken, match=r"asked\.1 ended by BadHandler: .* asks for a Transaction.* engine='sqlite'"):
            sim.run_until_quiet()
