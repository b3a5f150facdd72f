"""Which message killed the process: a broker's own count says little, so tries are counted in the store."""

from __future__ import annotations

from outlast.adapters.broker import BrokerEngine
from outlast.adapters.memory import MemoryEngine, MemoryStore
from outlast.ports import Arrival, Changes
from outlast.testing import StillWorld
from outlast.testing.broker import SimulatedBroker, SimulatedTransport
from tests.broker.rig import tried


def on(store: MemoryStore) -> BrokerEngine:
    """One more process on this store."""
    world = StillWorld()
    return BrokerEngine(SimulatedTransport(SimulatedBroker("rabbitmq")), MemoryEngine(store, world), world)


async def counts(engine: BrokerEngine, limit: int = 9) -> dict[str, int]:
    return {str(d.receipt): d.count for d in await engine.receive("shop", limit)}


async def test_what_was_handed_over_a_few_times_is_no_suspect() -> None:
    """A connection that breaks counts all that was on its way."""
    engine = on(MemoryStore())

    engine.arrived("shop", [Arrival("a", b"", 2, 1)])

    assert await counts(engine) == {"a": 0}


async def test_each_process_that_tries_a_suspect_counts_once() -> None:
    """PO-01: whatever else is handed over again meanwhile."""
    store = MemoryStore()
    first, second = on(store), on(store)

    first.arrived("shop", [Arrival("a", b"", 3, 1), Arrival("b", b"", 3, 2)])
    assert await counts(first) == {"a": 0, "b": 0}
    await tried(first, "shop", await first.receive("shop", 9))
    await tried(first, "shop", await first.receive("shop", 9))
    first.lost("shop")
    first.arrived("shop", [Arrival("a", b"", 9, 3)])
    await tried(first, "shop", await first.receive("shop", 9))

    second.arrived("shop", [Arrival("a", b"", 10, 1)])
    assert await counts(second) == {"a": 1}
    await first.close()


async def test_what_only_waits_behind_others_is_not_counted() -> None:
    """Else a service that is killed often would take the whole backlog for suspects, and handle it one by one."""
    store = MemoryStore()
    first, second = on(store), on(store)
    backlog = [Arrival(f"{number}", b"", 5, number) for number in range(100)]

    first.arrived("shop", backlog)
    await tried(first, "shop", (await first.receive("shop", 100))[:3])
    second.arrived("shop", backlog)

    assert sum(count > 0 for count in (await counts(second, limit=100)).values()) == 3
    await first.close()


async def test_what_was_handled_is_forgotten() -> None:
    store = MemoryStore()
    engine = on(store)
    engine.arrived("shop", [Arrival("a", b"", 5, 1)])
    [delivery] = await engine.receive("shop", 9)

    work = await engine.begin("shop")
    await work.first_sight([delivery])
    await work.commit(Changes(handled=[delivery]))

    assert store.tries == {}
    await engine.close()
