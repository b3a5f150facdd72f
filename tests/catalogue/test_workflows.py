"""SG: one instance for each key, changed by one turn at a time, and never lost."""

import asyncio
import random
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from outlast import (
    NO_RETRY,
    Client,
    Command,
    Event,
    Failed,
    Retry,
    Service,
    Worker,
    Workflow,
    on,
    starts,
)
from outlast.engines import inspector_of, open_engine
from outlast.errors import BadWorkflow, Conflict
from outlast.ports import Address, Changes, Saved
from outlast.signals import GaveUp, Overruled, Retrying
from tests.system import AT_ONCE, MovableWorld, running


class Opened(Event):
    key: str


class AlsoOpened(Event):
    key: str


class Part(Event):
    key: str
    number: int = 0


class Closed(Event):
    key: str


class Told(Event):
    key: str
    number: int = 0


class Whole(Workflow, key="key"):
    """Collects parts."""

    parts: list[int] = []
    openings: list[str] = []

    @starts
    def opened(self, event: Opened | AlsoOpened) -> None:
        self.openings.append(type(event).__name__)

    @on
    def part(self, event: Part) -> Told:
        self.parts.append(event.number)
        return Told(key=event.key, number=event.number)

    @on
    def closed(self, event: Closed) -> Told:
        self.complete()
        return Told(key=event.key, number=-1)


def listener(heard: list[tuple[str, int]]) -> Service:
    service = Service("listener")

    @service.handles
    async def hear(event: Told) -> None:
        heard.append((event.key, event.number))

    return service


async def test_a_start_makes_an_instance_with_its_key(url: str) -> None:
    """SG-01: found under the key that the message names."""
    async with running(url, Service("s", workflows=[Whole])) as system:
        await system.client.publish(Opened(key="k-1"))
        await system.quiet()
        instance = await system.instance("k-1")

    assert instance is not None
    assert instance.address == Address("s", "whole", "k-1")
    assert (instance.version, instance.done) == (1, False)


async def test_a_second_start_changes_nothing(url: str) -> None:
    """SG-02: it is noted, and the instance stays as it was; also when both come in one batch."""
    async with running(url, Service("s", workflows=[Whole])) as system:
        await system.client.send_all(Opened(key="k"), Opened(key="k"))
        await system.client.publish(Opened(key="k"))
        await system.quiet()
        assert (await system.state("k"))["openings"] == ["Opened"]
        assert [outcome for _, outcome in await system.outcomes()] == ["started", "second start", "second start"]


async def two_workers(url: str, *services: Service) -> tuple[list[Worker], list[Any]]:
    signals: list[Any] = []
    workers = [
        Worker([service], url=url, observe=signals.append, poll=timedelta(milliseconds=20), batch=4)
        for service in services
    ]
    return workers, signals


async def test_two_starts_at_once_make_one_instance(url: str) -> None:
    """SG-03, SG-12: two kinds of start for one key, two workers: one instance has both, for each of 50 keys."""
    workers, signals = await two_workers(url, *[Service("s", workflows=[Whole]) for _ in range(2)])
    keys = [f"k{n}" for n in range(50)]
    async with workers[0], workers[1], running(url, Service("other")) as system:
        await system.client.send_all(*[kind(key=key) for key in keys for kind in (Opened, AlsoOpened)])
        await system.quiet()
        for key in keys:
            assert sorted((await system.state(key))["openings"]) == ["AlsoOpened", "Opened"]
        assert await system.dead() == []

    assert not [signal for signal in signals if isinstance(signal, Retrying | GaveUp)]


async def test_parts_that_arrive_at_once_are_all_kept(url: str) -> None:
    """SG-05: three workers' worth of parts for one instance, none lost and none doubled."""
    heard: list[tuple[str, int]] = []
    workers, signals = await two_workers(url, *[Service("s", workflows=[Whole]) for _ in range(3)])
    async with workers[0], workers[1], workers[2], running(url, listener(heard)) as system:
        await system.client.publish(Opened(key="k"))
        for start in range(0, 200, 20):
            await system.client.send_all(*[Part(key="k", number=n) for n in range(start, start + 20)])
        await system.quiet()
        parts = (await system.state("k"))["parts"]
        dead = await system.dead()

    assert sorted(parts) == list(range(200))
    assert sorted(number for _, number in heard) == list(range(200))
    assert dead == []
    assert not [signal for signal in signals if isinstance(signal, Retrying)]


