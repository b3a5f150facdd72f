"""Publishing: parcels in, and the broker's word that it keeps them.

A connection of its own: a broker that is short of memory or disk stops reading from those that publish, and the
acknowledgements of what is consumed must go on.

What is on its way and unconfirmed is bounded in bytes; who publishes more than that waits.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from msgspec.structs import replace

from outlast.adapters.rabbitmq.frames import LONGEST_NAME, Confirms, content, publishing
from outlast.adapters.rabbitmq.link import Link, Pause
from outlast.adapters.rabbitmq.settings import Settings
from outlast.adapters.rabbitmq.topology import OTHERWISE, ensure_exchange, ensure_target
from outlast.adapters.rabbitmq.wire import Channel, ChannelLost, Wire
from outlast.errors import Misuse, Unavailable
from outlast.ports import Parcel, World

UNCONFIRMED_BYTES = 8 << 20
SHEAF_BYTES = 1 << 20
NEW_QUEUE_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between the attempts to publish to a queue that refuses what it is given first."""
LARGEST_PACKET = 128 << 20
"""What RabbitMQ takes in one message unless configured otherwise; 16 MiB from version 4 on."""

Target = tuple[str, str, bool]
"""Exchange, routing key, and whether the broker is to say so when nobody gets it."""


class Sheaf:
    """Parcels that were written together, and which of them are not confirmed yet."""

    def __init__(self, parcels: Sequence[Parcel], first: int, size_bytes: int) -> None:
        self.parcels = parcels
        self.first = first
        self.last = first + len(parcels) - 1
        self.unconfirmed = set(range(first, self.last + 1))
        self.size_bytes = size_bytes
        self._refused: set[int] = set()
        self.moved_at = asyncio.get_running_loop().time()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._low = first

    @property
    def refused(self) -> list[Parcel]:
        """Those that the broker does not keep."""
        return [self.parcels[number - self.first] for number in sorted(self._refused)]

    def confirm(self, number: int, *, multiple: bool, refused: bool) -> None:
        """The broker has said so of this one, or of all up to it."""
        before = set(self.unconfirmed) if refused else set[int]()
        if not multiple:
            self.unconfirmed.discard(number)
        elif number >= self.last:
            self.unconfirmed.clear()
        else:
            self.unconfirmed.difference_update(range(self._low, number + 1))
            self._low = max(self._low, number + 1)
        if refused:
            self._refused |= before - self.unconfirmed
        self.moved_at = asyncio.get_running_loop().time()
        if not self.unconfirmed and not self.done.done():
            self.done.set_result(None)


