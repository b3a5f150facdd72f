"""What a NUL within a business key did."""

from __future__ import annotations

from outlast import Event, Service, Workflow, on, starts
from tests.system import running


class Begun(Event):
    key: str


class Continued(Event):
    key: str


class Count(Workflow, key="key"):
    total: int = 0

    @starts
    def begun(self, event: Begun) -> None: ...

    @on
    def continued(self, event: Continued) -> None:
        self.total += 1


async def test_a_key_with_a_nul_finds_its_instance(url: str) -> None:
    """Instances are loaded by a list of keys in JSON, and SQLite's JSON functions cut a text at its first NUL.

    So the instance of such a key was never found: its second message was for one that did not exist as far as the
    turn knew, and did as far as the table knew. That is a conflict, and a conflict is repeated: for ever, at full
    speed, with everything behind it in the queue waiting.
    """
    async with running(url, Service("counting", workflows=[Count])) as system:
        for event in (Begun(key="a\0b"), Begun(key="a"), Continued(key="a\0b"), Begun(key="a\0b")):
            await system.client.publish(event)
            await system.quiet(within=5)
        assert (await system.state("a\0b"))["total"] == 1
        assert (await system.state("a"))["total"] == 0
