"""What a client says when it is used in a wrong way, or when its request does not come to an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import pytest

from outlast import NO_RETRY, Client, Command, Event, Service
from outlast.errors import Misuse, RequestFailed, RequestTimeout
from tests.system import AT_ONCE, running


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
    """RR-04"""
    async with Client(url) as client:
        with pytest.raises(RequestTimeout, match=r"within 0\.2 s\. Its receiver may be down"):
            await client.request(Weigh(), timeout=timedelta(seconds=0.2))


async def test_a_request_that_failed_says_why_once(url: str) -> None:
    """RR-08: as soon as it is a dead letter, and not at the time limit."""
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


async def test_requests_at_the_same_time_get_their_own_answers(url: str) -> None:
    """RR-03: the answer carries the id of its question, whoever asked for what else meanwhile."""
    scales = Service("scales")

    @scales.handles
    async def weigh(command: Weigh) -> Weighed:
        await asyncio.sleep(0.02 * (5 - command.grams))
        return Weighed(grams=command.grams)

    async with running(url, scales) as system:
        asked = [system.client.request(Weigh(grams=grams), timeout=timedelta(seconds=20)) for grams in range(5)]
        assert [answer.grams for answer in await asyncio.gather(*asked)] == list(range(5))


async def test_an_answer_of_an_attempt_that_fails_is_not_given(url: str) -> None:
    """RR-11"""
    scales, attempts = Service("scales", retry=AT_ONCE), list[int]()

    @scales.handles
    def weigh(command: Weigh) -> Iterator[Weighed]:
        attempts.append(len(attempts) + 1)
        yield Weighed(grams=attempts[-1])
        if len(attempts) < 3:
            raise ValueError("after answering")

    async with running(url, scales) as system:
        answer = await system.client.request(Weigh(), timeout=timedelta(seconds=20))
        assert (answer.grams, attempts) == (3, [1, 2, 3])
