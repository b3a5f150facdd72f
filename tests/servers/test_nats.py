"""The private NATS, its every way of ending, and its accounts."""

from __future__ import annotations

import time
from collections.abc import Iterator

import nats
import pytest
from servers.nats import Nats

from tests.real_servers import started


@pytest.fixture
def own() -> Iterator[Nats]:
    """A server for one test: it starts in no time."""
    yield from started(Nats())


async def put(url: str) -> None:
    connection = await nats.connect(url)
    jetstream = connection.jetstream()
    await jetstream.add_stream(name="kept", subjects=["kept"])
    await jetstream.publish("kept", b"kept")
    await connection.close()


async def kept(url: str) -> list[bytes | None]:
    connection = await nats.connect(url, allow_reconnect=False)
    jetstream = connection.jetstream()
    try:
        streams = await jetstream.streams_info()
        return [(await jetstream.get_msg(str(stream.config.name), 1)).data for stream in streams]
    finally:
        await connection.close()


async def test_it_comes_back_from_being_killed_with_what_was_confirmed(own: Nats) -> None:
    await put(own.url)

    own.kill()

    assert not own.is_up()
    own.start()
    assert await kept(own.url) == [b"kept"]


async def test_it_comes_back_from_an_orderly_stop(own: Nats) -> None:
    await put(own.url)
    own.stop()
    assert not own.is_up()

    own.start()

    assert await kept(own.url) == [b"kept"]


def test_a_paused_server_is_silent_and_then_goes_on(own: Nats) -> None:
    own.pause()
    deadline = time.monotonic() + 5
    while own.is_up() and time.monotonic() < deadline:
        time.sleep(0.01)  # its threads stop one after the other
    assert not own.is_up()

    own.go_on()

    assert own.is_up()


async def test_accounts_show_nothing_of_one_another_and_do_not_run_out(own: Nats) -> None:
    urls = [own.new_account() for _ in range(6)]
    await put(urls[0])
    await put(urls[5])

    assert len(set(urls)) == 6
    assert [await kept(url) for url in urls] == [[b"kept"], [], [], [], [], [b"kept"]]
    assert await kept(own.url) == []


def test_every_write_is_synced(own: Nats) -> None:
    assert "sync_interval: always" in (own.directory / "nats.conf").read_text()
