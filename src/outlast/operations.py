"""What an operator may ask of a running system, and do to it. Values in, values out; nothing is printed here.

The command line and the dashboard both stand on this, so every action has both faces.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from outlast.engines import inspector_of, open_engine
from outlast.errors import NotFound, Unavailable
from outlast.ports import OUTBOX, DeadLetterStatus, Finding, Inspector, Parcel, QueueStatus, World
from outlast.views import (
    Failure,
    FailureDetail,
    InstanceView,
    Line,
    Pending,
    Settled,
    Status,
    Story,
    detail_of,
    failure_of,
    instance_view,
    line_of,
    opened,
    parcel_again,
    pending_of,
)

SCAN = 20_000
"""So many messages of each queue are looked at when one conversation is searched for."""
PAGE = 1_000
"""So many rows are read at a time."""
LISTED = 10_000
"""So many open dead letters are looked at when one is searched for by its business key."""


class Operations:
    """What may be asked and done, over one engine."""

    def __init__(self, inspector: Inspector, world: World) -> None:
        self.inspector = inspector
        self.world = world

    async def status(self) -> Status:
        """Services, workflows and what needs a person."""
        queues = list(await self.inspector.queues())
        return Status(
            at=self.world.now(),
            services=queues,
            workflows=list(await self.inspector.workflows()),
            problems=[*filter(None, [self.inspector.trouble]), *(p for queue in queues for p in _problems(queue))],
        )

    async def examine(self) -> list[Finding]:
        """Versions, settings, limits, rights and clocks of the engine."""
        return list(await self.inspector.examine())

    async def instances(
        self, *, key: str = "", workflow: str = "", done: bool | None = None, limit: int = 50
    ) -> list[InstanceView]:
        """Instances, the latest first, restricted by what is given."""
        wanted = limit if not workflow else LISTED
        rows = await self.inspector.instances(key=key, done=done, limit=wanted)
        return [instance_view(row) for row in rows if workflow in ("", row.address.workflow)][:limit]

    async def show(self, key: str) -> Story:
        """Everything about a business key, or a conversation's id. Raises `NotFound`.

        The timeline has the conversations that the key's instances began in, and whatever else came to them.
        """
        instances = await self.instances(key=key)
        conversations = _conversations(key, instances)
        timeline = {line.number: line for id in conversations for line in await self._lines(id, key)}
        pending = [item for id in conversations for item in await self._pending(id)]
        failures = [
            failure_of(item)
            for item in await self.inspector.dead_letters(status="open", id="", limit=LISTED)
            if item.letter.conversation in conversations or item.letter.key == key
        ]
        if not (instances or timeline or pending or failures):
            raise NotFound(
                f"nothing is known under {key!r}: no workflow instance has it as its key, and no conversation "
                "has it as its id. It may not have begun, or be older than what is kept: see `outlast list`. If its "
                "first message waits for a service that is down, give the conversation that `outlast send` printed."
            )
        lines = [timeline[number] for number in sorted(timeline)]
        return Story(key=key, instances=instances, timeline=lines, pending=pending, failures=failures)

    async def follow(self, key: str, *, poll: timedelta = timedelta(milliseconds=200)) -> AsyncIterator[Line]:
        """The history of a key from its beginning, and then as it happens, until its instances are completed.

        Waits when there is nothing yet. A conversation without an instance is followed for ever.
        """
        seen: dict[str, int] = {}
        told: set[int] = set()
        while True:
            instances = await self.instances(key=key)
            for conversation in _conversations(key, instances):
                for line in await self._lines(conversation, key, after=seen.get(conversation, 0)):
                    seen[conversation] = line.number
                    if line.number not in told:
                        told.add(line.number)
                        yield line
            # Read before the lines were: what completed them is among those that have been given out.
            if instances and all(instance.status == "completed" for instance in instances):
                return
            await asyncio.sleep(poll.total_seconds())

    async def failures(
        self, *, status: str = "open", service: str = "", message: str = "", limit: int = 100
    ) -> list[Failure]:
        """Dead letters, oldest first, restricted by what is given; `status` empty for all of them."""
        wanted = LISTED if service or message else limit
        rows = await self.inspector.dead_letters(status=status, id="", limit=wanted)
        return [
            failure_of(row) for row in rows if service in ("", row.letter.service) and message in ("", row.letter.type)
        ][:limit]

    async def failure(self, name: str) -> FailureDetail:
        """The dead letter with this id, this beginning of an id, or this business key. Raises `NotFound`."""
        return detail_of(await self._find(name))

    async def retry(self, names: Sequence[str]) -> Settled:
        """Sends the messages of these dead letters again, as if for the first time, to the services that failed.

        Each is sent once, however often and by however many it is retried. Raises `NotFound`, and then
        nothing was sent.
        """
        found = [await self._find(name) for name in names]
        return await self._settle({item.letter.id: parcel_again(item) for item in found}, "retried")

    async def archive(self, names: Sequence[str]) -> Settled:
        """Puts these dead letters away for good; their messages are not sent. Raises `NotFound`."""
        found = [await self._find(name) for name in names]
        return await self._settle({item.letter.id: None for item in found}, "archived")

    async def _settle(self, parcels: dict[str, Parcel | None], status: str) -> Settled:
        done: list[str] = []
        for id, parcel in parcels.items():
            if await self.inspector.settle({id: parcel}, status=status):
                done.append(id)
        return Settled(status=status, settled=done, skipped=[id for id in parcels if id not in done])

    async def _find(self, name: str) -> DeadLetterStatus:
        found: list[DeadLetterStatus] = []
        if name:
            found += await self.inspector.dead_letters(status="", id=name, limit=10)
        if name and not found:
            rows = await self.inspector.dead_letters(status="open", id="", limit=LISTED)
            found += [row for row in rows if name in (row.letter.key, row.letter.message_id)]
        exact = [row for row in found if row.letter.id == name] or found
        if not exact:
            raise NotFound(
                f"no dead letter has an id that begins with {name!r}, and no open one has it as its key. "
                "See `outlast failures` for those that are open."
            )
        if len(exact) > 1:
            raise NotFound(
                f"{name!r} may be any of {len(exact)} dead letters. Name one by more of its id.",
                candidates=[f"{row.letter.id} {row.letter.type} {row.letter.key}".strip() for row in exact],
            )
        return exact[0]

    async def _lines(self, conversation: str, key: str, *, after: int = 0) -> list[Line]:
        lines: list[Line] = []
        while True:
            rows = await self.inspector.history(conversation=conversation, key=key, after=after, limit=PAGE)
            lines += [line_of(number, entry) for number, entry in rows]
            if len(rows) < PAGE:
                return lines
            after = rows[-1][0]

    async def _pending(self, conversation: str) -> list[Pending]:
        found = await self.inspector.unhandled(conversation=conversation, scan=SCAN)
        if not found:
            return []
        workers = {queue.service: queue.workers for queue in await self.inspector.queues()}
        return [
            pending_of(item, envelope, workers.get(item.service, 0))
            for item in found
            if (envelope := opened(item.packet)) is not None and envelope.conversation == conversation
        ]


@asynccontextmanager
async def open_operations(url: str | None) -> AsyncGenerator[Operations]:
    """Operations on the engine that the URL names. Raises `BadUrl`, and `Unavailable` if nothing is there yet."""
    parts = urlsplit(url or "")
    if parts.scheme == "sqlite" and len(parts.path) > 1 and not Path(parts.path[1:]).exists():
        raise Unavailable(
            f"looking into {url!r} failed: the file {parts.path[1:]} does not exist in {Path.cwd()}. "
            "It is made when a service first runs on it; start one, or give the right --url."
        )
    engine, world = open_engine(url)
    try:
        yield Operations(inspector_of(engine), world)
    finally:
        await engine.close()


def _problems(queue: QueueStatus) -> list[str]:
    found: list[str] = []
    on_the_way = queue.waiting + queue.claimed
    if queue.service == OUTBOX:
        # What is claimed is being taken to the broker now.
        return (
            [f"{_counted(queue.waiting, 'transaction')} in the outbox, not at the broker yet"] if queue.waiting else []
        )
    if not queue.workers and (on_the_way or queue.dated):
        waiting = _counted(on_the_way, "message") if on_the_way else _counted(queue.dated, "dated message")
        verb = "waits" if waiting.startswith("1 ") else "wait"
        found.append(f"{queue.service} is down; {waiting} {verb} for it, and nothing is lost")
    if queue.dead:
        found.append(f"{queue.service} has {_counted(queue.dead, 'dead letter')}")
    return found


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _conversations(key: str, instances: Sequence[InstanceView]) -> list[str]:
    """Those that the instances began in; the key itself if there are none, for it may be a conversation's id."""
    return list(dict.fromkeys(instance.conversation for instance in instances)) or [key]
