"""The URL, the log-in, and what a server or a stream must be."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest
from nats.js.api import StreamConfig
from servers.nats import Nats
from servers.server import free_port

from outlast.adapters.nats.place import read_place
from outlast.errors import BadUrl, Misuse, Unavailable
from tests.nats.rig import commands, opened, until

OLD = "/usr/sbin/nats-server"


class Bare(Nats):
    """A NATS with just these lines of configuration."""

    def _configure(self) -> None:
        lines = [f'listen: "127.0.0.1:{self.port}"', *self.settings]
        (self.directory / "nats.conf").write_text("\n".join(lines) + "\n")

    def is_up(self) -> bool:
        return "Server is ready" in self.log_end()


class Old(Bare):
    """The operating system's NATS."""

    def _command(self) -> list[str]:
        return [OLD, "--config", str(self.directory / "nats.conf")]


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for this machine, signed by itself, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    made, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([openssl, *words.split(), "-keyout", str(key), "-out", str(made)], check=True, capture_output=True)
    return made, key


@pytest.fixture
def encrypted(certificate: tuple[Path, Path]) -> Iterator[Nats]:
    made, key = certificate
    tls = f'tls {{ cert_file: "{made}", key_file: "{key}" }}'
    with Bare(settings=[tls, "jetstream { store_dir: jetstream }"]) as server:
        yield server


def test_a_url_is_read_in_all_its_parts() -> None:
    place = read_place("nats://me:s%40crt@one:4223,two,[::1]:4/?prefix=shop&replicas=3&ack_wait=60&publish_timeout=2.5")
    assert place.servers == ("nats://one:4223", "nats://two:4222", "nats://[::1]:4")
    assert (place.user, place.password, place.prefix, place.replicas) == ("me", "s@crt", "shop", 3)
    assert (place.ack_wait_seconds, place.publish_timeout_seconds) == (60, 2.5)
    assert (place.bundle, place.held_max) == (1, 1000)
    assert (read_place("nats://one?bundle=64").bundle, read_place("nats://one?bundle=64").held_max) == (64, 100)
    assert "crt" not in place.name
    assert read_place("nats://secret@one").token == "secret"
    assert read_place("tls://one?token=t&creds=/a/b").credentials == "/a/b"


@pytest.mark.parametrize(
    "url",
    [
        "nats://",
        "nats://one:port",
        "nats://me:s3cret@one?prefix=a.b",
        "nats://one?replicas=2",
        "nats://one?ack_wait=soon",
        "nats://one?bundle=0",
        "nats://one?bundle=1001",
        "nats://one?bundle=many",
        "nats://one?acks=1",
        "nats://one/path",
        "nats://one,,two",
        "nats://one?prefix",
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(BadUrl, match="Write nats://host:4222") as refusal:
        read_place(url)
    assert "s3cret" not in str(refusal.value)


def version_of(program: str) -> str:
    try:
        return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    except OSError:
        return "none"


@pytest.mark.skipif("v2.9" not in version_of(OLD), reason="there is no NATS 2.9 on this machine")
async def test_an_old_server_is_refused_with_both_versions() -> None:
    with Old() as server:
        async with opened(server.url) as (transport, _):
            with pytest.raises(Misuse, match=r"version 2\.9.*2\.12"):
                await transport.declare("payment", [], [])
            assert "2.12" in transport.trouble


async def test_a_server_without_jetstream_is_refused_with_what_to_do() -> None:
    with Bare() as server:
        async with opened(server.url) as (transport, _):
            with pytest.raises(Misuse, match=r"no JetStream.*nats-server with -js"):
                await transport.declare("payment", [], [])


async def test_an_account_without_jetstream_is_refused_with_what_to_do() -> None:
    accounts = "accounts { plain { users: [{ user: a, password: b }] }, rich { jetstream: enabled, users: [] } }"
    server = Bare(settings=["jetstream { store_dir: jetstream }", accounts, "no_auth_user: a"])
    with server:
        async with opened(server.url.replace("//", "//a:b@")) as (transport, _):
            with pytest.raises(Misuse, match=r"not enabled for this user's account.*jetstream: enabled"):
                await transport.declare("payment", [], [])


async def test_a_wrong_password_is_told_and_not_shown(nats_account: str) -> None:
    server = nats_account.partition("@")[2]
    async with opened(f"nats://account0001:wr0ng@{server}", publish_timeout=1) as (transport, _):
        with pytest.raises(Unavailable, match="Authorization Violation"):
            await transport.declare("payment", [], [])
        assert "wr0ng" not in transport.trouble + transport.name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"retention": "interest"}, "retention is 'interest' and must be 'limits'"),
        ({"subjects": ["outlast.q.>"]}, r"subjects is \['outlast.q.>'\]"),
        ({"storage": "memory"}, "storage is 'memory'"),
        ({"max_age": 60}, "max_age"),
        ({"max_msgs": 10}, "set discard to new"),
    ],
)
async def test_an_existing_stream_of_another_kind_is_refused(
    nats_account: str, changes: dict[str, object], said: str
) -> None:
    """BR-23. The difference is named."""
    connection = await nats.connect(nats_account)
    config = StreamConfig(name="outlast", subjects=["outlast.q.*", "outlast.t.*"])
    await connection.jetstream().add_stream(config.evolve(**changes))
    await connection.close()
    async with opened(nats_account) as (transport, _):
        with pytest.raises(Misuse, match=rf"'outlast'.*{said}.*another prefix"):
            await transport.declare("payment", [], [])


