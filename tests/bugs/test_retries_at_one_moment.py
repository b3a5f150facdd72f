"""What two retries of one event did to each other."""

from __future__ import annotations

from datetime import datetime, timedelta

from outlast import Context, Event, Retry, Service
from tests.system import MovableWorld, running, until


class Noted(Event):
    key: str


class CoarseWorld(MovableWorld):
    """Its clock moves only when a test sets it ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.start = super().now()

    def now(self) -> datetime:
        return self.start + self.ahead


async def test_an_event_that_fails_in_two_services_at_one_moment_is_tried_again_in_both(url: str) -> None:
    """A message that is tried again later was kept under its id and its date. An event goes to several services with
    one id; where it failed in two of them at what was one moment by the clock, and no jitter drew the dates apart,
    the second retry replaced the first, and one service never had the event again: lost.
    """
    heard, world = list[tuple[str, int]](), CoarseWorld()

    def service(name: str) -> Service:
        retrying = Service(name, retry=Retry(immediate=0, delayed=1, first=timedelta(seconds=5), jitter=0))

        @retrying.handles
        async def note(event: Noted, context: Context) -> None:
            heard.append((name, context.attempt))
            if context.attempt == 1:
                raise ValueError("not yet")

        return retrying

    async with running(url, service("a"), service("b"), world=world) as system:
        await system.client.publish(Noted(key="1"))
        await until(lambda: len(heard) == 2)
        await system.quiet(dated=False)
        world.ahead += timedelta(seconds=6)
        await until(lambda: sorted(heard) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)], within=5)
        await system.quiet()
