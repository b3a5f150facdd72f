"""One turn's transaction: what is ours is locked, what is loaded is checked again when it is written."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import msgspec

from outlast.adapters.postgres import history
from outlast.adapters.postgres.connections import ANSWER_SECONDS, OWN_PLANS, USERS_PLANS
from outlast.adapters.postgres.intake import Pending
from outlast.adapters.postgres.names import Names, Numbers
from outlast.adapters.postgres.parts import PARTS, Parts
from outlast.adapters.postgres.schema import array, micros, read, within, written
from outlast.adapters.postgres.sessions import OwnSession, Session
from outlast.adapters.postgres.settling import settle
from outlast.adapters.postgres.statements import SAVEPOINT_NAME, PostgresStatements
from outlast.adapters.postgres.trouble import attempting, chain, is_of_the_server, is_overruled
from outlast.errors import BadHandler, Conflict, Unavailable
from outlast.ports import (
    OUTBOX,
    OUTBOX_LEASE,
    RELAY,
    REPLIES,
    Address,
    Changes,
    DeadLetter,
    Delivery,
    Parcel,
    Posted,
    Receipt,
    Saved,
    Stash,
    Stored,
    World,
    by_keeper,
    pack,
    with_id_of_its_own,
)

_encode = msgspec.json.Encoder().encode
_NONE = Changes()

_OURS = "SELECT id, count FROM outlast.messages WHERE queue = $1 AND id = ANY($2::text::bigint[])"
_OURS_IF_FREE = f"{_OURS} FOR UPDATE SKIP LOCKED"
_SEEN = "SELECT id FROM outlast.inbox WHERE queue = $1 AND id = ANY($2::text[])"
_LOAD = (
    "SELECT i.workflow, i.key, i.version, i.done, i.state "
    "FROM unnest($1::text::integer[], $2::text[]) AS w (workflow, key) "
    "JOIN outlast.instances i ON i.key = w.key AND i.workflow = w.workflow"
)
_NEW = (
    "INSERT INTO outlast.sent (id, at) SELECT id, $2::bigint FROM unnest($1::text[]) AS s (id) "
    "ON CONFLICT DO NOTHING RETURNING id"
)
_BEGIN_PART = f"SAVEPOINT {SAVEPOINT_NAME}; {USERS_PLANS}"
_END_PART = f"RELEASE SAVEPOINT {SAVEPOINT_NAME}; {OWN_PLANS}"
_UNDO_PART = f"ROLLBACK TO SAVEPOINT {SAVEPOINT_NAME}; RELEASE SAVEPOINT {SAVEPOINT_NAME}"

_REFUSED = {
    "handled": "a delivery was taken by another turn",
    "claimed": "a delivery was taken by another turn",
    "seen": "a message was handled by another turn",
    "begun": "an instance was started by another turn",
    "changed": "an instance was changed by another turn after it was loaded",
    "stashed": "an instance was started by another turn",
}
_ENDED = (
    "a statement of the handler ended the turn's transaction. Leave COMMIT and ROLLBACK out: its rows commit with the "
    "turn, and an exception undoes them."
)
_FAILED = (
    "a statement of the handler failed and it went on, but PostgreSQL undoes everything after that. Put what may fail "
    "into `async with connection.transaction():`, and catch the error around it."
)


class PostgresWork:
    """A transaction on one connection. Other turns may run beside it; whoever commits first wins."""

    def __init__(
        self,
        session: Session,
        names: Names,
        world: World,
        *,
        service: str,
        where: str,
        owner: int | None = None,
        pending: Pending | None = None,
        note: Callable[[str, int, int], None] | None = None,
        committed: Callable[[Changes, set[str]], None] = lambda changes, rung: None,
        posted: Posted | None = None,
    ) -> None:
        self.session = session
        self.names = names
        self.numbers = Numbers(names, session)
        self.world = world
        self.service = service
        self.where = where
        self.now = micros(world.now())
        self._owner = owner
        self._pending = pending
        self._received = pending.counts if pending is not None else {}
        """Count by id: the deliveries that were received for this very transaction."""
        self._note = note
        self._committed = committed
        self._posted = posted
        self._for_broker: list[Parcel] = []
        self._outbox: list[Delivery] = []
        self._rung: set[str] = set()

    async def first_sight(self, deliveries: Sequence[Delivery]) -> set[Receipt]:
        received = self._received
        mine: set[Receipt] = {d.receipt for d in deliveries if received.get(d.receipt) == d.count}
        asked, brought = by_keeper([d for d in deliveries if d.receipt not in mine])
        if asked:
            claimed = sorted(int(d.receipt) for d in asked if d.count > 0)
            unclaimed = sorted(int(d.receipt) for d in asked if d.count == 0)
            counts: dict[Receipt, int] = {}
            queue, attempt = await self._queue(), "looking for deliveries"
            if unclaimed:  # if others have them, they come again
                if self._note is not None:
                    self._note(self.service, unclaimed[0], unclaimed[-1])
                counts.update(await self.rows(attempt, _OURS_IF_FREE, queue, array(unclaimed)))
            if claimed:  # a handler has carried them out: ours, unless the count is found to be another at the commit
                counts.update(await self._looked_up(attempt, _OURS, queue, array(claimed)))
            mine |= {d.receipt for d in asked if counts.get(d.receipt) == d.count}
        if brought:
            ids_brought = [written(str(d.receipt)) for d in brought]
            rows = await self._looked_up("looking into the inbox", _SEEN, await self._queue(), ids_brought)
            seen = {read(id) for (id,) in rows}
            mine |= {d.receipt for d in brought if d.receipt not in seen}
        return mine

    async def load(self, addresses: Sequence[Address]) -> Mapping[Address, Stored]:
        if not addresses:
            return {}
        with attempting("loading instances", where=self.where):
            numbers = await self.numbers.workflows({(a.service, a.workflow) for a in addresses}, make=False)
        wanted: dict[tuple[int, str], Address] = {}
        for address in addresses:
            number = numbers.get((address.service, address.workflow))
            if number is not None:
                wanted[number, written(address.key)] = address
        if not wanted:
            return {}
        rows = await self._looked_up(
            "loading instances", _LOAD, array(n for n, _ in wanted), [key for _, key in wanted]
        )
        return {wanted[number, key]: Stored(state, version, done) for number, key, version, done, state in rows}

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[PostgresStatements]:
        session = self.session
        assert isinstance(session, OwnSession)
        connection = session.connection
        with attempting("beginning a part of a transaction", where=self.where):
            await session.begin()
            await connection.execute(_BEGIN_PART, timeout=ANSWER_SECONDS)
        connection.is_lent = True
        try:
            yield PostgresStatements(connection)
        except BaseException as error:
            connection.is_lent = False
            await self._undo_part(error)
            raise
        connection.is_lent = False
        try:
            await connection.execute(_END_PART, timeout=ANSWER_SECONDS)
        except Exception as error:
            await self._undo_part(error)
            raise BadHandler(_FAILED) from error

    async def _undo_part(self, error: BaseException) -> None:
        """Undoes what a handler did. Raises `Unavailable` or `Conflict` if the server was to blame."""
        session = self.session
        assert isinstance(session, OwnSession)
        connection = session.connection
        causes = list(chain(error))
        if any(is_overruled(cause) for cause in causes):
            raise Conflict(f"a statement of a handler met another transaction: {error}") from error
        if connection.is_closed() or any(is_of_the_server(cause) for cause in causes):
            raise Unavailable(
                f"running a statement of a handler in {self.where} failed: {causes[-1]}. Nothing was changed, and it "
                "is tried again. See whether the server is up and writable."
            ) from error
        if not connection.is_in_transaction():
            raise BadHandler(_ENDED) from error
        with attempting("undoing a part of a transaction", where=self.where):
            await connection.execute(_UNDO_PART, timeout=ANSWER_SECONDS)

    async def commit(self, changes: Changes) -> None:
        try:
            with attempting("committing", where=self.where):
                await self.session.check()
                await self._write(changes)
                await self.session.commit()
        except BaseException as error:
            self._end(is_committed=False, is_overruled=isinstance(error, Conflict))
            await self.rollback()
            raise
        self._end(is_committed=True)
        self.numbers.committed()
        self._committed(changes, self._rung)
        if self._posted is not None:
            for row in self._outbox:
                self._posted(row)

    async def rollback(self) -> None:
        self._end(is_committed=False)
        await self.session.rollback()

    def _end(self, *, is_committed: bool, is_overruled: bool = False) -> None:
        if self._pending is not None:
            self._pending.ended(is_committed=is_committed, is_overruled=is_overruled)

    async def _write(self, changes: Changes) -> None:
        parts = Parts()
        handled: Sequence[int] = ()
        if changes.handled or changes.claimed or changes.renewed or changes.released:
            handled = settle(parts, changes, await self._queue(), owner=self._owner, now=self.now)
            if changes.released:
                self._rung.add(self.service)
        if changes.saved:
            await self._save(parts, changes.saved)
        if changes.stashed:
            await self._stash(parts, changes.stashed)
        if changes.parcels:
            gone = {letter.id for letter in changes.withdrawn}
            await self.post(parts, [parcel for parcel in changes.parcels if not parcel.due or parcel.id not in gone])
        if changes.withdrawn:
            withdrawn = changes.withdrawn
            parts.add("withdrawn", array(micros(w.due) for w in withdrawn), [written(w.id) for w in withdrawn])
        self.bury(parts, changes.dead)
        if changes.history:
            values = history.row_of(changes.history, set(handled))
            parts.add("history_of_handled" if handled else "history", *values)
        if parts and self._may_be_lost(changes):
            parts.add("unsynced")
        await self.run(parts)

    def _may_be_lost(self, changes: Changes) -> bool:
        """Whether this may be forgotten if the server falls within the second, so that nobody waits for its disk.

        A claim that is forgotten makes a message come again, and so does a row of the outbox that is there again
        although it was published. The counts of suspects are kept: they end what never ends by itself.
        """
        rest = msgspec.structs.replace(changes, handled=[], claimed=[], claimed_until=None, renewed=[], released=[])
        if rest != _NONE:
            return False
        return (self.service == OUTBOX or not changes.handled) and not any(d.count for d in changes.claimed)

    async def run(self, parts: Parts) -> None:
        """Runs the statement of these parts. Raises `Conflict` if one of them was refused."""
        packet: bytes | None = None
        if self._for_broker:
            packet, self._for_broker = pack(self._for_broker), []
            until = self.now + OUTBOX_LEASE // timedelta(microseconds=1)
            parts.add("outboxed", await self.numbers.queue(OUTBOX), packet, until)
        if not parts:
            return
        session = self.session
        if parts.can_be_refused and isinstance(session, OwnSession):
            # Otherwise one statement is a transaction by itself, and needs no other.
            await session.begin()
        (row,) = await session.fetch(within(self.names.schema, parts.statement), *parts.values)
        refused = parts.refused(row)
        if refused:
            raise Conflict(f"{_REFUSED[refused]} ({self.service!r})")
        if packet is not None:
            self._outbox.append(Delivery(row[-1], packet, 1))
        rung = parts.rung(row)
        if not rung <= self.names.services.keys():
            # Found by its topic: a service that another process has declared since.
            await self.numbers.queues(await self._names_of(rung))
        services = self.names.services
        self._rung |= {services[queue] for queue in rung if queue in services}

    async def _save(self, parts: Parts, saved: Sequence[Saved]) -> None:
        # In one order everywhere, so that two turns that meet wait for each other and do not block each other.
        ordered = sorted(saved, key=lambda s: s.address.key)
        begun, changed = [s for s in ordered if s.version == 0], [s for s in ordered if s.version != 0]
        numbers = await self.numbers.workflows({(s.address.service, s.address.workflow) for s in saved}, make=True)

        def columns(rows: Sequence[Saved]) -> tuple[str, list[str]]:
            addresses = [row.address for row in rows]
            return array(numbers[a.service, a.workflow] for a in addresses), [written(a.key) for a in addresses]

        def until(rows: Sequence[Saved]) -> str:
            return array(micros(row.keep_until) if row.keep_until is not None else None for row in rows)

        if begun:
            done, conversations = array(s.done for s in begun), [written(s.conversation) for s in begun]
            states = [s.state for s in begun]
            parts.add("begun", *columns(begun), done, conversations, until(begun), states, self.now, expects=len(begun))
            queues = await self.numbers.queues({s.address.service for s in begun})
            waiting = (*columns(begun), array(queues[s.address.service] for s in begun))
            if self._posted is None:
                parts.add("unstashed", *waiting)
                parts.add("returned")
            else:
                rows = await self.rows("taking what was stashed", PARTS["unstashed"], *waiting)
                self._for_broker += [
                    Parcel(self.world.new_id(), packet, queue=self.service) for _, _, packet in sorted(rows)
                ]
        if changed:
            versions, done = array(s.version for s in changed), array(s.done for s in changed)
            states = [s.state for s in changed]
            parts.add(
                "changed", *columns(changed), versions, done, until(changed), states, self.now, expects=len(changed)
            )

    async def _stash(self, parts: Parts, stashed: Sequence[Stash]) -> None:
        numbers = await self.numbers.workflows({(s.address.service, s.address.workflow) for s in stashed}, make=True)
        parts.add(
            "stashed",
            array(numbers[s.address.service, s.address.workflow] for s in stashed),
            [written(s.address.key) for s in stashed],
            array(micros(s.until) for s in stashed),
            [s.packet for s in stashed],
            self.now,
            expects=len(stashed),
        )
        self._rung.add(RELAY)

    async def post(self, parts: Parts, parcels: Sequence[Parcel]) -> None:
        """Puts parcels where they belong: queues, the dated ones, waiting requests."""
        if any(parcel.once for parcel in parcels):
            parcels = await self._new_ones(parcels)
        dated: dict[tuple[int, str], Parcel] = {}
        replies: dict[str, bytes] = {}
        at_once: list[Parcel] = []
        for parcel in parcels:
            if parcel.due is not None and (due := micros(parcel.due)) > self.now:
                dated[due, written(parcel.id)] = parcel
                continue
            if parcel.reply_to and self._posted is None:
                replies[written(parcel.reply_to)] = parcel.packet
            at_once.append(parcel)
        await self.enqueue(parts, at_once)
        if dated:
            letters = list(dated.values())
            values = ([p.queue for p in letters], [p.topic for p in letters], [p.packet for p in letters])
            parts.add("dated", array(due for due, _ in dated), [id for _, id in dated], *values)
            self._rung.add(RELAY)
        if replies:
            parts.add("replied", list(replies), list(replies.values()), self.now)
            self._rung.add(REPLIES)

    async def enqueue(self, parts: Parts, parcels: Sequence[Parcel]) -> None:
        """Puts parcels where they belong, now: into the outbox, if a broker has the queues."""
        if self._posted is not None:
            await self.numbers.queues({p.queue for p in parcels if p.queue})  # listed, also if never up
            self._for_broker += [with_id_of_its_own(parcel, self.world.new_id) for parcel in parcels]
            return
        numbers = await self.numbers.queues({parcel.queue for parcel in parcels if parcel.queue})
        rows: list[tuple[int | None, str | None, bytes]] = []
        for parcel in parcels:
            if parcel.queue:
                rows.append((numbers[parcel.queue], None, parcel.packet))
            if parcel.topic:
                rows.append((None, parcel.topic, parcel.packet))
        packets = [packet for _, _, packet in rows]
        if any(topic is not None for _, topic, _ in rows):
            parts.add("posted", array(queue for queue, _, _ in rows), [topic for _, topic, _ in rows], packets)
        elif rows:
            parts.add("sent", array(queue for queue, _, _ in rows), packets)

    async def _new_ones(self, parcels: Sequence[Parcel]) -> list[Parcel]:
        """Those whose ids have not been sent before, as far as callers gave them."""
        ids = sorted({written(parcel.id) for parcel in parcels if parcel.once})
        new = {id for (id,) in await self.rows("sending", _NEW, ids, self.now)}
        found: list[Parcel] = []
        for parcel in parcels:
            if parcel.once:
                if written(parcel.id) not in new:
                    continue
                new.discard(written(parcel.id))
            found.append(parcel)
        return found

    def bury(self, parts: Parts, letters: Sequence[DeadLetter]) -> None:
        """Adds dead letters."""
        if letters:
            parts.add(
                "dead",
                [written(letter.id) for letter in letters],
                [letter.service for letter in letters],
                [letter.packet for letter in letters],
                [_encode(msgspec.structs.replace(letter, packet=b"")) for letter in letters],
            )

    async def _queue(self) -> int:
        return await self.numbers.queue(self.service)

    async def _names_of(self, queues: set[int]) -> list[str]:
        rows = await self.session.fetch(
            within(self.names.schema, "SELECT id, name FROM outlast.queues WHERE id = ANY($1::integer[])"), list(queues)
        )
        return [name for _, name in rows]

    async def _begin(self) -> None:
        if isinstance(self.session, OwnSession):
            await self.session.begin()

    async def _looked_up(self, attempt: str, sql: str, *values: Any) -> Sequence[Any]:
        """The rows of a statement that locks nothing: what it finds is checked again when it is written.

        So it needs no transaction, and a turn that does no more than that goes to the server once.
        """
        with attempting(attempt, where=self.where):
            return await self.session.fetch(within(self.names.schema, sql), *values)

    async def rows(self, attempt: str, sql: str, *values: Any) -> Sequence[Any]:
        """The rows of one statement of ours, within the transaction."""
        with attempting(attempt, where=self.where):
            await self._begin()
            return await self.session.fetch(within(self.names.schema, sql), *values)