async def test_of_two_turns_that_save_one_instance_the_later_is_refused(url: str) -> None:
    """SG-08, SG-12, SG-32, OB-03: with the version of its loading, not the one before; a second insert too."""
    engine, _world = open_engine(url)
    address = Address("s", "w", "k")

    async def save(version: int, state: bytes, *, done: bool = False) -> None:
        work = await engine.begin("s")
        try:
            await work.commit(Changes(saved=[Saved(address, state, version, "c", done)]))
        except BaseException:
            await work.rollback()
            raise

    async def load() -> Any:
        work = await engine.begin("s")
        found = (await work.load([address])).get(address)
        await work.rollback()
        return found

    await save(0, b'"first"')
    with pytest.raises(Conflict):
        await save(0, b'"second first"')
    assert (await load()).version == 1
    await save(1, b'"second"')
    with pytest.raises(Conflict):
        await save(1, b'"stale"', done=True)
    with pytest.raises(Conflict):
        await save(7, b'"from the future"')
    stored = await load()
    await engine.close()

    assert (stored.state, stored.version, stored.done) == (b'"second"', 2, False)


async def test_a_conflict_costs_no_attempt() -> None:
    """SG-09: a turn that lost a race is repeated, and neither counted nor reported as a failure."""

    class Rival(Workflow, key="key"):
        count: int = 0

        @starts
        def opened(self, event: Opened) -> None:
            pass

        @on
        def part(self, event: Part) -> None:
            if rivalry:
                # Another worker, in the middle of this turn: it commits before us.
                store.instances[Address("s", "rival", "k")].version += 1
                rivalry.pop()
            self.count += 1

    service = Service("s", workflows=[Rival], retry=NO_RETRY)
    rivalry: list[int] = []
    async with running("memory://a-conflict-costs-no-attempt", service) as system:
        store = system.engine.store  # type: ignore[attr-defined]
        await system.client.publish(Opened(key="k"))
        await system.quiet()
        rivalry += range(30)
        await system.client.publish(Part(key="k"))
        await system.quiet()
        dead = await system.dead()
        state = await system.state("k")
        signals = [type(signal) for signal in system.signals]

    assert dead == []
    assert state["count"] == 1
    assert signals.count(Overruled) == 30
    assert Retrying not in signals


async def test_one_key_in_two_workflows_is_two_instances(url: str) -> None:
    """SG-13: uniqueness is per workflow."""

    class Other(Workflow, key="key"):
        opened_at: str = ""

        @starts
        def opened(self, event: Opened) -> None:
            self.opened_at = event.key

    async with running(url, Service("s", workflows=[Whole, Other]), Service("t", workflows=[Whole])) as system:
        await system.client.publish(Opened(key="k"))
        await system.quiet()
        found = await inspector_of(system.engine).instances(key="k", done=None, limit=9)

    assert sorted((i.address.service, i.address.workflow) for i in found) == [
        ("s", "other"),
        ("s", "whole"),
        ("t", "whole"),
    ]


async def test_a_completed_instance_is_not_revived(url: str) -> None:
    """SG-15, CP-22: late messages and starts are noted, nothing is sent, the state stays."""
    heard: list[tuple[str, int]] = []
    async with running(url, Service("s", workflows=[Whole]), listener(heard)) as system:
        await system.client.send_all(Opened(key="k"), Part(key="k", number=1), Closed(key="k"), Part(key="k", number=2))
        await system.client.send_all(Part(key="k", number=3), Opened(key="k"), Closed(key="k"))
        await system.quiet()
        instance = await system.instance("k")
        state = await system.state("k")
        outcomes = [outcome for kind, outcome in await system.outcomes() if kind != "told"]
        dead = await system.dead()

    assert instance is not None
    assert instance.done
    assert state["parts"] == [1]
    assert sorted(heard) == [("k", -1), ("k", 1)]
    assert outcomes == ["started", "continued", "completed", "late", "late", "late", "late"]
    assert dead == []


