"""Services on a real engine, and the knowledge of when everything that a message caused is finished."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from outlast.client import Client, Sent
from outlast.core.message import Command, Envelope, Event
from outlast.core.naming import open_packet
from outlast.core.plan import plan_of
from outlast.core.workflow import Workflow
from outlast.engines import inspector_of
from outlast.errors import NotFound
from outlast.ports import DeadLetter, Entry, Inspector, QueueStatus, Unhandled
from outlast.runtime.service import Service
from outlast.testing.story import Story
from outlast.worker import Worker

AnswerT = TypeVar("AnswerT")
WorkflowT = TypeVar("WorkflowT", bound=Workflow)

TIMEOUT = timedelta(seconds=10)
LOOK_EVERY_SECONDS = 0.01
SCAN = 100_000
"""How many messages of each queue are looked at."""
BODY_MAX = 100


class NotSettled(AssertionError):
    """Something that a message caused is not finished in time."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What there is when all is done: `str` of it is the tree of messages."""

    later: Sequence[Unhandled]
    """What has a date and is not due yet, or waits for its instance: timers, delayed messages, the stash."""
    dead: Sequence[DeadLetter]
    """What became a dead letter on the way."""
    story: str

    def __str__(self) -> str:
        return self.story


class Tracked:
    """Runs services and remembers what was sent through it: `async with Tracked([ordering], url) as system`.

    On exit the services stop as a worker does. Other processes may run services on the same engine.
    """

    def __init__(self, services: Sequence[Service], url: str, *, overrides: Mapping[Any, Any] | None = None) -> None:
        self.worker = Worker(services, url=url, overrides=overrides)
        self.conversations: list[str] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        worker = await self._stack.enter_async_context(self.worker)
        assert worker.engine is not None
        self.client = await self._stack.enter_async_context(
            Client(engine=worker.engine, world=worker.world, name="test")
        )
        self.inspector: Inspector = inspector_of(worker.engine)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def send(self, command: Command[Any], *, after: timedelta | None = None) -> Sent:
        """Like `Client.send`, and what it leads to is waited for by `settled`."""
        return self._remembered(await self.client.send(command, after=after))

    async def publish(self, event: Event, *, after: timedelta | None = None) -> Sent:
        """Like `Client.publish`, and what it leads to is waited for by `settled`."""
        return self._remembered(await self.client.publish(event, after=after))

    async def request(self, command: Command[AnswerT], *, timeout: timedelta = TIMEOUT) -> AnswerT:
        """Like `Client.request`, and what else it leads to is waited for by `settled`."""
        id = self.client.world.new_id()
        self.conversations.append(id)
        return await self.client.request(command, timeout=timeout, id=id)

    async def settled(self, *, timeout: timedelta = TIMEOUT) -> Settled:
        """Waits until nothing that these messages caused is queued, being handled, or to be tried again.

        What has a date (but for retries) and what is stashed is not waited for; it is listed in the result.
        Raises `NotSettled`, with the tree of messages, when that takes longer than `timeout`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout.total_seconds()
        while True:
            # Looked at twice: between the first and the last queue of one look, a message can go round the back.
            entries = await self._entries()
            outstanding, _ = await self._unhandled()
            again, later = await self._unhandled()
            if not outstanding and not again and len(entries) == len(await self._entries()):
                story = self._story(entries, later, {})
                return Settled(later, await self._dead(), story)
            if loop.time() > deadline:
                queues = {status.service: status for status in await self.inspector.queues()}
                raise NotSettled(
                    f"after {timeout.total_seconds():g} s not all that was caused by what was sent is finished.\n\n"
                    f"{self._story(entries, [*again, *later], queues)}\n\n"
                    "Give it more time with settled(timeout=...), run the service that is missing, or look at why "
                    "its handler takes so long."
                )
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def state(self, workflow: type[WorkflowT], key: object) -> WorkflowT:
        """The stored state of an instance. Raises `NotFound`."""
        plan = plan_of(workflow)
        for status in await self.inspector.instances(key=str(key), done=None, limit=SCAN):
            if status.address.workflow == plan.name:
                return cast(WorkflowT, plan.decode(bytes(status.state)).state)
        raise NotFound(
            f"there is no {workflow.__name__} with the key {key!r}. No message has started it, or it was cleaned "
            "away; await settled() before looking."
        )

    def _remembered(self, sent: Sent) -> Sent:
        self.conversations.append(sent.id)
        return sent

    async def _entries(self) -> list[Entry]:
        return [
            entry
            for conversation in self.conversations
            for _, entry in await self.inspector.history(conversation=conversation, after=0, limit=SCAN)
        ]

    async def _unhandled(self) -> tuple[list[Unhandled], list[Unhandled]]:
        """What has to be waited for, and what is for later."""
        found = [
            item
            for conversation in self.conversations
            for item in await self.inspector.unhandled(conversation=conversation, scan=SCAN)
        ]
        later = [item for item in found if item.stashed_for or (item.due is not None and not _is_retry(item))]
        return [item for item in found if item not in later], later

    async def _dead(self) -> list[DeadLetter]:
        letters = await self.inspector.dead_letters(status="open", id="", limit=SCAN)
        return [item.letter for item in letters if item.letter.conversation in self.conversations]

    def _story(
        self, entries: Sequence[Entry], unhandled: Sequence[Unhandled], queues: Mapping[str, QueueStatus]
    ) -> str:
        story = Story()
        for entry in entries:
            envelope = open_packet(entry.packet)
            story.tell(envelope.id, _show(envelope), cause=envelope.cause)
            note = f" ({entry.note})" if entry.note else ""
            story.end(envelope.id, f"{entry.outcome} by {entry.workflow or entry.service}{note}")
        for item in unhandled:
            envelope = open_packet(item.packet)
            story.tell(envelope.id, _show(envelope), cause=envelope.cause)
            story.end(envelope.id, self._whereabouts(item, queues.get(item.service)))
        return str(story)

    def _whereabouts(self, item: Unhandled, queue: QueueStatus | None) -> str:
        if item.stashed_for:
            return f"stashed for {item.stashed_for}"
        if item.due is not None:
            what = "tried again" if _is_retry(item) else "due"
            return f"{what} in {timedelta(seconds=round((item.due - self.client.world.now()).total_seconds()))}"
        if item.is_claimed:
            return f"BEING HANDLED by {item.service}"
        nobody = ", which no worker takes messages for" if queue is not None and not queue.workers else ""
        return f"WAITING for {item.service}{nobody}"


def _is_retry(item: Unhandled) -> bool:
    return item.due is not None and open_packet(item.packet).attempt > 1


def _show(envelope: Envelope) -> str:
    body = bytes(envelope.body).decode(errors="replace")
    return f"{envelope.type} {body[:BODY_MAX]}{'…' if len(body) > BODY_MAX else ''}"
