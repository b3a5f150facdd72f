"""Takes what is in the outbox to the broker: what this process has committed at once, and what others left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from outlast.adapters.broker.bundles import bundled
from outlast.core.failure import failure_of, shortened
from outlast.core.message import Envelope
from outlast.core.naming import encode, open_packet
from outlast.errors import Conflict, Misuse, Unavailable
from outlast.ports import (
    OUTBOX,
    OUTBOX_LEASE,
    Changes,
    DeadLetter,
    Delivery,
    Parcel,
    Store,
    Transport,
    World,
    unpack,
)

ROWS = 64
"""Rows at once: taken, published together, and deleted in one transaction."""
HELD = 1_000
"""More rows than this are not held in memory; they stay in the outbox until it is their turn."""
LOOK = timedelta(seconds=1)
"""How often it looks for what others left behind."""
TROUBLE_SECONDS = 2 * OUTBOX_LEASE.total_seconds()
"""How long it tells of a failure: what failed is tried again before that, and fails again or is over."""
PAUSE_SECONDS = 0.5
"""How long it leaves a broker alone that has just failed."""


class Postman:
    """One per process. A row is deleted when the broker has confirmed all its parcels, and never before.

    A row that was published twice does no harm: the inbox knows its parcels by their ids.
    """

    def __init__(
        self, transport: Transport, store: Store, world: World, *, bundle: int = 1, look: timedelta = LOOK
    ) -> None:
        self.transport = transport
        self.store = store
        self.world = world
        self._bundle = bundle
        self._trouble = ""
        self._troubled_until = 0.0
        self._posted: list[Delivery] = []
        self._settled: list[Delivery] = []
        self._wake = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._look_seconds = look.total_seconds()
        self._look_at = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def trouble(self) -> str:
        """Why an attempt failed a short while ago; empty when none did."""
        if self._trouble and asyncio.get_running_loop().time() >= self._troubled_until:
            self._trouble = ""
        return self._trouble

    def post(self, row: Delivery) -> None:
        """A row of this process was committed; it is claimed for `OUTBOX_LEASE`."""
        if len(self._posted) < HELD:
            self._posted.append(row)
            self._is_idle.clear()
            self._wake.set()

    def look(self) -> None:
        """Something may have been left behind: looks for it now."""
        self._look_at = 0.0
        self._wake.set()

    def start(self) -> None:
        """Begins to work, if it has not yet."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="outlast postman")

    async def close(self, *, longest_seconds: float) -> None:
        """Stops, when what was posted is at the broker or the time is over; the rest stays in the outbox."""
        if self._task is None:
            return
        if self.transport.can_publish:
            try:
                async with asyncio.timeout(longest_seconds):
                    await self._is_idle.wait()
            except TimeoutError:
                pass
        while not self._task.done():  # a library in between may have taken the first for its own
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                if loop.time() >= self._look_at:
                    await self._look(loop.time())
                rows, self._posted = self._posted[:ROWS], self._posted[ROWS:]
                if rows or self._settled:
                    await self._deliver(rows)
            except Exception as error:  # whatever it is, what is in the outbox must not wait for a restart
                self._trouble, self._troubled_until = str(error) or repr(error), loop.time() + TROUBLE_SECONDS
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            if not (self._posted or self._settled):
                self._is_idle.set()
                await self._rest(self._look_at - loop.time())

    async def _rest(self, seconds: float) -> None:
        handle = asyncio.get_running_loop().call_later(max(seconds, 0.001), self._wake.set)
        await self._wake.wait()
        self._wake.clear()
        handle.cancel()

    async def _look(self, now: float) -> None:
        """Adds what others left behind, however much there is to do: they must not wait until it is calm."""
        found = await self._take()
        self._posted += found
        if len(found) < ROWS:
            self._look_at = now + self._look_seconds

    async def _deliver(self, rows: Sequence[Delivery]) -> None:
        """Publishes these rows, while those that were published before are deleted."""
        settled, self._settled = self._settled, []
        deleting = asyncio.ensure_future(self._delete(settled)) if settled else None
        try:
            if rows:
                await self._publish(rows)
        finally:
            if deleting is not None:
                await deleting

    async def _publish(self, rows: Sequence[Delivery]) -> None:
        try:
            parcels = [parcel for row in rows for parcel in unpack(row.packet)]
            await self.transport.publish(bundled(parcels, self._bundle, self.world.new_id))
        except Exception as error:
            if len(rows) > 1 and self.transport.can_publish:
                await self._publish_each(rows)
            elif isinstance(error, Misuse):
                await self._sort_out(rows[0])
            else:
                raise
        else:
            self._settled += rows

    async def _publish_each(self, rows: Sequence[Delivery]) -> None:
        """One by one, for the broker refuses one of them, and that one must not hold up the others."""
        refused: Exception | None = None
        for row in rows:
            try:
                await self._publish([row])
            except Exception as error:  # of the row, or of the broker: in both cases the row stays in the outbox
                if not self.transport.can_publish:
                    raise
                refused = error
        if refused is not None:
            raise refused

    async def _sort_out(self, row: Delivery) -> None:
        """Sets aside what no broker will ever take, such as a message that is too large, and publishes the rest."""
        dead: list[DeadLetter] = []
        told: list[Parcel] = []
        for parcel in unpack(row.packet):
            try:
                await self.transport.publish([parcel])
            except Misuse as error:
                envelope = open_packet(parcel.packet)
                reason = f"{self.transport.name} does not take it: {error}"
                dead.append(self._dead_letter(parcel, envelope, reason))
                told += self._told(parcel, envelope, reason)
        await self._delete([row], dead, told)

    def _told(self, parcel: Parcel, command: Envelope, reason: str) -> list[Parcel]:
        """What whoever asked is to be told: as when a handler has given up, with as much of the command as fits."""
        now, new_id = self.world.now(), self.world.new_id
        told = failure_of(shortened(command), reason=reason, error="", new_id=new_id, sender=parcel.queue, now=now)
        if told is None:
            return []
        asker = told.answers
        return [Parcel(told.id, encode(told), queue=asker.service if asker else "", reply_to=command.reply_to or "")]

    def _dead_letter(self, parcel: Parcel, envelope: Envelope, reason: str) -> DeadLetter:
        return DeadLetter(
            id=self.world.new_id(),
            service=parcel.queue or envelope.sender,
            packet=parcel.packet,
            reason=reason,
            message_id=envelope.id,
            type=envelope.type,
            conversation=envelope.conversation,
            at=self.world.now(),
        )

    async def _take(self) -> list[Delivery]:
        """Claims what nobody else is taking."""
        if not self.transport.can_publish:
            return []
        found = await self.store.receive(OUTBOX, ROWS)
        if not found:
            return []
        work = await self.store.begin(OUTBOX)
        try:
            fresh = await work.first_sight(found)
            ours = [row for row in found if row.receipt in fresh]
            await work.commit(Changes(claimed=ours, claimed_until=self.world.now() + OUTBOX_LEASE))
        except Conflict:  # another process was first
            await work.rollback()
            return []
        except BaseException:
            await work.rollback()
            raise
        return [Delivery(row.receipt, row.packet, row.count + 1) for row in ours]

    async def _delete(
        self, rows: Sequence[Delivery], dead: Sequence[DeadLetter] = (), told: Sequence[Parcel] = ()
    ) -> None:
        """Deletes rows, and in the same transaction sets aside what was in them, and tells who asked for it."""
        work = await self.store.begin(OUTBOX)
        try:
            # Those that were claimed anew meanwhile are another's, who publishes them once more and deletes them.
            fresh = await work.first_sight(rows)
            handled = [row for row in rows if row.receipt in fresh]
            await work.commit(Changes(handled=handled, dead=list(dead), parcels=list(told)) if handled else Changes())
        except (Conflict, Unavailable):
            await work.rollback()
        except BaseException:
            await work.rollback()
            raise