async def test_a_key_may_be_used_again_once_the_completed_instance_is_gone(url: str) -> None:
    """SG-14: after `keep`, a start begins anew and meets no leftover row."""

    class Short(Workflow, key="key", keep=timedelta(0)):
        openings: int = 0

        @starts
        def opened(self, event: Opened) -> None:
            self.openings += 1
            self.complete()

    async with running(url, Service("s", workflows=[Short])) as system:
        for _ in range(2):
            await system.client.publish(Opened(key="k"))
            await system.quiet()
            now = system.worker.world.now()  # type: ignore[union-attr]
            await inspector_of(system.engine).clean(now, now - timedelta(days=1), 100)
        assert await system.instance("k") is None
        await system.client.publish(Opened(key="k"))
        await system.quiet()
        assert (await system.state("k"))["openings"] == 1


async def test_what_is_rolled_back_leaves_no_trace(url: str) -> None:
    """SG-17, SG-18, OB-04: creation, change and completion are there after the commit, and not before."""
    engine, _world = open_engine(url)
    address = Address("s", "w", "k")

    async def seen() -> tuple[int, bool] | None:
        found = await inspector_of(engine).instances(key="k", done=None, limit=2)
        return (found[0].version, found[0].done) if found else None

    for version, done, expected in ((0, False, (1, False)), (1, False, (2, False)), (2, True, (3, True))):
        before = await seen()
        work = await engine.begin("s")
        await work.load([address])
        await work.rollback()
        assert await seen() == before
        work = await engine.begin("s")
        await work.commit(Changes(saved=[Saved(address, b"{}", version, "c", done)]))
        assert await seen() == expected
    await engine.close()


@pytest.mark.parametrize("culprit", ["first", "second", "neither"])
@pytest.mark.parametrize("exists", [False, True], ids=["created", "changed"])
async def test_of_two_workflows_on_one_message_both_change_or_neither(url: str, culprit: str, exists: bool) -> None:
    """SG-19: the failure of one undoes the other, and nothing is sent; the neighbour's change stays."""

    def workflow(its_name: str) -> type[Workflow]:
        class Half(Workflow, key="key", name=its_name):
            parts: list[int] = []

            @starts
            def part(self, event: Part) -> Told:
                if event.number == 13 and its_name == culprit:
                    raise ValueError(its_name)
                self.parts.append(event.number)
                return Told(key=its_name, number=event.number)

            @starts
            def opened(self, event: Opened) -> None:
                self.parts.append(0)

        return Half

    heard: list[tuple[str, int]] = []
    service = Service("s", workflows=[workflow("first"), workflow("second")], retry=AT_ONCE)
    async with running(url, service, listener(heard)) as system:
        if exists:
            await system.client.publish(Opened(key="k"))
            await system.quiet()
        await system.client.send_all(Part(key="a", number=1), Part(key="k", number=13), Part(key="b", number=2))
        await system.quiet()
        found = await inspector_of(system.engine).instances(key="k", done=None, limit=9)
        states = {i.address.workflow: msgspec.json.decode(i.state)["state"]["parts"] for i in found}
        dead = await system.dead()

    before = [0] if exists else []
    if culprit == "neither":
        assert states == {"first": [*before, 13], "second": [*before, 13]}
        assert dead == []
    else:
        assert states == ({"first": [0], "second": [0]} if exists else {})
        assert len(dead) == 1
    told = [("first", 1), ("first", 2), ("second", 1), ("second", 2)]
    assert sorted(heard) == sorted(told + ([("first", 13), ("second", 13)] if culprit == "neither" else []))


class Blob(Event):
    key: str
    text: str


