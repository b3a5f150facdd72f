"""What a message that cannot be sent did to those that were sent at the same moment."""

from __future__ import annotations

import asyncio

from outlast import Command, Event, Service
from tests.system import running


class Noted(Event):
    key: str


class Do(Command[None], to="elsewhere"):
    key: str


async def test_a_message_that_cannot_be_written_fails_alone(sqlite_url: str) -> None:
    """What several tasks send at one moment is committed together. One of them named a receiver that no text in the
    file can name, and the error of the one commit was everybody's: none of the messages was sent.
    """
    service, heard = Service("s"), list[str]()

    @service.handles
    async def note(event: Noted) -> None:
        heard.append(event.key)

    async with running(sqlite_url, service) as system:
        client = system.client
        before, bad, after = await asyncio.gather(
            client.publish(Noted(key="1")),
            client.send(Do(key="2"), to="\ud800"),
            client.publish(Noted(key="3")),
            return_exceptions=True,
        )
        assert isinstance(bad, UnicodeEncodeError)
        assert not isinstance(before, BaseException)
        assert not isinstance(after, BaseException)
        await system.quiet()
        assert heard == ["1", "3"]
