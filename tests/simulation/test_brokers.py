"""Whole services on a broker that fails in the ways of RabbitMQ and of NATS."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal

import pytest

from outlast import Service
from outlast.adapters.broker.bundles import members
from outlast.errors import Misuse
from outlast.ports import Parcel
from outlast.testing.broker import KINDS, SimulatedBroker
from outlast.testing.exploring import Scenario, explore, search
from outlast.testing.faults import Faults
from outlast.testing.process import EPOCH
from outlast.testing.simulation import Broken, Simulation
from outlast.testing.tape import BROKEN_BROKERS, CRASHES, Fault
from tests.simulation import workloads as w
from tests.simulation.exhaustive import WORKLOADS

EVERY_KIND = pytest.mark.parametrize("engine", list(KINDS))
IN_TURN = [(*workload, list(KINDS)[number % 2]) for number, workload in enumerate(WORKLOADS)]
"""The workloads, each on one kind of broker; `make explore` has all of them on both."""


@pytest.mark.parametrize(("scenario", "services", "engine"), IN_TURN, ids=lambda v: getattr(v, "__name__", str(v)[:8]))
def test_no_single_fault_of_processes_or_brokers_breaks_a_rule(
    scenario: Scenario, services: Sequence[Service], engine: str
) -> None:
    """CP-01 to CP-12, BR-01, BR-10, BR-11, BR-13: everything that can go wrong, at every effect."""
    explore(scenario, services, engine=engine)


@EVERY_KIND
def test_no_pair_of_faults_breaks_a_rule(engine: str) -> None:
    """CP-13, BR-13: a crash or a lost connection, and another one anywhere in the run that has the first."""
    explore(one_job, w.FAN_IN[1:2], faults=(Fault.CRASH_AFTER, Fault.HALF, Fault.CUT), pairs=True, engine=engine)


@EVERY_KIND
def test_no_single_fault_breaks_a_rule_where_messages_travel_in_bundles(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CP-01 to CP-12, BR-01, BR-11, BR-13: five parts of a build are in one message of the broker."""
    largest = 0
    put = SimulatedBroker.put

    def watched(broker: SimulatedBroker, parcels: Sequence[Parcel]) -> None:
        nonlocal largest
        largest = max(largest, *(len(members(parcel.packet) or ()) for parcel in parcels), 0)
        put(broker, parcels)

    monkeypatch.setattr(SimulatedBroker, "put", watched)

    explore(w.fan_in, w.FAN_IN, engine=f"{engine}?bundle=64").must_have_seen("duplicate dropped", "handler run again")

    assert largest == 5


def one_job(sim: Simulation) -> None:
    """The smallest conversation: one command, and nobody hears of its end."""
    sim.override(w.Outside, w.Outside(sim.effects))
    sim.send(w.MakePart(build_id="a", number=1))
    sim.run_until_quiet()
    if not sim.dead_letters:
        assert sim.effects.count("part", "a/1") == 1


@pytest.mark.parametrize(("scenario", "services"), WORKLOADS, ids=lambda value: getattr(value, "__name__", ""))
@EVERY_KIND
def test_no_swarm_of_faults_breaks_a_rule(engine: str, scenario: Scenario, services: Sequence[Service]) -> None:
    """CP-14 to CP-16, CP-24, BR-03: crashes, outages, lost connections, refusals and wrong clocks, at random."""
    search(scenario, services, seeds=range(20), engine=engine)


@EVERY_KIND
def test_an_outage_of_a_day_delays_orders_and_breaks_none(engine: str) -> None:
    """BR-28, P16: clients go on to place orders, all of them complete afterwards, and each is charged once."""
    with Simulation(w.ORDERS, engine=engine, workers=2) as sim:
        sim.override(w.Outside, w.Outside(sim.effects))
        sim.publish(w.OrderPlaced(order_id="before", total=Decimal(1)))
        sim.run(timedelta(seconds=0.005))
        sim.broker.down(for_=timedelta(days=1))
        during = [f"during {hour}" for hour in range(20)]
        for order_id in during:
            sim.publish(w.OrderPlaced(order_id=order_id, total=Decimal(1)))
            sim.run(timedelta(hours=1))
        assert not any(sim.is_done(w.Fulfilment, order_id) for order_id in during)

        sim.run_until_quiet()

        assert timedelta(days=1) < sim.now - EPOCH < timedelta(days=1, minutes=1)
        for order_id in ("before", *during):
            w.check_order(sim, order_id, is_refused=False)
        assert not sim.crashes
        assert not sim.dead_letters