async def test_subjects_that_another_stream_has_are_refused(nats_account: str) -> None:
    connection = await nats.connect(nats_account)
    await connection.jetstream().add_stream(name="theirs", subjects=["outlast.>"])
    await connection.close()
    async with opened(nats_account) as (transport, _):
        with pytest.raises(Misuse, match=r"overlap.*another one"):
            await transport.declare("payment", [], [])


async def test_replicas_that_one_server_cannot_give_are_refused(nats_account: str) -> None:
    async with opened(nats_account, replicas=3) as (transport, _):
        with pytest.raises(Misuse, match="replicas"):
            await transport.declare("payment", [], [])
        # The messages are not to blame: they wait, and are not set aside.
        with pytest.raises(Unavailable, match="replicas"):
            await transport.publish(commands(1))


async def test_two_prefixes_never_meet(nats_account: str) -> None:
    """TR-36."""
    async with opened(nats_account, prefix="a") as (one, at_one), opened(nats_account, prefix="b") as (two, at_two):
        await one.declare("payment", [], [])
        await two.declare("payment", [], [])

        await one.publish(commands(20))

        await at_one.wait_for("payment", 20)
        assert at_two.of("payment") == []


async def test_of_several_servers_one_that_is_up_is_enough(nats_account: str) -> None:
    login, _, server = nats_account.partition("@")
    async with opened(f"{login}@127.0.0.1:{free_port()},{server}") as (transport, _):
        await transport.declare("payment", [], [])
        assert transport.trouble == ""


async def test_an_encrypted_connection_checks_the_certificate(encrypted: Nats, certificate: tuple[Path, Path]) -> None:
    """P21."""
    url = encrypted.url.replace("nats://", "tls://")
    async with opened(url, ca=certificate[0]) as (transport, remembered):
        await transport.declare("payment", [], [])
        await transport.publish(commands(50, size=3000))
        await remembered.wait_for("payment", 50)

    async with opened(url, publish_timeout=1) as (transport, _):
        with pytest.raises(Unavailable, match="certificate"):
            await transport.declare("payment", [], [])


async def test_nothing_is_said_in_clear_to_a_server_that_should_encrypt(nats_account: str) -> None:
    """P21. The password is not sent."""
    async with opened(nats_account.replace("nats://", "tls://"), publish_timeout=1) as (transport, _):
        with pytest.raises(Unavailable, match="offers no encryption"):
            await transport.declare("payment", [], [])


async def test_a_user_without_the_right_to_make_streams_can_use_them(tmp_path: Path) -> None:
    """BR-24."""
    denied = 'permissions: { publish: { allow: ">", deny: ["$JS.API.STREAM.CREATE.>", "$JS.API.CONSUMER.CREATE.>"] } }'
    users = f"users: [{{ user: chief, password: x }}, {{ user: worker, password: x, {denied} }}]"
    account = f"accounts {{ shop {{ jetstream: enabled, {users} }} }}"
    with Bare(settings=["jetstream { store_dir: jetstream }", account, "no_auth_user: chief"]) as server:
        worker, chief = (server.url.replace("//", f"//{user}:x@") for user in ("worker", "chief"))
        async with opened(worker, publish_timeout=1) as (transport, _):
            await until(lambda: re.search(r"(?i)permissions violation.*STREAM\.CREATE", transport.trouble), "refusal")
        async with opened(chief) as (transport, _):
            await transport.declare("payment", [], [])

        async with opened(worker) as (transport, remembered):
            await transport.declare("payment", [], [])
            await transport.publish(commands(20))
            await remembered.wait_for("payment", 20)


async def test_an_examination_tells_of_durability(nats_account: str) -> None:
    async with opened(nats_account) as (transport, _):
        await transport.declare("payment", [], [])
        findings = await transport.examine()
        assert all(finding.is_good for finding in findings)
        assert any("sync_interval: always" in finding.seen for finding in findings)


async def test_a_transport_that_was_never_connected_can_be_closed(nats_account: str) -> None:
    async with opened(nats_account):
        pass
    async with opened(f"nats://127.0.0.1:{free_port()}") as (transport, _):
        await until(lambda: "refused" in transport.trouble or "failed" in transport.trouble, "trouble")
        await asyncio.sleep(0)
