"""Over TLS: the server must be who it says it is."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.rabbitmq import RabbitMQ
from servers.server import free_port

from outlast.errors import Unavailable
from tests.rabbitmq.desk import desk, with_option
from tests.real_servers import started


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority's certificate, and one for `localhost` that it vouches for, with its key."""
    folder = tmp_path_factory.mktemp("certificates")
    make_certificate(folder, "authority")
    vouched = ("-CA", f"{folder}/authority.pem", "-CAkey", f"{folder}/authority.key")
    make_certificate(folder, "localhost", *vouched, "-addext", "subjectAltName=DNS:localhost")
    return folder


def make_certificate(folder: Path, name: str, *options: str) -> None:
    files = ("-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem")
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}")
    subprocess.run([*command, *files, *options], check=True, capture_output=True)


@pytest.fixture(scope="module")
def secure_port(certificates: Path) -> Iterator[int]:
    """Where a RabbitMQ listens that lets in only who shows the certificate."""
    port = free_port()
    settings = (
        f"listeners.ssl.1 = 127.0.0.1:{port}",
        f"ssl_options.cacertfile = {certificates / 'authority.pem'}",
        f"ssl_options.certfile = {certificates / 'localhost.pem'}",
        f"ssl_options.keyfile = {certificates / 'localhost.key'}",
        "ssl_options.verify = verify_peer",
        "ssl_options.fail_if_no_peer_cert = true",
    )
    for _ in started(RabbitMQ(settings=settings)):
        yield port


async def test_messages_go_over_tls(secure_port: int, certificates: Path) -> None:
    url = with_option(
        f"amqps://guest:guest@localhost:{secure_port}/",
        cafile=certificates / "authority.pem",
        certfile=certificates / "localhost.pem",
        keyfile=certificates / "localhost.key",
    )
    async with desk(url, "payment") as one:
        await one.publish("small", "large", packet=bytes(range(256)) * 4096)

        await one.has("small", "large")
        assert {arrival.packet for _, arrival in one.arrivals} == {bytes(range(256)) * 4096}


async def test_a_server_that_nobody_vouches_for_is_not_talked_to(secure_port: int, certificates: Path) -> None:
    url = with_option(f"amqps://guest:guest@localhost:{secure_port}/", confirm_timeout=1)
    async with desk(url) as one:
        with pytest.raises(Unavailable, match="certificate verify failed"):
            await one.publish("1")