@EVERY_KIND
def test_processes_that_start_while_the_broker_is_away_are_there_when_it_is_back(engine: str) -> None:
    """BR-28: they try again until they get there."""
    with Simulation(w.ORDERS, engine=engine) as sim:
        sim.override(w.Outside, w.Outside(sim.effects))
        sim.run(timedelta(seconds=1))
        sim.broker.down(for_=timedelta(minutes=10))
        for service in ("ordering", "payment", "warehouse"):
            sim.kill(service)
        sim.publish(w.OrderPlaced(order_id="a", total=Decimal(1)))

        sim.run_until_quiet()

        assert sim.is_done(w.Fulfilment, "a")
        assert sim.effects.count("charge", "a") == 1


@EVERY_KIND
def test_a_limit_of_deliveries_is_found_out(engine: str) -> None:
    """BR-21, BR-22: a queue declared without -1 loses a message, or keeps it for ever; either way it is told."""
    with Simulation(w.TIMER_RACE, engine=engine) as sim:
        sim.override(w.Outside, w.Outside(sim.effects))
        sim.broker.delivery_limit = 3
        sim.publish(w.QuestionAsked(question_id="a"))
        with pytest.raises(Broken, match=r"I10:|I13:"):
            for _ in range(5):
                sim.run(timedelta(seconds=5))
                sim.kill("oracle")
                sim.run(timedelta(seconds=25.5))
            sim.run_until_quiet(within=timedelta(days=1))


def test_the_searches_meet_what_brokers_do() -> None:
    seen = search(w.orders, w.ORDERS, seeds=range(40), engine="rabbitmq").seen
    seen += search(w.timer_race, w.TIMER_RACE, seeds=range(20), engine="nats").seen

    rare = {"duplicate dropped", "stale claim refused", "crash during recovery", "handler run again"}
    assert rare <= set(seen), rare - set(seen)


def test_a_seed_says_what_happens_on_a_broker() -> None:
    def run(seed: int) -> str:
        with Simulation(w.ORDERS, seed=seed, faults=Faults.swarm(seed), workers=2, engine="nats") as sim:
            w.orders(sim, "a", "b")
            return sim.hash

    assert [run(seed) for seed in range(4)] == [run(seed) for seed in range(4)]


def test_every_fault_of_a_broker_is_one_of_a_tape() -> None:
    with Simulation(w.ORDERS, engine="rabbitmq") as sim:
        w.orders(sim)
        publishing = next(n for n, (_, effect) in enumerate(sim.stage.trace) if effect == "publish")
    for fault in (*BROKEN_BROKERS, *CRASHES):
        with Simulation(w.ORDERS, engine="rabbitmq", tape=f"{publishing}={fault}") as sim:
            w.orders(sim)
            assert list(sim.tape.faults.values()) == [fault]


def test_a_world_without_a_broker_says_so() -> None:
    with Simulation(w.ORDERS) as sim, pytest.raises(Misuse, match="engine='rabbitmq'"):
        sim.broker.down(for_=timedelta(days=1))


def test_a_stash_that_is_over_before_its_instance_begins_is_no_lost_message() -> None:
    """The relay of another service ends it, while its own is away; the books once took it for delivered."""
    with Simulation(w.ORDERS, engine="rabbitmq") as sim:
        sim.override(w.Outside, w.Outside(sim.effects))
        sim.publish(w.PaymentCompleted(order_id="a", payment_id="early"))
        sim.run(timedelta(seconds=1))
        sim.down("ordering", for_=timedelta(days=30))
        sim.publish(w.OrderPlaced(order_id="a", total=Decimal(1)))

        sim.run_until_quiet(within=timedelta(days=60))

        assert [letter.reason for letter in sim.dead_letters]
