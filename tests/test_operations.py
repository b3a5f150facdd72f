"""What operators may ask and do, on every engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from outlast import NO_RETRY, Client, Command, Event, Retry, Service, Worker, Workflow, on, starts
from outlast.adapters.system import SystemWorld
from outlast.core.naming import encode
from outlast.engines import inspector_of, open_engine
from outlast.errors import NotFound, Unavailable
from outlast.operations import Operations, open_operations
from outlast.ports import Changes, DeadLetter, Parcel
from outlast.views import InstanceView, Story


class Asked(Event):
    id: str


class Answered(Event):
    id: str


class Ask(Command[Answered], to="oracle"):
    id: str


class Nudge(Event):
    id: str


class Asking(Workflow, key="id"):
    nudged: int = 0

    @starts
    def asked(self, event: Asked) -> Ask:
        self.after(timedelta(hours=1), Nudge(id=event.id), name="nudge")
        return Ask(id=event.id)

    @on
    def answered(self, event: Answered | Nudge) -> None:
        self.complete()


@dataclass
class System:
    """Two services over one engine. The oracle is silent until it is asked to speak."""

    url: str
    client: Client
    operations: Operations
    is_wise: bool = False

    def services(self, retry: Retry = NO_RETRY) -> tuple[Service, Service]:
        asking, oracle = Service("asking", workflows=[Asking]), Service("oracle", retry=retry)

        @oracle.handles
        async def answer(command: Ask) -> Answered:
            if not self.is_wise:
                raise ValueError(f"silence about {command.id}")
            return Answered(id=command.id)

        return asking, oracle

    def worker(self, *services: Service) -> Worker:
        return Worker(services, engine=self.client.engine, world=self.client.world)

    async def instance(self, key: str, status: str) -> InstanceView:
        while True:
            found = await self.operations.instances(key=key)
            if found and found[0].status == status:
                return found[0]
            await asyncio.sleep(0.005)

    async def story(self, key: str, is_told: Callable[[Story], bool]) -> Story:
        while True:
            with suppress(NotFound):
                story = await self.operations.show(key)
                if is_told(story):
                    return story
            await asyncio.sleep(0.005)

    async def dead(self, count: int) -> None:
        while len(await self.operations.failures()) < count:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def system(url: str) -> AsyncGenerator[System]:
    async with Client(url) as client:
        yield System(url, client, Operations(inspector_of(client.engine), client.world))


async def test_a_message_that_waits_for_a_service_which_is_down_is_in_the_story_of_its_key(url: str) -> None:
    async with system(url) as it:
        asking, _ = it.services()
        async with it.worker(asking):
            await it.client.publish(Asked(id="7"))
            await it.instance("7", "running")
            story = await it.operations.show("7")
            status = await it.operations.status()

    states = {item.message: (item.service, item.state, item.workers) for item in story.pending}
    assert states == {"ask": ("oracle", "waiting", 0), "nudge": ("asking", "timer", 1)}
    assert [timer.name for timer in story.instances[0].timers] == ["nudge"]
    assert [line.outcome for line in story.timeline] == ["started"]
    assert status.problems == ["oracle is down; 1 message waits for it, and nothing is lost"]


async def test_a_retry_that_waits_out_its_delay_is_in_the_story_too(url: str) -> None:
    async with system(url) as it:
        asking, oracle = it.services(Retry(immediate=0, delayed=1, first=timedelta(minutes=5)))
        async with it.worker(asking, oracle):
            await it.client.publish(Asked(id="7"))
            story = await it.story("7", lambda story: any(line.outcome == "failed" for line in story.timeline))

    (ask,) = [item for item in story.pending if item.message == "ask"]
    assert (ask.state, ask.attempt) == ("dated", 2)
    assert ask.due is not None


async def test_the_story_of_a_key_has_what_came_to_it_from_other_conversations(url: str) -> None:
    async with system(url) as it:
        it.is_wise = True
        async with it.worker(*it.services()):
            await it.client.publish(Asked(id="7"))
            await it.client.publish(Asked(id="8"))
            await it.instance("7", "completed")
            late = await it.client.publish(Answered(id="7"))
            story = await it.story("7", lambda story: len(story.timeline) == 4)

    assert [line.outcome for line in story.timeline] == ["started", "handled", "completed", "late"]
    assert story.timeline[-1].conversation == late.id != story.instances[0].conversation


async def test_a_message_that_waits_for_its_instance_is_in_the_story_of_its_conversation(url: str) -> None:
    async with system(url) as it, it.worker(it.services()[0]):
        sent = await it.client.publish(Answered(id="not yet asked"))

        story = await it.story(sent.id, lambda story: bool(story.timeline))

    assert [(item.state, item.service) for item in story.pending] == [("stashed", "asking")]


async def test_retrying_twice_sends_once(url: str) -> None:
    async with system(url) as it:
        asking, oracle = it.services()
        async with it.worker(asking, oracle):
            await it.client.publish(Asked(id="7"))
            await it.dead(1)
        (failure,) = await it.operations.failures()

        first, second = await asyncio.gather(it.operations.retry([failure.id]), it.operations.retry([failure.id]))

        status = await it.operations.status()
        waiting = {queue.service: queue.waiting for queue in status.services}
        settled = await it.operations.failures(status="retried")
        it.is_wise = True
        async with it.worker(*it.services()):
            await it.instance("7", "completed")
    assert sorted([first.settled, second.settled]) == [[], [failure.id]]
    assert sorted([first.skipped, second.skipped]) == [[], [failure.id]]
    assert waiting["oracle"] == 1
    assert [found.id for found in settled] == [failure.id]


async def test_what_is_archived_can_be_neither_retried_nor_archived_again(url: str) -> None:
    async with system(url) as it:
        async with it.worker(*it.services()):
            await it.client.publish(Asked(id="7"))
            await it.dead(1)

        archived = await it.operations.archive(["7"])
        again = await it.operations.retry(archived.settled)

    assert len(archived.settled) == 1
    assert again.settled == []


async def test_one_that_is_not_found_keeps_the_others_from_being_sent(url: str) -> None:
    async with system(url) as it:
        async with it.worker(*it.services()):
            await it.client.publish(Asked(id="7"))
            await it.dead(1)

        with pytest.raises(NotFound, match="'8'"):
            await it.operations.retry(["7", "8"])
        assert len(await it.operations.failures()) == 1


@pytest.mark.parametrize("name", ["", "%", "_", "\U0010ffff"])
async def test_no_name_is_a_pattern(url: str, name: str) -> None:
    async with system(url) as it:
        async with it.worker(*it.services()):
            await it.client.publish(Asked(id="7"))
            await it.dead(1)

        with pytest.raises(NotFound):
            await it.operations.failure(name)


async def test_an_ambiguous_name_is_answered_with_what_it_may_mean(url: str) -> None:
    async with system(url) as it:
        async with it.worker(*it.services()):
            for _ in range(2):
                await it.client.send(Ask(id="7"))
            await it.dead(2)
        ids = [failure.id for failure in await it.operations.failures()]

        with pytest.raises(NotFound) as caught:
            await it.operations.failure(ids[0][:4])

        assert [candidate.split()[0] for candidate in caught.value.candidates] == ids
        assert (await it.operations.failure(ids[1])).id == ids[1]


async def test_a_dead_letter_that_cannot_be_read_is_shown_and_sent_as_it_is(url: str) -> None:
    async with system(url) as it:
        await it.client.engine.declare("oracle", [])
        work = await it.client.engine.begin("oracle")
        letter = DeadLetter(id="x1", service="oracle", packet=b"\xff?", reason="unreadable", at=it.client.world.now())
        await work.commit(Changes(dead=[letter]))

        shown = await it.operations.failure("x1")
        await it.operations.retry(["x1"])

        (delivery,) = await it.client.engine.receive("oracle", 10)
        assert shown.message == "(unreadable)"
        assert encode(shown)
        assert delivery.packet == b"\xff?"


async def test_following_a_key_waits_for_it_to_begin_and_ends_with_it(url: str) -> None:
    async with system(url) as it:
        it.is_wise = True
        lines: list[str] = []

        async def follow() -> None:
            async for line in it.operations.follow("7", poll=timedelta(milliseconds=5)):
                lines.append(f"{line.message} {line.outcome}")

        following = asyncio.create_task(follow())
        async with it.worker(*it.services()):
            await it.client.publish(Asked(id="7"))
            async with asyncio.timeout(5):
                await following

    assert lines == ["asked started", "ask handled", "answered completed"]


async def test_the_length_of_a_long_queue_is_told(url: str) -> None:
    async with system(url) as it:
        await it.client.engine.declare("oracle", [])
        packet = it.client.parcel(Ask(id="1")).packet
        work = await it.client.engine.begin("")
        await work.commit(Changes(parcels=[Parcel(str(n), packet, queue="oracle") for n in range(20_500)]))

        (queue,) = (await it.operations.status()).services

        assert (queue.waiting, queue.claimed) == (20_500, 0)
        assert queue.oldest is not None


async def test_looking_into_a_file_that_is_not_there_makes_none(tmp_path: Path) -> None:
    path = tmp_path / "none.db"

    with pytest.raises(Unavailable, match=r"none\.db does not exist"):
        async with open_operations(f"sqlite:///{path}"):
            pass

    assert not path.exists()


async def test_nothing_is_wrong_with_a_system_that_never_ran() -> None:
    engine, world = open_engine("memory://never", SystemWorld())
    status = await Operations(inspector_of(engine), world).status()

    assert (status.services, status.workflows, status.problems) == ([], [], [])
