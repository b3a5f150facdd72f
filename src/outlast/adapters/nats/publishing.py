"""Parcels on their way to the streams: as atomic batches, which the server syncs once, or one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from outlast.adapters.nats.line import Frame
from outlast.adapters.nats.names import ID_HEADER, REQUEST_HEADER, Names, header_value, receiver_in
from outlast.adapters.nats.session import Session
from outlast.errors import Misuse, Unavailable
from outlast.ports import Parcel

BATCH_MIN = 16
"""A batch costs the server as much as about so many single messages."""
BATCH_MAX = 1000
"""The server's limit."""
FLIGHT_MAX = 8
"""Batches that are under way at once; the server bears 50 for a stream."""

HEADERS_SIZE = 150
"""What a batch may add to a message's headers."""

BATCH_ERRORS = range(10174, 10220)
"""What may be wrong with a batch, as for example a message in it that the stream has already."""


class Post(NamedTuple):
    """A message for a stream."""

    subject: bytes
    header: bytes
    packet: bytes


class BatchRefused(Exception):
    """The stream took nothing of a batch."""


class StreamMissing(Exception):
    """Nobody keeps what was published."""


def posts_for(parcels: Sequence[Parcel], names: Names, *, size_max: int) -> tuple[list[Post], list[bytes]]:
    """What goes to the stream, and what to processes that wait for answers.

    Raises `Misuse` if the server would not take one of them.
    """
    posts: list[Post] = []
    answers: list[bytes] = []
    for parcel in parcels:
        if parcel.queue:
            posts.append(_post(parcel, names.queue(parcel.queue), size_max))
        if parcel.topic:
            posts.append(_post(parcel, names.topic(parcel.topic), size_max))
        if parcel.reply_to:
            request, _, address = parcel.reply_to.rpartition("@")
            header = b"%b: %b\r\n" % (REQUEST_HEADER, header_value(request))
            _check_size(parcel, len(header), size_max)
            answers.append(_command(names.answers(address).encode(), b"", header, parcel.packet))
    return posts, answers


def _post(parcel: Parcel, name: str, size_max: int) -> Post:
    subject = name.encode()
    header = b""
    if parcel.id:
        # The stream drops a second message with the same id, to whatever subject: an event that is given to two
        # services once more, for example, has the same id in both their queues.
        header = b"%b: %b@%b\r\n" % (ID_HEADER, header_value(parcel.id), receiver_in(subject))
    _check_size(parcel, len(header), size_max)
    return Post(subject, header, parcel.packet)


def _check_size(parcel: Parcel, header: int, size_max: int) -> None:
    if header + HEADERS_SIZE + len(parcel.packet) > size_max:
        raise Misuse(
            f"publishing the message {parcel.id!r} of {len(parcel.packet)} bytes failed: the NATS server takes "
            f"{size_max} bytes at most, with headers. Send a reference to large data instead of the data, or "
            "raise max_payload in the server's configuration."
        )


async def publish(session: Session, posts: Sequence[Post], *, new_id: Callable[[], str]) -> None:
    """Returns when the stream has all of them. Raises `Unavailable` or `StreamMissing`."""
    if len(posts) < BATCH_MIN:
        await _publish_singly(session, posts)
        return
    batches = [posts[at : at + BATCH_MAX] for at in range(0, len(posts), BATCH_MAX)]
    for at in range(0, len(batches), FLIGHT_MAX):
        some = batches[at : at + FLIGHT_MAX]
        results = await asyncio.gather(
            *(_publish_batch(session, batch, new_id()) for batch in some), return_exceptions=True
        )
        for batch, result in zip(some, results, strict=True):
            if isinstance(result, BatchRefused):
                # Most likely some of it was published before, and we were not told.
                await _publish_singly(session, batch)
            elif isinstance(result, BaseException):
                raise result


async def _publish_batch(session: Session, posts: Sequence[Post], id: str) -> None:
    """All of them or none."""

    def block(reply: bytes) -> bytes:
        head = b"Nats-Batch-Id: %b\r\nNats-Batch-Sequence: " % id.encode()
        commands = [
            _command(post.subject, b"", b"%b%b%d\r\n" % (post.header, head, number), post.packet)
            for number, post in enumerate(posts[:-1], start=1)
        ]
        last = posts[-1]
        header = b"%b%b%d\r\nNats-Batch-Commit: 1\r\n" % (last.header, head, len(posts))
        commands.append(_command(last.subject, reply, header, last.packet))
        return b"".join(commands)

    [answer] = await session.exchange(block, 1, f"publishing {len(posts)} messages")
    _check(session, answer)


async def _publish_singly(session: Session, posts: Sequence[Post]) -> None:
    """Each for itself, and all on their way before the first is confirmed. What the stream has already is passed."""
    for at in range(0, len(posts), BATCH_MAX):
        await _publish_at_once(session, posts[at : at + BATCH_MAX])


async def _publish_at_once(session: Session, posts: Sequence[Post]) -> None:
    def block(reply: bytes) -> bytes:
        return b"".join([_command(post.subject, reply, post.header, post.packet) for post in posts])

    for answer in await session.exchange(block, len(posts), f"publishing {len(posts)} messages"):
        _check(session, answer)


def _command(subject: bytes, reply: bytes, header: bytes, packet: bytes) -> bytes:
    size = len(header) + 12
    return b"HPUB %b %b %d %d\r\nNATS/1.0\r\n%b\r\n%b\r\n" % (subject, reply, size, size + len(packet), header, packet)


def _check(session: Session, answer: Frame) -> None:
    """Raises what the stream's answer means, if it did not take the message."""
    if not answer.payload:
        raise StreamMissing
    if b'"error"' not in answer.payload:
        return
    error = msgspec.json.decode(answer.payload)["error"]
    if error.get("err_code") in BATCH_ERRORS:
        raise BatchRefused
    raise Unavailable(
        f"publishing to {session.place.name} failed: JetStream says {error.get('description')!r}. If a stream or the "
        "account is full, let its services run until it is not, or raise the limit."
    )
