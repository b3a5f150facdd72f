"""What a client says when it is used in a wrong way, or when its request does not come to an answer."""

from __future__ import annotations

from datetime import timedelta

import pytest

from outlast import NO_RETRY, Client, Command, Event, Service
from outlast.errors import Misuse, RequestFailed, RequestTimeout
from tests.system import running


class Weighed(Event):
    grams: int


class Weigh(Command[Weighed], to="scales"):
    grams: int = 1


class Clean(Command[None], to="scales"):
    grams: int = 1


async def test_a_client_that_is_not_open_says_so_whatever_it_is_asked(url: str) -> None:
    client = Client(url)

    with pytest.raises(Misuse, match="not open"):
        await client.send(Clean())
    with pytest.raises(Misuse, match="not open"):
        await client.publish(Weighed(grams=1))
    with pytest.raises(Misuse, match="not open"):
        await client.request(Weigh(), timeout=timedelta(seconds=1))


async def test_a_request_that_nothing_answers_is_refused(url: str) -> None:
    async with Client(url) as client:
        with pytest.raises(Misuse, match=r"Clean was requested, and nothing answers it.*client\.send"):
            await client.request(Clean(), timeout=timedelta(seconds=1))


async def test_a_request_that_takes_too_long_says_how_long_it_waited(url: str) -> None:
    async with Client(url) as client:
        with pytest.raises(RequestTimeout, match=r"within 0\.2 s\. Its receiver may be down"):
            await client.request(Weigh(), timeout=timedelta(seconds=0.2))


async def test_a_request_that_failed_says_why_once(url: str) -> None:
    scales = Service("scales", retry=NO_RETRY)

    @scales.handles
    async def weigh(command: Weigh) -> Weighed:
        if command.grams < 0:
            raise ValueError("less than nothing")
        return "heavy"  # type: ignore[return-value]

    async with running(url, scales) as system:
        with pytest.raises(RequestFailed, match=r"ValueError after 1 attempt \(ValueError: less than nothing\)\. Look"):
            await system.client.request(Weigh(grams=-1), timeout=timedelta(seconds=5))
        with pytest.raises(RequestFailed) as failed:
            await system.client.request(Weigh(), timeout=timedelta(seconds=5))

    assert str(failed.value).count("returned 'heavy'") == 1