async def test_a_large_state_can_shrink_and_two_loads_share_nothing(url: str) -> None:
    """SG-21, SG-23: what is read back is what was stored last, and nothing of what was changed after that."""
    kept: list[list[str]] = []

    class Holder(Workflow, key="key"):
        texts: list[str] = []

        @starts
        def opened(self, event: Opened) -> None:
            pass

        @on
        def blob(self, event: Blob) -> None:
            self.texts = [event.text]
            kept.append(self.texts)

    async with running(url, Service("s", workflows=[Holder])) as system:
        await system.client.send_all(Opened(key="k"), Blob(key="k", text="x" * 500_000))
        await system.quiet()
        kept[-1].append("changed outside")
        await system.client.publish(Blob(key="k", text="small"))
        await system.quiet()
        kept[-1].append("changed outside")
        state = await system.state("k")

    assert state["texts"] == ["small"]


class Keyed(Event):
    key: Any = None


async def test_a_message_without_its_key_is_set_aside_with_names(url: str) -> None:
    """SG-24, SG-27: no row, and the reason names workflow, message and key; also for a key that is computed."""

    class Process(Workflow, key="key"):
        count: int = 0

        @starts
        def begun(self, event: Keyed) -> None:
            self.count += 1

        @on(key=lambda event: None)
        def computed(self, event: Part) -> None:
            self.count += 1

    async with running(url, Service("s", workflows=[Process])) as system:
        await system.client.send_all(Keyed(key=None), Part(key="k"))
        await system.quiet()
        dead = await system.dead()
        found = await inspector_of(system.engine).instances(key="", done=None, limit=9)

    assert list(found) == []
    assert [letter.attempts for letter in dead] == [1, 1]
    assert all("Process cannot find the instance" in letter.reason and "'key'" in letter.reason for letter in dead)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (0, "0"),
        ("", ""),
        (str(UUID(int=0)), str(UUID(int=0))),
        (False, "False"),
        ("a b\n\0'\";--", "a b\n\0'\";--"),
    ],
)
async def test_zero_and_empty_are_keys_like_any_other(url: str, value: Any, key: str) -> None:
    """SG-25: they find their own instance, and no other."""

    class Process(Workflow, key="key"):
        count: int = 0

        @starts
        def begun(self, event: Keyed) -> None:
            self.count += 1

        @on
        def part(self, event: Part) -> None:
            self.count += 10

    async with running(url, Service("s", workflows=[Process])) as system:
        await system.client.send_all(Keyed(key=value), Keyed(key="another"))
        await system.client.send_all(Part(key=key), Part(key="another"), Part(key="another"))
        await system.quiet()
        found = await inspector_of(system.engine).instances(key="", done=None, limit=9)
        counts = {i.address.key: msgspec.json.decode(i.state)["state"]["count"] for i in found}

    assert counts == {key: 11, "another": 21}


async def test_a_workflow_cannot_change_its_key(url: str) -> None:
    """SG-28: the key is read-only, and a field of that name does not move the instance."""

    class Process(Workflow, key="key"):
        key_seen: str = ""

        @starts
        def begun(self, event: Opened) -> None:
            self.key = "other"  # type: ignore[misc]

    async with running(url, Service("s", workflows=[Process], retry=NO_RETRY)) as system:
        await system.client.publish(Opened(key="k"))
        await system.quiet()
        [dead] = await system.dead()
        assert await system.instance("k") is None
        assert await system.instance("other") is None

    assert "AttributeError" in dead.error


async def test_a_message_before_its_start_waits_for_it(url: str) -> None:
    """SG-29: stashed, then handled; in the batch of the start and in one before it, by one worker or several."""
    async with running(url, Service("s", workflows=[Whole])) as system:
        await system.client.send_all(Part(key="a", number=1), Opened(key="a"), Part(key="a", number=2))
        await system.client.publish(Part(key="b", number=1))
        await system.quiet()
        await system.client.publish(Opened(key="b"))
        await system.quiet()
        parts = [(await system.state(key))["parts"] for key in "ab"]
        dead = await system.dead()

    assert [sorted(each) for each in parts] == [[1, 2], [1]]
    assert dead == []


