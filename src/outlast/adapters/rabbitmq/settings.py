"""What the URL of a RabbitMQ says: where it is, who enters, and how queues and connections are made."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from outlast.errors import BadUrl

PREFETCH = 1000
PREFETCH_OF_BUNDLES = 100
"""Each of them may be many parcels."""
PORTS = {"amqp": 5672, "amqps": 5671}
EXAMPLE = "amqp://user:password@host1,host2:5673/vhost"


class Host(msgspec.Struct, frozen=True):
    """One node of the broker."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """A URL, read. Everything after `?` is optional."""

    hosts: list[Host]
    """Any node of one cluster; they are tried in turn."""
    user: str = "guest"
    password: str = "guest"
    vhost: str = "/"
    tls: bool = False
    cafile: str = ""
    """Whom to trust with `amqps://`, if not whom the system trusts."""
    certfile: str = ""
    keyfile: str = ""
    queue_type: Literal["quorum", "classic"] = "quorum"
    prefix: str = "outlast."
    """What the names of queues and of the exchange begin with: two systems share a virtual host by it."""
    bundle: int = 1
    """How many parcels with the same destination travel in one message, at most."""
    prefetch: int | None = None
    """How many messages a process holds per service without having acknowledged them."""
    topology: Literal["declare", "passive"] = "declare"
    """`passive`: queues, exchange and bindings are made by someone else, ahead of time."""
    heartbeat: int = 10
    """Seconds; a connection that is silent for twice as long is given up. 0: never."""
    confirm_timeout: float = 10.0
    """Seconds without any progress after which a publish is given up."""

    @property
    def held_max(self) -> int:
        """The prefetch, if none is given by whether there are bundles."""
        return self.prefetch if self.prefetch is not None else PREFETCH if self.bundle == 1 else PREFETCH_OF_BUNDLES

    @property
    def exchange(self) -> str:
        """Where events are published."""
        return f"{self.prefix}events"

    def queue(self, service: str) -> str:
        """The name of a service's queue."""
        return f"{self.prefix}{service}"

    def service(self, queue: str) -> str:
        """The service that this queue is of."""
        return queue.removeprefix(self.prefix)

    def __str__(self) -> str:
        hosts = ", ".join(str(host) for host in self.hosts)
        return f"RabbitMQ at {hosts}" + (f", virtual host {self.vhost!r}" if self.vhost != "/" else "")

    def context(self) -> ssl.SSLContext:
        """How to speak TLS. Raises `BadUrl` for files that cannot be used."""
        try:
            context = ssl.create_default_context(cafile=self.cafile or None)
            if self.certfile:
                context.load_cert_chain(self.certfile, self.keyfile or None)
        except OSError as error:
            raise BadUrl(
                f"the certificates for {self} cannot be read: {error}. See cafile={self.cafile!r}, "
                f"certfile={self.certfile!r} and keyfile={self.keyfile!r} in the URL."
            ) from error
        return context


def read(url: str) -> Settings:
    """The settings that a URL stands for. Raises `BadUrl`, without repeating the password."""
    parts = urlsplit(url)
    if parts.scheme not in PORTS:
        raise BadUrl(f"a RabbitMQ URL begins with amqp:// or amqps://, not with {parts.scheme!r}. Write {EXAMPLE}.")
    credentials, _, places = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    given: dict[str, object] = {}
    if credentials:
        given = {"user": unquote(user), "password": unquote(password)}
    if parts.path not in ("", "/"):
        given["vhost"] = unquote(parts.path[1:])
    given["hosts"] = [_host(place, PORTS[parts.scheme]) for place in places.split(",")]
    given["tls"] = parts.scheme == "amqps"
    return _settings(given, dict(parse_qsl(parts.query, keep_blank_values=True)))


def _host(place: str, usual_port: int) -> Host:
    try:
        parts = urlsplit(f"//{place}")
        port = usual_port if parts.port is None else parts.port
    except ValueError as error:
        raise BadUrl(f"the host {place!r} in a RabbitMQ URL cannot be used: {error}. Write {EXAMPLE}.") from error
    return Host(parts.hostname or "localhost", port)


def _settings(given: Mapping[str, object], options: Mapping[str, str]) -> Settings:
    optional = {
        name for name in Settings.__struct_fields__ if name not in ("hosts", "user", "password", "vhost", "tls")
    }
    unknown = sorted(options.keys() - optional)
    if unknown:
        raise BadUrl(
            f"the option {unknown[0]!r} in a RabbitMQ URL is not known. There are: {', '.join(sorted(optional))}."
        )
    try:
        settings = msgspec.convert({**given, **options}, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise BadUrl(f"an option in a RabbitMQ URL cannot be used: {error}.") from error
    if (
        not 1 <= settings.bundle <= 1000
        or not 1 <= settings.held_max <= 65535
        or not 0 <= settings.heartbeat <= 65535
        or settings.confirm_timeout <= 0
    ):
        raise BadUrl(
            "an option in a RabbitMQ URL is out of range: bundle goes from 1 to 1000, prefetch from 1 to 65535, "
            "heartbeat from 0 to 65535 seconds, and confirm_timeout is above 0 seconds."
        )
    return settings
