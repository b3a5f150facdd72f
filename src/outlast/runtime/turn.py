"""A turn: one batch of deliveries, from receipt to acknowledgement, in one transaction.

Read this first. The guarantee of outlast is an order of steps:

    receive → open → begin → seen before? → load states → handle and decide → commit → acknowledge

The first two happen in `worker.Station`, which brings opened letters here; the others are the lines of `_turn`.
Whatever a message causes commits together with its consumption, or not at all. A process that dies before the
commit leaves nothing; one that dies after it leaves everything, and the broker (if there is one) hands over a
message that `first_sight` then recognises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from outlast.errors import Conflict, Unavailable
from outlast.ports import Delivery
from outlast.runtime.batch import Batch, addresses
from outlast.runtime.host import Host, Letter
from outlast.signals import Interrupted, Overruled, Turned


async def turn(host: Host, letters: Sequence[Letter]) -> list[Letter]:
    """Commits what these letters lead to, and acknowledges them.

    Returns those that were claimed instead, because their handler may wait or because they are suspect:
    they are the caller's to carry out, and to bring to a later turn. A letter that fails costs only itself.
    Raises `Unavailable`, and then nothing happened.
    """
    try:
        return await _turn(host, letters)
    except (Unavailable, asyncio.CancelledError):
        raise
    except Exception as error:  # the transaction itself was refused, on account of one of the letters
        if len(letters) == 1:
            letters[0].error = error
            return await _turn(host, letters)
        return [claimed for letter in letters for claimed in await turn(host, [letter])]


async def _turn(host: Host, letters: Sequence[Letter]) -> list[Letter]:
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
    try:
        await host.engine.acknowledge([letter.delivery for letter in letters])
    except Exception as error:  # it is committed all the same: what comes again, `first_sight` recognises
        host.observe(Interrupted(host.name, error))
    for signal in batch.signals:
        host.observe(signal)
    host.observe(Turned(host.name, len(changes.handled), len(changes.claimed), len(changes.parcels)))
    return [_as_claimed(letter) for letter in batch.claimed]


def _as_claimed(letter: Letter) -> Letter:
    delivery = letter.delivery
    letter.delivery = Delivery(delivery.receipt, delivery.packet, delivery.count + 1)
    letter.is_claimed = True
    return letter
