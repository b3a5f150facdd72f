"""What a failure at an instance did to the turn in which others had succeeded there."""

from __future__ import annotations

from outlast import Event, Service, Workflow, on, starts
from outlast.signals import Turned
from tests.system import AT_ONCE, running


class Begun(Event):
    key: str


class Counted(Event):
    key: str
    number: int


class Count(Workflow, key="key"):
    total: int = 0

    @starts
    def begun(self, event: Begun) -> None: ...

    @on
    def counted(self, event: Counted) -> None:
        self.total += 1
        if event.number == 13:
            raise ValueError("bad luck")


async def test_a_failure_does_not_break_up_the_turn_of_those_before_it(url: str) -> None:
    """Messages for one instance succeeded, and the last one for it in the batch failed. Undoing that forgot what the
    turn was to store of the instance; the whole turn failed on an assertion, and every letter of it, those of other
    instances too, was handled and committed by itself: 42 commits instead of a handful.
    """
    async with running(url, Service("counting", workflows=[Count], retry=AT_ONCE)) as system:
        others = [Begun(key=str(number)) for number in range(2, 22)]
        await system.client.send_all(Begun(key="1"), *(Counted(key="1", number=n) for n in range(14)), *others)
        await system.quiet()
        assert (await system.state("1"))["total"] == 13
        assert sum(isinstance(signal, Turned) for signal in system.signals) < 8
