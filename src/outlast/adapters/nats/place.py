"""The URL of a NATS: which servers, as whom, and with which settings."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from outlast.errors import BadUrl

OPTIONS = ("prefix", "replicas", "bundle", "ack_wait", "publish_timeout", "creds", "token", "ca", "certificate", "key")
EXAMPLE = (
    "Write nats://host:4222, nats://user:password@host1,host2 or tls://host, with any of the options "
    f"{', '.join(OPTIONS)} as in ?prefix=shop&ack_wait=10."
)

HELD_MAX = 1000
BUNDLES_HELD_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a NATS URL says."""

    servers: tuple[str, ...]
    """Each as scheme://host:port, without the user."""
    user: str = ""
    password: str = ""
    token: str = ""
    credentials: str = ""
    """The file with a user's JWT and key."""
    is_encrypted: bool = False
    """Nothing is said to a server that does not encrypt."""
    authority: str = ""
    """The file with the certificates that are trusted; empty: those of the system."""
    certificate: str = ""
    key: str = ""
    prefix: str = "outlast"
    """What the names of our streams and subjects begin with."""
    replicas: int | None = None
    """How many servers keep each message; `None`: one, or what the streams have already."""
    bundle: int = 1
    """How many parcels with the same destination travel in one message, at most."""
    ack_wait_seconds: float = 10.0
    """How long the server waits for a word about a message before it hands it to another."""
    publish_timeout_seconds: float = 10.0

    @property
    def held_max(self) -> int:
        """How many messages a process holds of one consumer; of bundles fewer, for each may be many parcels."""
        return HELD_MAX if self.bundle == 1 else BUNDLES_HELD_MAX

    @property
    def name(self) -> str:
        """For people, without a password."""
        hosts = ",".join(server.partition("://")[2] for server in self.servers)
        return f"{'tls' if self.is_encrypted else 'nats'}://{hosts}, prefix {self.prefix!r}"

    def encryption(self) -> ssl.SSLContext:
        """How to check the server's certificate, and which one to show. Raises `BadUrl` if a file is unusable."""
        try:
            context = ssl.create_default_context(cafile=self.authority or None)
            if self.certificate:
                context.load_cert_chain(self.certificate, self.key or None)
        except OSError as error:
            said = f"the certificates for {self.name} cannot be read: {error}. Check ca, certificate and key."
            raise BadUrl(said) from error
        return context


def read_place(url: str) -> Place:
    """What the URL says. Raises `BadUrl`."""
    try:
        return _read(url)
    except ValueError as error:
        shown = re.sub(r"//[^/?]*@", "//...@", url)  # a password does not belong into an error message
        raise BadUrl(f"the NATS URL {shown!r} cannot be used: {error}. {EXAMPLE}") from error


def _read(url: str) -> Place:
    parts = urlsplit(url)
    if parts.scheme not in ("nats", "tls"):
        raise ValueError(f"its scheme is {parts.scheme!r}")
    if parts.path not in ("", "/"):
        raise ValueError(f"it has a path, {parts.path!r}")
    login, _, hosts = parts.netloc.rpartition("@")
    user, colon, password = login.partition(":")
    options = {name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise ValueError(f"it has the unknown options {', '.join(unknown)}")
    replicas = options.get("replicas")
    return Place(
        servers=tuple(_server(parts.scheme, host) for host in hosts.split(",")),
        user=unquote(user) if colon else "",
        password=unquote(password),
        token=options.get("token", "" if colon else unquote(user)),
        credentials=options.get("creds", ""),
        is_encrypted=parts.scheme == "tls",
        authority=options.get("ca", ""),
        certificate=options.get("certificate", ""),
        key=options.get("key", ""),
        prefix=_prefix(options.get("prefix", "outlast")),
        replicas=_replicas(replicas) if replicas is not None else None,
        bundle=_bundle(options.get("bundle", "1")),
        ack_wait_seconds=_seconds("ack_wait", options.get("ack_wait", "10")),
        publish_timeout_seconds=_seconds("publish_timeout", options.get("publish_timeout", "10")),
    )


def _server(scheme: str, host: str) -> str:
    parts = urlsplit(f"//{host}")
    if not parts.hostname:
        raise ValueError("it names no host")
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{scheme}://{name}:{parts.port or 4222}"


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise ValueError(f"the prefix {text!r} is not made of letters, digits, - and _")
    return text


def _replicas(text: str) -> int:
    if text not in ("1", "3", "5"):
        raise ValueError(f"replicas is {text!r}, and must be 1, 3 or 5")
    return int(text)


def _bundle(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= 1000:
        raise ValueError(f"bundle is {text!r}, and must be a number from 1 to 1000")
    return int(text)


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.5 <= seconds <= 86_400:
        raise ValueError(f"{name} is {text!r}, and must be a number of seconds from 0.5 to 86400")
    return seconds