class Line:
    """One channel on which the broker confirms what it has taken, and what is on its way there."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.known: set[str] = set()
        """Queues and exchanges that were there when this connection first used them."""
        self.returned: set[tuple[str, str]] = set()
        """Queue and id of what came back because the queue was gone."""
        self.unconfirmed_bytes = 0
        self.moved = asyncio.Event()
        self.moved_at = asyncio.get_running_loop().time()
        self._sheaves: list[Sheaf] = []
        self._next = 1
        self._publishing: dict[Target, bytes] = {}

    async def open(self) -> None:
        await self.channel.open()
        self.channel.wire.readers[self.channel.number] = Confirms(self._confirmed)
        self.channel.on("return", self._has_returned)
        self.channel.wire.add_on_connection_unblocked_callback(self._may_go_on)
        self.channel.ended.add_done_callback(self._has_ended)
        await self.channel.call("confirm_delivery", ack_nack_callback=_never)

    def write(self, parcels: Sequence[Parcel], target_of: Callable[[Parcel], Target]) -> Sheaf:
        """Sends these in one piece."""
        number, frame_max = self.channel.number, self.channel.wire.params.frame_max
        frames: list[bytes] = []
        for parcel in parcels:
            target = target_of(parcel)
            begin = self._publishing.get(target)
            if begin is None:
                begin = publishing(number, target[0], target[1], mandatory=target[2])
                if not parcel.reply_to:
                    self._publishing[target] = begin
            request = parcel.reply_to.partition("@")[0]
            frames += (begin, content(number, parcel.id, parcel.packet, request=request, frame_max=frame_max))
        data = b"".join(frames)
        sheaf = Sheaf(parcels, self._next, len(data))
        self._next += len(parcels)
        self._sheaves.append(sheaf)
        self.unconfirmed_bytes += len(data)
        self.channel.wire.say(data)
        return sheaf

    def _confirmed(self, number: int, multiple: bool, refused: bool) -> None:
        self.moved_at = asyncio.get_running_loop().time()
        finished = 0
        for sheaf in self._sheaves:
            if multiple or (number >= sheaf.first and number <= sheaf.last):
                sheaf.confirm(number, multiple=multiple, refused=refused)
                finished += not sheaf.unconfirmed
            if number <= sheaf.last:
                break
        if finished:
            self.unconfirmed_bytes -= sum(sheaf.size_bytes for sheaf in self._sheaves if not sheaf.unconfirmed)
            self._sheaves = [sheaf for sheaf in self._sheaves if sheaf.unconfirmed]
            self.moved.set()

    def _has_returned(self, _channel: object, said: object, properties: object, _body: bytes) -> None:
        queue, id = getattr(said, "routing_key", ""), getattr(properties, "message_id", "")
        self.known.discard(queue)
        self.returned.add((queue, id))

    def _may_go_on(self, *_: object) -> None:
        self.moved.set()

    def _has_ended(self, _ended: object) -> None:
        for sheaf in self._sheaves:
            if not sheaf.done.done():
                sheaf.done.set_result(None)
        self.moved.set()


class Outbound:
    """Publishes over a connection that comes back."""

    def __init__(self, settings: Settings, world: World) -> None:
        self.link = Link(settings, world, self._keep)
        self._settings = settings
        self._pause = Pause(world)
        self._line: Line | None = None
        self._ready = asyncio.Event()
        self._largest = LARGEST_PACKET

    @property
    def trouble(self) -> str:
        """What does not work; empty when all is well."""
        wire = self.link.wire
        if wire is not None and wire.blocked:
            return f"{self._settings} takes no messages at the moment: {wire.blocked}"
        return self.link.trouble

    async def publish(self, parcels: Sequence[Parcel]) -> None:
        """As `Transport.publish` says."""
        parcels = _addressed_once(parcels)
        for parcel in parcels:
            self._check(parcel)
        line = await self._line_in_time()
        try:
            await self._publish(line, parcels)
        except ChannelLost as error:
            raise self._lost(error, parcels) from error
        except TimeoutError as error:
            raise self._unavailable("it does not answer in time") from error

    async def close(self) -> None:
        await self.link.close()

    async def _keep(self, wire: Wire) -> None:
        while not wire.ended.done():
            line = Line(Channel(wire))
            try:
                await line.open()
                self._pause.began()
                self._line = line
                self._ready.set()
                await asyncio.wait([line.channel.ended])
            except ChannelLost as error:
                self.link.note(f"{self._settings} has closed the channel for publishing: {error.text}")
            finally:
                self._line = None
                self._ready.clear()
            await asyncio.wait([wire.ended], timeout=self._pause.seconds())

    async def _line_in_time(self) -> Line:
        await self.link.wire_in_time()
        try:
            async with asyncio.timeout(self._settings.confirm_timeout):
                while self._line is None:
                    await self._ready.wait()
        except TimeoutError:
            raise self._unavailable("there is no channel in time") from None
        return self._line

    async def _publish(self, line: Line, parcels: Sequence[Parcel]) -> None:
        is_first = await self._know(line, parcels)
        came_back, refused = await self._publish_once(line, parcels)
        if came_back:
            # The queue was deleted since. It is made anew, as it was before the first publish to it.
            is_first = await self._know(line, came_back)
            came_back, again = await self._publish_once(line, came_back)
            refused += again
        if refused and is_first:
            refused = await self._insist(line, refused)
        if came_back:
            queues = ", ".join(sorted({repr(parcel.queue) for parcel in came_back}))
            raise self._unavailable(f"there is no queue for {queues}, and it cannot be made")
        if refused:
            raise self._unavailable(f"it has refused {len(refused)} of {len(parcels)} messages")

    async def _insist(self, line: Line, parcels: list[Parcel]) -> list[Parcel]:
        """Publishes again what was refused, for a while: a quorum queue that is just being made has no leader yet.

        Returns what was refused to the end.
        """
        for seconds in NEW_QUEUE_PAUSES:
            await asyncio.sleep(seconds)
            came_back, refused = await self._publish_once(line, parcels)
            parcels = came_back + refused
            if not parcels:
                break
        return parcels

    async def _publish_once(self, line: Line, parcels: Sequence[Parcel]) -> tuple[list[Parcel], list[Parcel]]:
        """Publishes all, waits for all confirms, and returns those that came back and those that were refused."""
        sheaves: list[Sheaf] = []
        for some in _sheaves_of(parcels):
            await self._room(line)
            sheaves.append(line.write(some, self._target))
        for sheaf in sheaves:
            await self._confirmed(line, sheaf)
        refused = [parcel for sheaf in sheaves for parcel in sheaf.refused]
        if not line.returned:
            return [], refused
        came_back = [parcel for parcel in parcels if self._key(parcel) in line.returned]
        line.returned.difference_update(self._key(parcel) for parcel in came_back)
        return came_back, refused

    async def _know(self, line: Line, parcels: Sequence[Parcel]) -> bool:
        """Makes sure of the queues and the exchange that these go to, the first time on a connection.

        Returns whether it is the first time for any of them.
        """
        is_first = False
        for parcel in parcels:
            exchange, name, mandatory = self._target(parcel)
            needed = name if mandatory else exchange
            if not needed or needed in line.known:
                continue
            is_first = True
            try:
                async with asyncio.timeout(self._settings.confirm_timeout):
                    if exchange:
                        await ensure_exchange(line.channel.wire, self._settings)
                    else:
                        await ensure_target(line.channel.wire, self._settings, parcel.queue)
            except Misuse as error:
                raise self._unavailable(str(error).rstrip(".")) from error
            line.known.add(needed)
        return is_first

    async def _room(self, line: Line) -> None:
        """Waits while too much is on its way, or the broker has said that it takes nothing."""
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        while line.unconfirmed_bytes > UNCONFIRMED_BYTES or line.channel.wire.blocked:
            self._is_over(line)
            left = max(began_at, line.moved_at) + self._settings.confirm_timeout - loop.time()
            if left <= 0:
                raise self._unavailable(self._silence(line))
            line.moved.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await line.moved.wait()

    async def _confirmed(self, line: Line, sheaf: Sheaf) -> None:
        """Waits until all of it is confirmed, as long as there is some progress."""
        loop = asyncio.get_running_loop()
        while sheaf.unconfirmed:
            self._is_over(line)
            left = sheaf.moved_at + self._settings.confirm_timeout - loop.time()
            if left <= 0:
                raise self._unavailable(self._silence(line))
            await asyncio.wait([sheaf.done], timeout=left)

    def _is_over(self, line: Line) -> None:
        if line.channel.ended.done():
            raise line.channel.ended.result()

    def _silence(self, line: Line) -> str:
        seconds = f"{self._settings.confirm_timeout:g} s"
        if line.channel.wire.blocked:
            return f"it has taken no messages for {seconds}: {line.channel.wire.blocked}"
        return f"it has confirmed nothing for {seconds}"

    def _target(self, parcel: Parcel) -> Target:
        if parcel.queue:
            return "", self._settings.queue(parcel.queue), True
        if parcel.reply_to:
            return "", parcel.reply_to.partition("@")[2], False
        return self._settings.exchange, parcel.topic, False

    def _key(self, parcel: Parcel) -> tuple[str, str]:
        return self._settings.queue(parcel.queue), parcel.id

    def _check(self, parcel: Parcel) -> None:
        """Raises `Misuse` for what no broker would take, before anything of it is on its way."""
        if len(parcel.packet) > self._largest:
            raise Misuse(
                f"the message {parcel.id!r} has {len(parcel.packet)} bytes, and {self._settings} takes at most "
                f"{self._largest}. Send a reference to what is large; or raise max_message_size at the broker."
            )
        for text in (parcel.id, *self._target(parcel)[:2], parcel.reply_to.partition("@")[0]):
            if len(text.encode()) > LONGEST_NAME:
                raise Misuse(
                    f"the message {parcel.id[:80]!r} cannot be published: {text[:80]!r}... is longer than the "
                    f"{LONGEST_NAME} bytes that RabbitMQ has room for in an id, a queue's name or a topic."
                )

    def _lost(self, error: ChannelLost, parcels: Sequence[Parcel]) -> Exception:
        """What it means to these that the channel was closed; of a message that was too large others know nothing."""
        size = re.search(r"larger than configured max size (\d+)", error.text)
        if error.code == OTHERWISE and size:
            self._largest = min(self._largest, int(size[1]))
            try:
                for parcel in parcels:
                    self._check(parcel)
            except Misuse as misuse:
                return misuse
        return self._unavailable(f"the channel was lost before all was confirmed: {error.text}")

    def _unavailable(self, why: str) -> Unavailable:
        trouble = f" ({self.trouble})" if self.trouble and self.trouble not in why else ""
        return Unavailable(f"publishing to {self._settings} did not succeed: {why}{trouble}.")


def _addressed_once(parcels: Sequence[Parcel]) -> Sequence[Parcel]:
    """The same, and one for each address where a parcel has several, as the answer to a request that is an event."""
    if not any(parcel.reply_to and (parcel.queue or parcel.topic) for parcel in parcels):
        return parcels
    apart: list[Parcel] = []
    for parcel in parcels:
        if parcel.queue or parcel.topic:
            apart.append(replace(parcel, reply_to=""))
        if parcel.reply_to:
            apart.append(replace(parcel, queue="", topic=""))
    return apart


def _sheaves_of(parcels: Sequence[Parcel]) -> Iterator[Sequence[Parcel]]:
    """The parcels in portions of about a megabyte; there is nothing to cut in most calls."""
    begin = size = 0
    for index, parcel in enumerate(parcels):
        size += len(parcel.packet)
        if size > SHEAF_BYTES:
            yield parcels[begin : index + 1]
            begin, size = index + 1, 0
    if begin < len(parcels):
        yield parcels[begin:] if begin else parcels


def _never(*_: object) -> None:
    """What pika is to call with a confirm; the confirms do not get to it."""
