"""The shop set up to be watched: its processes, a storefront, and someone who looks on until all is quiet."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from examples.shop.audit import Report, audit, read_books
from examples.shop.clocks import Clocks, no_difference
from examples.shop.fleet import Fleet
from examples.shop.premises import Premises
from examples.shop.rows import open_reader
from examples.shop.storefront import Storefront
from examples.shop.watch import Sight, Watch
from outlast import Client

LOOK_SECONDS = 0.1
QUIET_LOOKS = 3
"""So many looks in a row must find nothing waiting: a message may move while one of them is taken."""

T = TypeVar("T")


class Calm:
    """Tells a shop at rest from one that is only between two messages."""

    def __init__(self, premises: Premises) -> None:
        self._premises = premises
        self._quiet = 0

    async def is_lasting(self, sight: Sight) -> bool:
        """Whether this was quiet, as were those before it, and nothing is hidden either."""
        self._quiet = self._quiet + 1 if sight.is_quiet else 0
        if self._quiet < QUIET_LOOKS:
            return False
        if await self._premises.outstanding():
            self._quiet = 0
        return self._quiet > 0


@dataclass(frozen=True, slots=True)
class Stage:
    """A shop whose services are up."""

    premises: Premises
    fleet: Fleet
    client: Client
    """The storefront's."""
    watch: Watch
    storefront: Storefront

    async def kill(self, who: str) -> None:
        """kill -9 for a process of a service, or for a server."""
        if who in self.premises.servers:
            await self.premises.kill(who)
        else:
            self.fleet.kill(who)

    async def start(self, who: str) -> None:
        """Brings it back."""
        if who in self.premises.servers:
            await self.premises.start(who)
        else:
            self.fleet.start(who)

    async def play(
        self, acts: Coroutine[Any, Any, None], show: Callable[[Sight], None], *, rest_seconds: float
    ) -> Sight:
        """Shows what happens during `acts` and afterwards, until nothing waits any more; returns the last sight.

        It returns earlier if there is no rest `rest_seconds` after the acts, or if a service ends by itself.
        """
        playing = asyncio.create_task(acts)
        ended_at = 0.0
        calm = Calm(self.premises)
        try:
            while True:
                sight = await self.watch.look()
                show(sight)
                if playing.done():
                    playing.result()
                    ended_at = ended_at or sight.seconds
                    if await calm.is_lasting(sight) or sight.seconds > ended_at + rest_seconds:
                        return sight
                self.fleet.revive()
                if self.fleet.fallen():
                    return sight
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)

    async def is_at_rest(self, *, longest_seconds: float) -> bool:
        """Waits until every order has ended and nothing is under way; not longer than this."""
        latest = self.watch.seconds() + longest_seconds
        calm = Calm(self.premises)
        while self.watch.seconds() < latest:
            sight = await self.watch.look()
            if await calm.is_lasting(sight):
                return not sight.under_way
            await asyncio.sleep(LOOK_SECONDS)
        return False

    async def audit(self, last: Sight) -> Report:
        """What the books say, as the last sight was."""
        return audit(
            await read_books(self.premises.back_door, self.fleet.outside, self.storefront.accepted),
            is_quiet=last.is_quiet,
            apart=self.fleet.clocks.apart if self.fleet.clocks is not None else no_difference,
        )


@asynccontextmanager
async def set_stage(
    premises: Premises,
    directory: Path,
    names: Sequence[str],
    *,
    outside: Path | None = None,
    clocks: Clocks | None = None,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> AsyncGenerator[Stage]:
    """The shop on these premises with these processes running; none is left when it is taken down.

    `outside` is where the outside systems have their ledgers, if not in the same directory.
    """
    with Fleet(directory, url=premises.url, outside=outside, clocks=clocks, settings=settings) as fleet:
        for name in names:
            fleet.start(name)
        async with (
            Client(premises.url, name="storefront") as client,
            Client(premises.back_door, name="watch") as onlooker,
            open_reader(premises.back_door) as reader,
        ):
            watch = Watch(onlooker, fleet, reader, premises.down)
            try:
                await watch.until_ready()
                yield Stage(premises, fleet, client, watch, Storefront())
            finally:
                await watch.close()


def run_to_end(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, with SIGTERM treated like Ctrl-C: the services are ended too. Raises `KeyboardInterrupt`."""

    async def interruptible() -> T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await main

    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
