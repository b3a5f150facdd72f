"""Several parcels in one message of a broker, whose costs are per message: made, opened, and settled as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from outlast.ports import Arrival, Parcel

BYTES_MAX = 64 * 1024
"""What the members of one bundle have together, so that the largest is far from what brokers refuse."""
MAGIC = b"\x00outlast bundle 1\x00"
"""What a bundle begins with, and no other packet does: those are JSON."""

Member = tuple[str, bytes]
"""A parcel's own id and packet."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Member]).decode


class Bundle:
    """The tag that all members of a bundle share. It counts those that are not settled yet."""

    __slots__ = ("tag", "unsettled")

    def __init__(self, tag: Any, unsettled: int) -> None:
        self.tag = tag
        """What the transport knows the bundle by."""
        self.unsettled = unsettled


def bundled(parcels: Sequence[Parcel], most: int, new_id: Callable[[], str]) -> Sequence[Parcel]:
    """The parcels with those for one queue or one topic put together, at most `most` and `BYTES_MAX` in one.

    Those for one queue stay in order, and so do those for one topic. One that would be alone, and the answer to a
    request, stays as it is. The id of a bundle is always new: a broker that knows the id of an earlier one with
    other members would drop this one.
    """
    if most == 1:
        return parcels
    return [group[0] if len(group) == 1 else _bundle(group, new_id()) for group in _groups(parcels, most)]


def members(packet: bytes) -> list[Member] | None:
    """What is in a bundle; `None` if the packet is none."""
    if not packet.startswith(MAGIC):
        return None
    try:
        found = _decode(memoryview(packet)[len(MAGIC) :])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if found and all(id for id, _ in found) else None


def opened(arrivals: Sequence[Arrival]) -> Sequence[Arrival]:
    """The arrivals with the members in place of each bundle, with its count and a tag that they share."""
    if not any(arrival.packet.startswith(MAGIC) for arrival in arrivals):
        return arrivals
    return [each for arrival in arrivals for each in _opened(arrival)]


def settled(tags: Sequence[Any]) -> list[Any]:
    """What the broker is to acknowledge when these were handled: a bundle with its last member, and not before."""
    acknowledged: list[Any] = []
    for tag in tags:
        if isinstance(tag, Bundle):
            tag.unsettled -= 1
            if not tag.unsettled:
                acknowledged.append(tag.tag)
        else:
            acknowledged.append(tag)
    return acknowledged


def known_to_broker(tags: Sequence[Any]) -> list[Any]:
    """The transport's own tags, that of a bundle once."""
    return [tag.tag if isinstance(tag, Bundle) else tag for tag in dict.fromkeys(tags)]


def _groups(parcels: Sequence[Parcel], most: int) -> list[list[Parcel]]:
    groups: list[list[Parcel]] = []
    filling: dict[tuple[str, str], list[Parcel]] = {}
    room: dict[tuple[str, str], int] = {}
    for parcel in parcels:
        target, size = (parcel.queue, parcel.topic), len(parcel.packet)
        if parcel.reply_to or not parcel.id:
            groups.append([parcel])
        elif target in filling and len(filling[target]) < most and size <= room[target]:
            filling[target].append(parcel)
            room[target] -= size
        else:
            filling[target], room[target] = [parcel], BYTES_MAX - size
            groups.append(filling[target])
    return groups


def _bundle(parcels: Sequence[Parcel], id: str) -> Parcel:
    packet = MAGIC + _encode([(parcel.id, parcel.packet) for parcel in parcels])
    return Parcel(id, packet, queue=parcels[0].queue, topic=parcels[0].topic)


def _opened(arrival: Arrival) -> list[Arrival]:
    inside = members(arrival.packet)
    if inside is None:
        return [arrival]
    bundle = Bundle(arrival.tag, len(inside))
    return [Arrival(id, packet, arrival.count, bundle) for id, packet in inside]
