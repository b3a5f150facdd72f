"""Between message classes and wire names: which class a name means, and how its body is read and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, get_args, get_origin

import msgspec

from outlast.core import foreign
from outlast.core.message import Envelope, Failed, Message, is_failure
from outlast.errors import BadMessage, Undecodable, UnknownMessage

FAILED = "failed:"

encode: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=foreign.write).encode
_decode_envelope = msgspec.json.Decoder(Envelope).decode


def name_of(message: Message) -> str:
    """The wire name under which this message travels."""
    if is_failure(message):
        return FAILED + name_of(message.command)
    return type(message).__wire_name__


def name_of_type(kind: Any) -> str:
    """The wire name of a message class, or of `Failed[SomeCommand]`."""
    if get_origin(kind) is Failed:
        return FAILED + name_of_type(get_args(kind)[0])
    return kind.__wire_name__  # type: ignore[no-any-return]  # the only classes that come here have it


def type_of(message: Message) -> Any:
    """The key under which routes know this message: its class, or `Failed[SomeCommand]`."""
    return Failed[type(message.command)] if isinstance(message, Failed) else type(message)  # type: ignore[misc]


def open_packet(packet: bytes) -> Envelope:
    """The envelope in these bytes; the body stays unread. Raises `Undecodable`."""
    try:
        return _decode_envelope(packet)
    except Exception as error:  # deep nesting, wrong encodings, too little memory: all say that it is unreadable
        raise Undecodable(
            f"reading an envelope of {len(packet)} bytes failed: {error}. "
            "Its sender is not outlast, or the bytes were damaged."
        ) from error


def sent_at(packet: bytes) -> datetime | None:
    """When the message in these bytes was sent; `None` if they are no envelope."""
    try:
        return open_packet(packet).sent_at
    except Undecodable:
        return None


class Catalogue:
    """The message classes that one service or client knows, by wire name.

    Only classes that were listed can be read: a name on the wire never imports anything.
    """

    def __init__(self, kinds: Iterable[Any] = ()) -> None:
        self._decoders: dict[str, Callable[[Any], Message]] = {}
        self._kinds: dict[str, Any] = {}
        for kind in kinds:
            self.add(kind)

    def add(self, kind: Any) -> str:
        """Lists a message class and returns its wire name. Raises `BadMessage` when the name is taken."""
        name = name_of_type(kind)
        known = self._kinds.setdefault(name, kind)
        if known != kind:
            raise BadMessage(
                f"{_where(kind)} and {_where(known)} have the same wire name {name!r}, so a message on the "
                f"wire could be either. Give one of them another name, as in "
                f"class {getattr(kind, '__name__', kind)}(..., name='...')."
            )
        if name not in self._decoders:
            self._decoders[name] = msgspec.json.Decoder(kind, dec_hook=foreign.read).decode
        return name

    def decode(self, envelope: Envelope) -> Message:
        """The message in the envelope. Raises `UnknownMessage` or `Undecodable`."""
        try:
            decoder = self._decoders[envelope.type]
        except KeyError:
            raise UnknownMessage(
                f"the message {envelope.type!r} from {envelope.sender or 'an unknown sender'} is not known here. "
                f"Known: {', '.join(sorted(self._decoders)) or 'none'}. Add its handler, or deploy the version "
                "that has it, and retry the dead letter."
            ) from None
        try:
            return decoder(envelope.body)
        except Exception as error:  # a class of the user's may refuse its fields with any error
            raise Undecodable(
                f"reading the body of {envelope.type!r} {envelope.id} failed: {error}. "
                "Sender and receiver differ about this message; give a changed message a new version=."
            ) from error

    def __contains__(self, name: str) -> bool:
        return name in self._kinds

    def __getitem__(self, name: str) -> Any:
        return self._kinds[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)


def _where(kind: Any) -> str:
    return f"{getattr(kind, '__module__', '?')}.{getattr(kind, '__qualname__', kind)}"
