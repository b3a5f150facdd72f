"""What becomes of the deliveries of a turn: consumed, claimed, renewed or released, as parts of what it commits.

All of it names the count by which a delivery is known, so only those change that are still ours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from outlast.adapters.postgres.parts import Parts
from outlast.adapters.postgres.schema import array, micros, written
from outlast.ports import Changes, Delivery, by_keeper


def settle(parts: Parts, changes: Changes, queue: int, *, owner: int | None, now: int) -> Sequence[int]:
    """Adds the parts. What was handled or claimed must be ours, or nothing may be committed.

    Returns the ids in the first part that is called `handled`, whose packets other parts can have from it.
    """
    until = micros(changes.claimed_until) if changes.claimed_until is not None else None
    handled = by_count(changes.handled)
    for count, ids in handled:
        parts.add("handled", array(ids), queue, count, expects=len(ids))
    for count, ids in by_count(changes.claimed):
        parts.add("claimed", array(ids), queue, count, until, owner, expects=len(ids))
    for count, ids in by_count(changes.renewed):
        parts.add("renewed", array(ids), queue, count, until)
    for count, ids in by_count(changes.released):
        parts.add("released", array(ids), queue, count)
    _settle_brought(parts, changes, queue, now)
    return handled[0][1] if handled else ()


def by_count(deliveries: Sequence[Delivery]) -> list[tuple[int, list[int]]]:
    """Ids of the messages that are in the tables, by how often they were handed over; the most frequent comes first.

    That is nearly always the same for all of a turn, so the server need not be told it of each.
    """
    found: dict[int, list[int]] = defaultdict(list)
    for delivery in deliveries:
        if isinstance(delivery.receipt, int):
            found[delivery.count].append(delivery.receipt)
    groups = [(count, sorted(ids)) for count, ids in found.items()]
    return sorted(groups, key=lambda group: -len(group[1]))


def _settle_brought(parts: Parts, changes: Changes, queue: int, now: int) -> None:
    """The same for messages that a broker keeps: of them we keep what was handled, and the suspects' counts."""
    handled, claimed = by_keeper(changes.handled)[1], by_keeper(changes.claimed)[1]
    seen = sorted(written(str(d.receipt)) for d in handled)
    if seen:
        parts.add("seen", seen, queue, now, expects=len(seen))
    if tried := sorted(written(str(d.receipt)) for d in handled if d.count):
        parts.add("untried", tried, queue)
    if suspects := sorted(written(str(d.receipt)) for d in claimed if d.count):
        parts.add("tried", suspects, queue, now)
