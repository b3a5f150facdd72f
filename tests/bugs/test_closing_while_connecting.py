"""What became of a connection to RabbitMQ that was given up while it was being made."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import psutil
import pytest

from outlast.adapters.rabbitmq import RabbitMQTransport
from outlast.adapters.system import SystemWorld
from tests.rabbitmq.desk import Desk


async def test_what_is_closed_while_the_host_is_looked_up_leaves_no_connection(
    rabbitmq_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transport was closed in the very step of the event loop in which the address of its host became known.

    pika said that the connection had ended, and went on to make it. It was closed a moment later, or never, if the
    event loop ended before that, as it does where closing is the last thing that a program does.
    """
    asked, known = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def look_up(host: str, port: int, **options: Any) -> list[Any]:
        asked.set()
        await known.wait()
        return socket.getaddrinfo(host, port, proto=socket.IPPROTO_TCP)

    monkeypatch.setattr(loop, "getaddrinfo", look_up)
    transport = RabbitMQTransport(rabbitmq_vhost, SystemWorld())
    before = _connections()
    transport.open(Desk(rabbitmq_vhost))
    await asked.wait()

    known.set()
    await transport.close()

    for _ in range(50):
        assert _connections() <= before
        await asyncio.sleep(0.001)


def _connections() -> set[Any]:
    return {(one.laddr, one.raddr) for one in psutil.Process().net_connections("tcp") if one.raddr}