async def test_a_message_whose_instance_never_comes_is_set_aside(url: str) -> None:
    """SG-29: after the time that the workflow states, with workflow and key in the reason, once."""

    class Impatient(Workflow, key="key", stash=timedelta(milliseconds=60)):
        count: int = 0

        @starts
        def opened(self, event: Opened) -> None:
            pass

        @on
        def part(self, event: Part) -> None:
            self.count += 1

    async with running(url, Service("s", workflows=[Impatient])) as system:
        await system.client.publish(Part(key="k"))
        for _ in range(400):
            dead = await system.dead()
            if dead:
                break
            await asyncio.sleep(0.005)
        await system.client.publish(Opened(key="k"))
        await system.quiet()
        assert (await system.state("k"))["count"] == 0
        assert len(await system.dead()) == 1

    assert "'impatient'" in dead[0].reason
    assert "'k'" in dead[0].reason


class Ask(Command["Answer"], to="oracle"):
    number: int


class Answer(Event):
    number: int


async def test_a_hundred_answers_in_any_order_reach_who_asked(url: str) -> None:
    """SG-31: the answer has no field of the asker's; it finds it all the same, and only it."""

    class Asker(Workflow, key="key"):
        asked: int = -1
        answers: list[int] = []

        @starts
        def begun(self, event: Part) -> list[Ask]:
            self.asked = event.number
            return [Ask(number=event.number), Ask(number=event.number + 1000)]

        @on
        def answered(self, event: Answer) -> None:
            self.answers.append(event.number)

    oracle = Service("oracle")
    dice = random.Random(4)

    @oracle.handles
    async def answer(command: Ask) -> Answer:
        await asyncio.sleep(dice.random() / 30)
        return Answer(number=command.number)

    async with running(url, oracle, Service("s", workflows=[Asker])) as system:
        await system.client.send_all(*[Part(key=f"k{n}", number=n) for n in range(100)])
        await system.quiet()
        for n in range(100):
            state = await system.state(f"k{n}")
            assert state["asked"] == n
            assert sorted(state["answers"]) == [n, n + 1000]


async def test_the_version_counts_the_changes(url: str) -> None:
    """SG-32: one after the start, one more for each batch that changed it."""
    async with running(url, Service("s", workflows=[Whole])) as system:
        await system.client.publish(Opened(key="k"))
        await system.quiet()
        for expected in (2, 3, 4):
            await system.client.publish(Part(key="k"))
            await system.quiet()
            instance = await system.instance("k")
            assert instance is not None
            assert instance.version == expected


class Book(Command[None], to="agency"):
    key: str
    step: int


class Cancel(Command[None], to="agency"):
    key: str
    step: int


class Booked(Event):
    key: str
    step: int


class Cancelled(Event):
    key: str
    step: int


class Trip(Workflow, key="key"):
    """Books three things; when one cannot be had, gives back the others in reverse."""

    booked: list[int] = []
    log: list[str] = []

    @starts
    def wanted(self, event: Opened) -> Book:
        return Book(key=event.key, step=1)

    @on
    def got(self, event: Booked) -> Book | None:
        self.booked.append(event.step)
        self.log.append(f"+{event.step}")
        return Book(key=event.key, step=event.step + 1)

    @on
    def refused(self, event: Failed[Book]) -> Cancel | None:
        self.log.append(f"!{event.command.step}")
        return Cancel(key=event.command.key, step=self.booked[-1])

    @on
    def undone(self, event: Cancelled) -> Cancel | None:
        self.log.append(f"-{event.step}")
        self.booked.remove(event.step)
        if self.booked:
            return Cancel(key=event.key, step=self.booked[-1])
        self.complete()
        return None


