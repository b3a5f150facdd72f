"""What our streams, subjects and consumers are called."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote

ID_HEADER = b"Nats-Msg-Id"
REQUEST_HEADER = b"Outlast-Request"


@lru_cache(maxsize=10_000)
def token(name: str) -> str:
    """The name as one token of a subject, still readable: `shop.v2` is `shop%2Ev2`.

    Two names never have the same token. It can also name a consumer, which is a folder on the server's disk.
    """
    return quote(name, safe="@:+=,").replace(".", "%2E").replace("~", "%7E")


def receiver_in(subject: bytes) -> bytes:
    """Which queue or topic a subject is, without the prefix."""
    return subject.partition(b".")[2]


def header_value(text: str) -> bytes:
    """The text as a value of a header, whatever it is. Almost every id stays as it is."""
    if text.isascii() and text.isprintable() and " " not in text and "%" not in text:
        return text.encode()
    return quote(text, safe="@:+=,/").encode()


def from_header_value(value: bytes) -> str:
    """The text that `header_value` made this of."""
    text = value.decode("utf-8", "replace")
    return unquote(text) if "%" in text else text


@dataclass(frozen=True, slots=True)
class Names:
    """The names under one prefix."""

    prefix: str

    @property
    def stream(self) -> str:
        """It has everything, and so one batch can have commands and events."""
        return self.prefix

    @property
    def subjects(self) -> list[str]:
        return [f"{self.prefix}.q.*", f"{self.prefix}.t.*"]

    def queue(self, service: str) -> str:
        return f"{self.prefix}.q.{token(service)}"

    def topic(self, topic: str) -> str:
        return f"{self.prefix}.t.{token(topic)}"

    def is_topic(self, subject: str) -> bool:
        return subject.startswith(f"{self.prefix}.t.")

    def answers(self, address: str) -> str:
        """Where a process gets answers. An address comes with a message, so it must not lead anywhere else."""
        return f"{self.prefix}.r.{token(address)}"

    def commands_of(self, service: str) -> str:
        """The consumer of a service's queue. All its processes pull from it."""
        return f"q-{token(service)}"

    def events_of(self, service: str) -> str:
        """The consumer of a service's topics."""
        return f"t-{token(service)}"
