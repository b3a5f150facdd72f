"""What a stashed message did to those in its service that were not waiting for it."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from outlast import Event, Service, Workflow, on, starts
from outlast.engines import inspector_of
from outlast.testing.exploring import search
from outlast.testing.faults import Faults
from outlast.testing.simulation import Simulation
from tests.system import System, running


class Ordered(Event):
    key: str


class Parcelled(Event):
    key: str


class Paid(Event):
    key: str


class Closed(Event):
    key: str


class Billing(Workflow, key="key"):
    payments: int = 0

    @starts
    def ordered(self, event: Ordered) -> None: ...

    @on
    def paid(self, event: Paid) -> None:
        self.payments += 1

    @on
    def closed(self, event: Closed) -> None:
        self.complete()


class Shipping(Workflow, key="key"):
    payments: int = 0

    @starts
    def parcelled(self, event: Parcelled) -> None: ...

    @on
    def paid(self, event: Paid) -> None:
        self.payments += 1

    @on
    def closed(self, event: Closed) -> None:
        self.complete()


async def payments(system: System) -> dict[str, int]:
    rows = await inspector_of(system.engine).instances(key="1", done=None, limit=9)
    return {row.address.workflow: msgspec.json.decode(row.state)["state"]["payments"] for row in rows}


async def test_a_stashed_message_comes_back_to_the_workflow_that_waited_for_it_alone(url: str) -> None:
    """One event was for two workflows and a handler of one service, and the instance of one workflow was late.

    The event was kept for that instance, and put back into the service's queue when it began. From there it went to
    everyone again: the other workflow counted the payment twice, and the handler ran a second time. What is kept is
    now marked with the workflow that it is kept for, if others have had it.
    """
    service, heard = Service("shop", workflows=[Billing, Shipping]), list[str]()

    @service.handles
    async def note(event: Paid) -> None:
        heard.append(event.key)

    async with running(url, service) as system:
        for event in (Ordered(key="1"), Paid(key="1"), Parcelled(key="1")):
            await system.client.publish(event)
            await system.quiet()
        assert await payments(system) == {"billing": 1, "shipping": 1}
        assert heard == ["1"]


async def test_a_message_that_two_workflows_kept_comes_once_to_each(url: str) -> None:
    """Both instances were late: each beginning brought the event to both workflows."""
    async with running(url, Service("shop", workflows=[Billing, Shipping])) as system:
        for event in (Paid(key="1"), Ordered(key="1"), Parcelled(key="1")):
            await system.client.publish(event)
            await system.quiet()
        assert await payments(system) == {"billing": 1, "shipping": 1}


def test_the_simulation_agrees() -> None:
    """The rules of the simulator take what is marked for the same message, whenever its instance begins."""

    def late_and_in_one_batch(sim: Simulation) -> None:
        sim.publish(Paid(key="1"))
        sim.run(timedelta(minutes=1))
        sim.do(sim.client.send_all(Ordered(key="1"), Parcelled(key="1")))
        sim.do(sim.client.send_all(Ordered(key="2"), Paid(key="2"), Parcelled(key="2")))
        sim.run(timedelta(minutes=30))
        sim.do(sim.client.send_all(Closed(key="1"), Closed(key="2")))
        sim.run_until_quiet()
        for key in "12":
            for kind in (Billing, Shipping):
                state = sim.instance(kind, key)
                assert state is None or state.payments <= 1
                assert state is not None or sim.crashes >= 5

    service = Service("shop", workflows=[Billing, Shipping])
    search(late_and_in_one_batch, [service], seeds=range(40), faults=lambda seed: Faults(crash=0.05, shuffle=0.5))
