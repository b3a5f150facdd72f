"""Sending messages from outside: a web handler, a script, a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import msgspec

from outlast.core.annotations import answers_of
from outlast.core.message import Command, Event, Message
from outlast.core.naming import FAILED, Catalogue, open_packet
from outlast.core.routing import check_event, owner_of
from outlast.engines import open_engine
from outlast.errors import Misuse, NotFound, RequestFailed, RequestTimeout, Unavailable
from outlast.ports import REPLIES, Changes, Engine, Parcel, SharesConnection, Statements, Withdrawn, Work, World
from outlast.runtime.post import first_parcel

AnswerT = TypeVar("AnswerT")

NOT_OPEN = "the client is not open. Use it as a context manager: async with Client(url) as client."

_inside: set[tuple[int, asyncio.Task[Any] | None]] = set()
"""The tasks that are in a block of `transaction`, each with the `id` of the engine."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that is on its way: it was durable when this was returned."""

    id: str
    due: datetime | None = None
    """When it will be delivered, if it was dated."""


class Outgoing:
    """Collects messages to be committed together with the caller's own rows."""

    def __init__(self, client: Client, statements: Statements | None = None) -> None:
        self._client = client
        self._statements = statements
        self.parcels: list[Parcel] = []

    async def execute(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Runs one statement in the transaction and returns its rows. Placeholders are as in `Transaction.execute`."""
        return await self._own.execute(sql, parameters)

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Runs one statement in the transaction for each row of parameters."""
        await self._own.execute_many(sql, rows)

    @property
    def _own(self) -> Statements:
        if self._statements is None:
            raise Misuse("the transaction runs on your own connection. Run your statements on that connection.")
        return self._statements

    def send(
        self,
        command: Command[Any],
        *,
        id: str | None = None,
        after: timedelta | None = None,
        at: datetime | None = None,
    ) -> Sent:
        """Like `Client.send`, with the transaction."""
        owner_of(command)
        return self._add(command, id, after, at)

    def publish(
        self,
        event: Event,
        *,
        id: str | None = None,
        after: timedelta | None = None,
        at: datetime | None = None,
    ) -> Sent:
        """Like `Client.publish`, with the transaction."""
        check_event(event)
        return self._add(event, id, after, at)

    def _add(self, message: Message, id: str | None, after: timedelta | None, at: datetime | None) -> Sent:
        parcel = self._client.parcel(message, id=id, after=after, at=at)
        self.parcels.append(parcel)
        return Sent(parcel.id, parcel.due)


class Client:
    """Sends messages without receiving any: `async with Client("sqlite:///shop.db") as client`.

    When a call returns, its message is as durable as the engine makes it. `id=` makes a repeated call
    harmless: a message with the same id is sent once, however often it is asked for (within the history's
    retention). `after=` and `at=` date a message: it is delivered then, and never before.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        engine: Engine | None = None,
        world: World | None = None,
        name: str = "client",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.headers = dict(headers or {})
        self._url = url
        self._engine = engine
        self._world = world
        self._owns_engine = engine is None
        self._waiting: set[asyncio.Event] = set()
        self._is_listening = False
        self._pending: list[tuple[Changes, asyncio.Future[None]]] = []
        self._committing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._engine is None:
            self._engine, self._world = open_engine(self._url, self._world)
        elif self._world is None:
            raise Misuse("a client that is given an engine must be given the world too: Client(..., world=...).")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._committing is not None:
            self._committing.cancel()
            await asyncio.gather(self._committing, return_exceptions=True)
        if self._engine is not None and self._owns_engine:
            await self._engine.close()
            self._engine = None

    @property
    def engine(self) -> Engine:
        """The engine, while the client is open."""
        if self._engine is None:
            raise Misuse(NOT_OPEN)
        return self._engine

    @property
    def world(self) -> World:
        """Where the client has time and ids from."""
        if self._world is None:
            raise Misuse(NOT_OPEN)
        return self._world

    async def send(
        self,
        command: Command[Any],
        *,
        id: str | None = None,
        to: str | None = None,
        after: timedelta | None = None,
        at: datetime | None = None,
    ) -> Sent:
        """Sends a command to its owner (or to the service `to`). Raises `Unroutable` or `Unavailable`."""
        owner_of(command, to)
        parcel = self.parcel(command, id=id, to=to, after=after, at=at)
        await self._commit(Changes(parcels=[parcel]))
        return Sent(parcel.id, parcel.due)

    async def publish(
        self,
        event: Event,
        *,
        id: str | None = None,
        after: timedelta | None = None,
        at: datetime | None = None,
    ) -> Sent:
        """Publishes an event to every service that handles it now. Raises `Unroutable` or `Unavailable`."""
        check_event(event)
        parcel = self.parcel(event, id=id, after=after, at=at)
        await self._commit(Changes(parcels=[parcel]))
        return Sent(parcel.id, parcel.due)

    async def send_all(self, *messages: Message) -> list[Sent]:
        """Sends commands and publishes events, all of them in one transaction."""
        parcels = [self.parcel(message) for message in messages]
        await self._commit(Changes(parcels=parcels))
        return [Sent(parcel.id) for parcel in parcels]

    async def cancel(self, sent: Sent) -> None:
        """Takes back a dated message. It does nothing once the message is due."""
        if sent.due is None:
            raise Misuse(f"message {sent.id} was not dated, so it cannot be cancelled. Send it with after= or at=.")
        await self._commit(Changes(withdrawn=[Withdrawn(sent.id, sent.due)]))

    async def request(self, command: Command[AnswerT], *, timeout: timedelta, id: str | None = None) -> AnswerT:
        """Sends a command and waits for its answer.

        Raises `RequestTimeout` when none came in time (the command stays on its way, and a late answer is
        dropped), and `RequestFailed` as soon as the command is a dead letter.
        """
        if not answers_of(type(command)):
            name = type(command).__name__
            raise Misuse(
                f"{name} was requested, and nothing answers it: it is a Command[None]. Use client.send, or name its "
                f"answer in its class: class {name}(Command[TheAnswer], ...)."
            )
        engine, loop = self.engine, asyncio.get_running_loop()
        self._listen()
        parcel = self.parcel(command, id=id, is_request=True)
        deadline = loop.time() + timeout.total_seconds()
        wake = asyncio.Event()
        self._waiting.add(wake)
        try:
            await self._commit(Changes(parcels=[parcel]))
            while True:
                wake.clear()
                packet = await engine.reply(parcel.id)
                if packet is not None:
                    return cast(AnswerT, _answer(command, packet))
                rest = deadline - loop.time()
                if rest <= 0:
                    raise RequestTimeout(
                        f"no answer to {type(command).__name__} {parcel.id} came within {timeout.total_seconds():g} s. "
                        "Its receiver may be down or slow; the command stays on its way."
                    )
                handle = loop.call_later(min(rest, 0.25), wake.set)
                await wake.wait()
                handle.cancel()
        finally:
            self._waiting.discard(wake)

    @asynccontextmanager
    async def transaction(self, connection: Any = None) -> AsyncGenerator[Outgoing]:
        """Commits the caller's own rows and the messages together, or neither.

        Without a connection the block has a transaction of the engine's own: `outgoing.execute(...)`. With one, which
        must be open on the engine's own database and in no transaction, it is in one within the block. Either
        commits at the end and rolls back on an exception. Do not await anything slow inside: on SQLite it is the
        file's only write transaction.
        """
        engine = self.engine
        self._refuse_inside()
        if connection is None:
            async with self._on_own_connection() as outgoing:
                yield outgoing
            return
        if not isinstance(engine, SharesConnection):
            raise Misuse("client.transaction(connection) needs an engine with a database: sqlite:///file.db.")
        work = await engine.begin_on(connection)
        async with self._within(work):
            outgoing = Outgoing(self)
            yield outgoing
            await work.commit(Changes(parcels=outgoing.parcels))

    @asynccontextmanager
    async def _on_own_connection(self) -> AsyncGenerator[Outgoing]:
        work = await self.engine.begin("")
        async with self._within(work):
            async with work.savepoint() as statements:
                if statements is None:
                    raise Misuse("client.transaction() needs an engine with a database: sqlite:///file.db.")
                outgoing = Outgoing(self, statements)
                yield outgoing
            await work.commit(Changes(parcels=outgoing.parcels))

    @asynccontextmanager
    async def _within(self, work: Work) -> AsyncGenerator[None]:
        """The block of a transaction, which ends in any case, and in which the client itself must not be called."""
        block = (id(self.engine), asyncio.current_task())
        _inside.add(block)
        try:
            yield
        except BaseException:
            await work.rollback()
            raise
        finally:
            _inside.discard(block)

    def parcel(
        self,
        message: Message,
        *,
        id: str | None = None,
        to: str | None = None,
        after: timedelta | None = None,
        at: datetime | None = None,
        is_request: bool = False,
    ) -> Parcel:
        """The parcel for a message, checked. Raises `Unroutable` or `Misuse`."""
        now = self.world.now()
        if at is not None and at.tzinfo is None:
            raise Misuse(f"at={at!r} has no time zone. Give a datetime with tzinfo, or after=timedelta(...).")
        if id is not None and not id:
            raise Misuse("id='' was given. Give a text that is the same in a repeated call, or leave id out.")
        due = at if at is not None else now + after if after is not None else None
        message_id = id or self.world.new_id()
        return first_parcel(
            message,
            id=message_id,
            sender=self.name,
            now=now,
            to=to,
            due=due,
            reply_to=self.engine.reply_to(message_id) if is_request else None,
            headers=self.headers,
            once=id is not None,
        )

    async def _commit(self, changes: Changes) -> None:
        """Commits together with what other tasks of this process are sending just now: one transaction for all."""
        self._refuse_inside()
        loop = asyncio.get_running_loop()
        committed: asyncio.Future[None] = loop.create_future()
        self._pending.append((changes, committed))
        if self._committing is None:
            self._committing = loop.create_task(self._commit_pending())
        await committed

    def _refuse_inside(self) -> None:
        if _inside and (id(self.engine), asyncio.current_task()) in _inside:
            raise Misuse(
                "the client was called inside client.transaction, and would wait for the end of the block that it "
                "stands in. Use what the block gave: outgoing.send(...) or outgoing.publish(...)."
            )

    async def _commit_pending(self) -> None:
        try:
            alone: list[tuple[Changes, asyncio.Future[None]]] = []
            while alone or self._pending:
                if alone:
                    pending = [alone.pop(0)]
                else:
                    pending, self._pending = self._pending, []
                try:
                    await self._commit_together([changes for changes, _ in pending])
                except Exception as error:
                    if len(pending) > 1 and not isinstance(error, Unavailable):
                        alone = pending  # one of them cannot be written, which must not cost the others
                        continue
                    _fail(pending, error)
                except asyncio.CancelledError:
                    _fail(
                        [*pending, *alone, *self._pending],
                        Unavailable(
                            "the client was closed while a message waited to be sent, so it was not. Close the client "
                            "after the last of its calls has returned."
                        ),
                    )
                    raise
                for _, committed in pending:
                    if not committed.done():
                        committed.set_result(None)
        finally:
            self._committing = None

    async def _commit_together(self, changes: Sequence[Changes]) -> None:
        work = await self.engine.begin("")
        try:
            await work.commit(
                Changes(
                    parcels=[parcel for change in changes for parcel in change.parcels],
                    withdrawn=[letter for change in changes for letter in change.withdrawn],
                )
            )
        except BaseException:
            await work.rollback()
            raise

    def _listen(self) -> None:
        if not self._is_listening:
            self._is_listening = True
            self.engine.listen(REPLIES, self._wake_all)

    def _wake_all(self) -> None:
        for wake in self._waiting:
            wake.set()


def _fail(pending: Sequence[tuple[Changes, asyncio.Future[None]]], error: Exception) -> None:
    for _, committed in pending:
        if not committed.done():
            committed.set_exception(error)


def _answer(command: Command[Any], packet: bytes) -> Message:
    envelope = open_packet(packet)
    if envelope.type.startswith(FAILED):
        failure = msgspec.json.decode(envelope.body)
        reason, error = failure["reason"], failure["error"] or "no error"
        why = error if reason in error else f"{reason} ({error})"
        raise RequestFailed(
            f"{type(command).__name__} failed for good at attempt {failure['attempts']}: {why.removesuffix('.')}. "
            "Look at it with `outlast failures`."
        )
    catalogue = Catalogue(answers_of(type(command)))
    if envelope.type not in catalogue:
        raise NotFound(
            f"{type(command).__name__} was answered with {envelope.type!r}, which is none of its answers "
            f"({', '.join(catalogue) or 'none'}). Name it in Command[...]."
        )
    return catalogue.decode(envelope)
