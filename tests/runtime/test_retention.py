"""What a worker says to a history that is kept for too short a time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from outlast import Command, Retry, Service, Worker
from outlast.adapters.broker import BrokerEngine
from outlast.adapters.memory import MemoryEngine, MemoryStore
from outlast.adapters.system import SystemWorld
from outlast.ports import Engine
from outlast.signals import Signal, Warned
from outlast.testing.broker import SimulatedBroker, SimulatedTransport

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
PATIENT = Retry(delayed=10, first=HOUR, longest=HOUR, jitter=0.0)


class Pay(Command[None], to="bank"):
    pass


def bank(retry: Retry | None = None, of_handler: Retry | None = None) -> Service:
    service = Service("bank", retry=retry)

    @service.handles(retry=of_handler)
    async def pay(command: Pay) -> None:
        pass

    return service


async def warnings(service: Service, keep_history: timedelta, *, kind: str = "rabbitmq") -> list[str]:
    """What a worker warns of at its start; `kind`: of the broker, empty for none."""
    world = SystemWorld()
    engine: Engine = MemoryEngine(MemoryStore(), world)
    if kind:
        engine = BrokerEngine(SimulatedTransport(SimulatedBroker(kind)), MemoryEngine(MemoryStore(), world), world)
    signals: list[Signal] = []
    async with Worker([service], engine=engine, world=world, keep_history=keep_history, observe=signals.append):
        pass
    await engine.close()
    return [signal.warning for signal in signals if isinstance(signal, Warned)]


@pytest.mark.parametrize("service", [bank(PATIENT), bank(of_handler=PATIENT)], ids=["service", "handler"])
async def test_retries_that_outlive_the_inbox_are_warned_of(service: Service) -> None:
    """OB-15"""
    [warning] = await warnings(service, 9 * HOUR)

    assert "kept for 9 h" in warning
    assert "service 'bank' may try a message again for 10 h" in warning
    assert await warnings(service, 10 * HOUR) == []


async def test_a_broker_that_waits_for_longer_than_the_inbox_remembers_is_warned_of() -> None:
    """OB-15"""
    [warning] = await warnings(bank(), 25 * MINUTE)
    assert "kept for 25 min, and the broker may wait for 30 min" in warning
    assert "keep_history" in warning

    assert await warnings(bank(), 25 * MINUTE, kind="nats") == []


async def test_retries_for_ever_are_said_to_be_so() -> None:
    [warning] = await warnings(bank(Retry(delayed=10**15)), 7 * DAY)

    assert "may try a message again for ever" in warning


async def test_where_there_is_no_inbox_nothing_is_warned_of() -> None:
    assert await warnings(bank(PATIENT), MINUTE, kind="") == []
