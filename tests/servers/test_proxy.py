"""Every fault of the proxy, as a plain client sees it. The server echoes lines, so nothing hides in a driver."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import pytest
from servers.proxy import Direction, Proxy

SHORT = 0.1


class Echo:
    """A server that sends every line back, and notes what it heard and how each connection ended."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.ends: list[str] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while line := await reader.readline():
                self.heard.append(line)
                writer.write(line)
            self.ends.append("closed")
        except ConnectionError:
            self.ends.append("reset")
        finally:
            writer.close()


@asynccontextmanager
async def echo() -> AsyncIterator[Echo]:
    running = Echo()
    server = await asyncio.start_server(running.serve, "127.0.0.1", 0)
    running.url = f"echo://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield running
    finally:
        server.close()
        for writer in running.writers:
            writer.close()
        await server.wait_closed()
        await asyncio.sleep(0.01)


class Client:
    """A client of the echo, by way of the proxy."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def __init__(self, proxy: Proxy) -> None:
        self.port = proxy.port

    async def __aenter__(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        await asyncio.sleep(0)

    async def say(self, line: bytes) -> bytes:
        """What comes back."""
        self.writer.write(line)
        return await self.reader.readline()

    async def hears(self, within: float = SHORT) -> bytes | None:
        """The next line; none if there is none in time."""
        try:
            return await asyncio.wait_for(self.reader.readline(), within)
        except TimeoutError:
            return None


async def until(claim: object, expected: object) -> None:
    """Waits until the call gives what is expected."""
    assert callable(claim)
    async with asyncio.timeout(5):
        while claim() != expected:
            await asyncio.sleep(0.001)


async def test_a_sound_network_changes_nothing() -> None:
    async with echo() as server, Proxy(server.url) as proxy, Client(proxy) as client:
        long = b"x" * 60_000 + b"\n"
        assert await client.say(b"one\n") == b"one\n"
        assert await client.say(long) == long
        assert (proxy.connections, proxy.accepted) == (1, 1)


async def test_the_end_of_either_side_reaches_the_other() -> None:
    async with echo() as server, Proxy(server.url) as proxy:
        async with Client(proxy) as client:
            await client.say(b"one\n")
            client.writer.write_eof()
            assert await client.reader.read() == b""
        assert server.ends == ["closed"]

        async with Client(proxy) as client:
            await client.say(b"two\n")
            server.writers[-1].close()
            assert await client.reader.read() == b""
        await until(lambda: proxy.connections, 0)


async def test_the_reset_of_either_side_reaches_the_other() -> None:
    async with echo() as server, Proxy(server.url) as proxy:
        async with Client(proxy) as client:
            await client.say(b"one\n")
            client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.writer.transport.abort()
            await until(lambda: server.ends, ["reset"])

        async with Client(proxy) as client:
            await client.say(b"two\n")
            server.writers[-1].get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )
            server.writers[-1].transport.abort()
            with pytest.raises(ConnectionResetError):
                await client.reader.read()
        await until(lambda: proxy.connections, 0)


async def test_a_cut_resets_both_sides() -> None:
    async with echo() as server, Proxy(server.url) as proxy, Client(proxy) as client:
        await client.say(b"one\n")

        proxy.cut()

        with pytest.raises(ConnectionResetError):
            await client.reader.read()
        await until(lambda: server.ends, ["reset"])
        await until(lambda: proxy.connections, 0)
        async with Client(proxy) as other:
            assert await other.say(b"two\n") == b"two\n"


async def test_a_close_ends_both_sides_in_order() -> None:
    async with echo() as server, Proxy(server.url) as proxy, Client(proxy) as client:
        await client.say(b"one\n")

        proxy.close()

        assert await client.reader.read() == b""
        await until(lambda: server.ends, ["closed"])


async def test_a_refusal_lets_nobody_in_and_keeps_who_is_there() -> None:
    async with echo() as server, Proxy(server.url) as proxy, Client(proxy) as client:
        await client.say(b"one\n")

        proxy.refuse(True)
        with pytest.raises(ConnectionRefusedError):
            await Client(proxy).__aenter__()
        assert await client.say(b"two\n") == b"two\n"

        proxy.refuse(False)
        async with Client(proxy) as other:
            assert await other.say(b"three\n") == b"three\n"


async def test_a_client_of_a_server_that_is_gone_is_reset() -> None:
    async with echo() as server:
        url = server.url
    async with Proxy(url) as proxy, Client(proxy) as client:
        with pytest.raises(ConnectionResetError):
            await client.reader.read()


async def test_a_black_hole_is_silent_and_then_lets_all_through() -> None:
    async with echo() as server, Proxy(server.url) as proxy, Client(proxy) as client:
        await client.say(b"one\n")

        proxy.black_hole(True)
        client.writer.write(b"two\n")
        assert await client.hears() is None
        async with Client(proxy) as other:
            other.writer.write(b"three\n")
            assert await other.hears() is None
            assert server.heard == [b"one\n"]

            proxy.black_hole(False)
            assert await client.hears(5) == b"two\n"
            assert await other.hears(5) == b"three\n"


async def test_a_black_hole_hides_that_the_client_has_gone() -> None:
    async with echo() as server, Proxy(server.url) as proxy:
        async with Client(proxy) as client:
            await client.say(b"one\n")
            proxy.black_hole(True)
        await asyncio.sleep(SHORT)
        assert server.ends == []

        proxy.black_hole(False)
        await until(lambda: len(server.ends), 1)


async def test_a_black_hole_of_one_way_loses_only_the_answers() -> None:
    async with echo() as server, Proxy(server.url) as proxy, Client(proxy) as client:
        await client.say(b"one\n")

        proxy.black_hole(True, Direction.TO_CLIENT)
        client.writer.write(b"two\n")
        await until(lambda: server.heard, [b"one\n", b"two\n"])
        assert await client.hears() is None

        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await client.reader.read()


async def test_a_delay_holds_each_way_and_keeps_the_order() -> None:
    async with echo() as server, Proxy(server.url) as proxy, Client(proxy) as client:
        loop = asyncio.get_running_loop()
        proxy.delay(0.05)
        begun = loop.time()
        client.writer.write(b"one\n")
        await asyncio.sleep(0.02)
        client.writer.write(b"two\n")

        assert [await client.hears(5), await client.hears(5)] == [b"one\n", b"two\n"]
        assert 0.12 <= loop.time() - begun < 0.2  # the second waits beside the first, not behind it

        proxy.delay(0)
        begun = loop.time()
        await client.say(b"three\n")
        assert loop.time() - begun < 0.05


async def test_an_end_waits_for_the_bytes_before_it() -> None:
    async with echo() as server, Proxy(server.url) as proxy:
        proxy.delay(0.05)
        async with Client(proxy) as client:
            client.writer.write(b"one\n")
            client.writer.write_eof()
            assert await client.reader.read() == b"one\n"
        assert server.ends == ["closed"]


async def test_a_limit_makes_much_take_long() -> None:
    async with echo() as server, Proxy(server.url) as proxy, Client(proxy) as client:
        loop = asyncio.get_running_loop()
        proxy.limit(100_000)
        begun = loop.time()
        await client.say(b"x" * 10_000 + b"\n")
        assert 0.1 <= loop.time() - begun < 0.5

        proxy.limit(None)
        begun = loop.time()
        await client.say(b"x" * 10_000 + b"\n")
        assert loop.time() - begun < 0.05


async def test_slices_come_in_many_small_pieces() -> None:
    async with echo() as server, Proxy(server.url) as proxy, Client(proxy) as client:
        proxy.slice()
        line = bytes(range(11, 256)) * 4 + b"\n"
        client.writer.write(line)
        pieces: list[bytes] = []
        while not b"".join(pieces).endswith(b"\n"):
            pieces.append(await client.reader.read(65536))
        assert b"".join(pieces) == line
        assert len(pieces) > 20


@pytest.mark.parametrize("sliced", [False, True])
async def test_a_connection_is_cut_after_what_the_server_still_hears(sliced: bool) -> None:
    async with echo() as server, Proxy(server.url) as proxy, Client(proxy) as client, Client(proxy) as other:
        proxy.slice(sliced)
        trigger = proxy.cut_after(b"two\n")
        assert await client.say(b"one\n") == b"one\n"
        assert not trigger.fired

        client.writer.write(b"two\nthree\n")
        with pytest.raises(ConnectionResetError):
            await client.reader.read()

        assert trigger.fired
        await until(lambda: server.ends, ["closed"])
        assert server.heard == [b"one\n", b"two\n"]
        assert await other.say(b"two\n") == b"two\n"


async def test_what_a_cut_waits_for_may_come_in_parts() -> None:
    async with echo() as server, Proxy(server.url) as proxy, Client(proxy) as client:
        proxy.cut_after(b"a longer word\n")
        for part in (b"no word", b"\na lon", b"ger ", b"word", b"\nand more\n"):
            client.writer.write(part)
            await asyncio.sleep(0.01)
        await until(lambda: server.ends, ["closed"])
        assert server.heard == [b"no word\n", b"a longer word\n"]


async def test_what_is_delayed_falls_into_the_black_hole_too() -> None:
    async with echo() as server, Proxy(server.url) as proxy, Client(proxy) as client:
        proxy.delay(0.05)
        client.writer.write(b"one\n")
        await asyncio.sleep(0.02)
        proxy.black_hole(True)
        assert await client.hears(0.2) is None

        proxy.black_hole(False)
        assert await client.hears(5) == b"one\n"


async def test_a_connection_is_cut_before_the_server_hears_it() -> None:
    async with echo() as server, Proxy(server.url) as proxy, Client(proxy) as client:
        proxy.cut_before(b"two\n")
        client.writer.write(b"one\ntwo\n")
        with pytest.raises(ConnectionResetError):
            await client.reader.read()
        await until(lambda: server.ends, ["reset"])
        assert b"two\n" not in server.heard


@pytest.mark.parametrize("sliced", [False, True])
async def test_an_answer_is_kept_back(sliced: bool) -> None:
    async with echo() as server, Proxy(server.url) as proxy, Client(proxy) as client:
        proxy.slice(sliced)
        trigger = proxy.cut_answer(b"tw")
        assert await client.say(b"one\n") == b"one\n"

        client.writer.write(b"two\n")
        with pytest.raises(ConnectionResetError):
            await client.reader.read()

        assert trigger.fired
        await until(lambda: server.ends, ["closed"])
        assert server.heard == [b"one\n", b"two\n"]


@pytest.mark.parametrize("after", [True, False])
async def test_a_connection_is_cut_after_or_before_what_the_server_says(after: bool) -> None:
    async with echo() as server, Proxy(server.url) as proxy, Client(proxy) as client:
        trigger = (proxy.cut_after if after else proxy.cut_before)(b"two\n", Direction.TO_CLIENT)
        await client.say(b"one\n")
        client.writer.write(b"two\n")
        if after:
            assert await client.reader.readline() == b"two\n"
        with pytest.raises(ConnectionResetError):
            await client.reader.read()
        assert trigger.fired
        assert server.heard == [b"one\n", b"two\n"]


async def test_a_connection_is_cut_at_the_second_time_or_at_a_number_of_bytes() -> None:
    async with echo() as server, Proxy(server.url) as proxy:
        async with Client(proxy) as client:
            proxy.cut_after(b"one", times=2)
            assert await client.say(b"one\n") == b"one\n"
            with pytest.raises(ConnectionResetError):
                await client.say(b"one\n")
        async with Client(proxy) as client:
            proxy.cut_after(6)
            assert await client.say(b"1234\n") == b"1234\n"
            with pytest.raises(ConnectionResetError):
                await client.say(b"6789\n")
        await until(lambda: server.heard, [b"one\n", b"one", b"1234\n", b"6"])


async def test_nobody_who_reads_nothing_fills_the_memory() -> None:
    async with echo() as server, Proxy(server.url) as proxy, Client(proxy) as client:
        proxy.delay(60)
        sent = 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                while sent < 100 << 20:
                    client.writer.write(b"x" * 65536)
                    await client.writer.drain()
                    sent += 65536
        assert sent < 30 << 20


def test_in_a_thread_of_its_own_it_serves_those_who_block() -> None:
    echoing = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for _ in range(2):
            connection, _ = echoing.accept()
            with closing(connection):
                try:
                    while data := connection.recv(100):
                        connection.sendall(data)
                except ConnectionResetError:
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    with Proxy(f"echo://127.0.0.1:{echoing.getsockname()[1]}") as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.sendall(b"one")
            assert client.recv(100) == b"one"
            assert proxy.connections == 1

            proxy.cut()
            with pytest.raises(ConnectionResetError):
                client.recv(100)

            proxy.refuse(True)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", proxy.port))
            proxy.refuse(False)

        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.sendall(b"two")
            assert client.recv(100) == b"two"
            proxy.black_hole(True)
            client.settimeout(SHORT)
            client.sendall(b"three")
            with pytest.raises(TimeoutError):
                client.recv(100)
            time.sleep(0)
    thread.join(5)
    echoing.close()
    assert not thread.is_alive()
    assert not [left for left in threading.enumerate() if left.name == "proxy"]
