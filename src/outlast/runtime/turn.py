"""A turn: one batch of deliveries, from receipt to acknowledgement, in one transaction.

Read this first. The guarantee of outlast is an order of steps:

    receive → open → begin → seen before? → load states → handle and decide → commit → acknowledge

The first two happen in `station.Station`, which brings opened letters here; the others are the lines of `_turn`.
Whatever a message causes commits together with its consumption, or not at all. A process that dies before the
commit leaves nothing; one that dies after it leaves everything, and the broker (if there is one) hands over a
message that `first_sight` then recognises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from outlast.errors import Conflict, Unavailable
from outlast.ports import Delivery
from outlast.runtime.batch import Batch, addresses
from outlast.runtime.host import Host, Letter
from outlast.signals import Interrupted, Overruled, Turned

Start = Callable[[Sequence[Letter]], None]


async def turn(host: Host, letters: Sequence[Letter], start: Start) -> None:
    """Commits what these letters lead to, and acknowledges them. A letter that fails costs only itself.

    Those whose handler may wait, and suspects, are claimed instead and given to `start` once that is committed,
    to be carried out and brought to a later turn. Raises `Unavailable`; what was not committed then has not
    happened, and may be brought again together with what was.
    """
    try:
        await _turn(host, letters, start)
    except (Unavailable, asyncio.CancelledError):
        raise
    except Exception as error:  # the transaction itself was refused, on account of one of the letters
        if len(letters) == 1:
            letters[0].error = error
            await _turn(host, letters, start)
            return
        for letter in letters:
            await turn(host, [letter], start)


async def _turn(host: Host, letters: Sequence[Letter], start: Start) -> None:
    while True:
        work = await host.engine.begin(host.name)
        try:
            fresh = await work.first_sight([letter.delivery for letter in letters])
            mine = [letter for letter in letters if letter.delivery.receipt in fresh]
            states = await work.load(addresses(mine))
            batch = Batch(host, states)
            for letter in mine:
                await batch.take(letter, work)
            changes = batch.finish()
            await work.commit(changes)
        except Conflict as conflict:
            # Another turn was first. Nothing happened here, so nothing is counted: look again.
            await work.rollback()
            host.observe(Overruled(host.name, str(conflict)))
            await asyncio.sleep(0)
            continue
        except BaseException:
            await work.rollback()
            raise
        break
    start([_as_claimed(letter) for letter in batch.claimed])
    try:
        stale = [letter.delivery for letter in letters if letter.delivery.receipt not in fresh]
        await host.engine.acknowledge(host.name, [*changes.handled, *stale])
    except Exception as error:  # it is committed all the same: what comes again, `first_sight` recognises
        host.observe(Interrupted(host.name, error))
    for signal in batch.signals:
        host.observe(signal)
    host.observe(Turned(host.name, len(changes.handled), len(changes.claimed), len(changes.parcels)))


def _as_claimed(letter: Letter) -> Letter:
    delivery = letter.delivery
    letter.delivery = Delivery(delivery.receipt, delivery.packet, delivery.count + 1)
    letter.is_claimed = True
    return letter