async def test_a_step_that_fails_for_good_is_compensated_in_reverse(url: str) -> None:
    """SG-36, OB-21: one `Failed`, then each compensation once; every odd attempt at one fails on the way."""
    agency = Service("agency", retry=Retry(immediate=1, delayed=0))
    effects: list[str] = []
    failures: set[tuple[str, str, int]] = set()

    def stumble(what: str, command: Book | Cancel) -> None:
        if (what, command.key, command.step) not in failures:
            failures.add((what, command.key, command.step))
            raise ConnectionError("once")

    @agency.handles
    async def book(command: Book) -> Booked:
        stumble("book", command)
        if command.step == 3:
            raise ValueError("sold out")
        effects.append(f"+{command.step}")
        return Booked(key=command.key, step=command.step)

    @agency.handles
    async def cancel(command: Cancel) -> Cancelled:
        stumble("cancel", command)
        effects.append(f"-{command.step}")
        return Cancelled(key=command.key, step=command.step)

    async with running(url, agency, Service("s", workflows=[Trip])) as system:
        await system.client.publish(Opened(key="k"))
        await system.quiet()
        state = await system.state("k")
        instance = await system.instance("k")
        dead = await system.dead()

    assert state["log"] == ["+1", "+2", "!3", "-2", "-1"]
    assert effects == ["+1", "+2", "-2", "-1"]
    assert instance is not None
    assert instance.done
    assert [letter.type for letter in dead] == ["book"]


async def test_every_acknowledged_value_is_in_the_set_though_workers_come_and_go(sqlite_url: str) -> None:
    """SG-35: four clients add unique values while workers are stopped and started; none is lost or doubled."""
    acknowledged: list[int] = []

    async def adds(start: int) -> None:
        async with Client(sqlite_url) as client:
            for number in range(start, start + 40):
                await client.publish(Part(key="k", number=number))
                acknowledged.append(number)
                await asyncio.sleep(0.002)

    async def comes_and_goes() -> None:
        while len(acknowledged) < 160:
            async with Worker([Service("s", workflows=[Whole])], url=sqlite_url, batch=7):
                await asyncio.sleep(0.02)

    async with running(sqlite_url, Service("s", workflows=[Whole])) as system:
        await system.client.publish(Opened(key="k"))
        await system.quiet()
    await asyncio.gather(*[adds(100 * n) for n in range(4)], comes_and_goes(), comes_and_goes())
    async with running(sqlite_url, Service("s", workflows=[Whole])) as system:
        await system.quiet()
        parts = (await system.state("k"))["parts"]

    assert len(acknowledged) == 160
    assert sorted(parts) == sorted(acknowledged)


def test_what_could_never_be_decided_is_refused_at_the_definition() -> None:
    """SG-01, SG-24: without a key, without a start, with a field that has no default, with two methods for one."""

    class Keyless(Workflow):
        @starts
        def opened(self, event: Opened) -> None: ...

    class Startless(Workflow, key="key"):
        @on
        def opened(self, event: Opened) -> None: ...

    class Demanding(Workflow, key="key"):
        total: int

        @starts
        def opened(self, event: Opened) -> None: ...

    class Twofold(Workflow, key="key"):
        @starts
        def opened(self, event: Opened) -> None: ...

        @on
        def opened_again(self, event: Opened) -> None: ...

    class Mistaken(Workflow, key="order_id"):
        @starts
        def opened(self, event: Opened) -> None: ...

    for wrong, why in (
        (Keyless, "how an instance is found"),
        (Startless, "@starts"),
        (Demanding, "without a default"),
        (Twofold, "two methods"),
        (Mistaken, "'order_id'"),
    ):
        with pytest.raises(BadWorkflow, match=why):
            Service("s", workflows=[wrong])


async def test_a_movable_world_is_what_a_workflow_sees(url: str) -> None:
    """SG-01: `now` and `key` are those of the turn and the instance."""
    seen: list[Any] = []

    class Looker(Workflow, key="key"):
        @starts
        def opened(self, event: Opened) -> None:
            seen.append((self.key, self.now))

    world = MovableWorld()
    world.ahead = timedelta(days=400)
    async with running(url, Service("s", workflows=[Looker]), world=world) as system:
        await system.client.publish(Opened(key="k"))
        await system.quiet()

    assert seen[0][0] == "k"
    assert abs(seen[0][1] - world.now()) < timedelta(seconds=5)
