"""Removing from the stream what everybody has acknowledged. Any process may do it at any time, also several at once.

The order of the questions matters. What is removed is not younger than the stream was before the consumers were
listed; a service that subscribes meanwhile wants only what is younger still.

To remove makes the server forget which messages its consumers were to hand over again at once: it does so only when it
has lost patience with them. So nothing is removed twice, and nothing that moves the consumers of others alone.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from outlast.adapters.nats.names import Names
from outlast.adapters.nats.session import Refused, Session
from outlast.adapters.nats.topology import ask
from outlast.errors import Unavailable


class Sweeper:
    """Of one process."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._swept: dict[str, int] = {}

    async def sweep(self, session: Session, own: Collection[str]) -> None:
        """Removes what nobody needs any more, as far as it concerns these consumers or none. Raises `Unavailable`."""
        names = self._names
        try:
            state = (await ask(session, f"STREAM.INFO.{names.stream}", {"subjects_filter": ">"}))["state"]
            consumers = await _consumers(session, names)
            first: int = state["first_seq"]
            swept: dict[str, int] = {}
            for subject in state.get("subjects") or ():
                concerned = [consumer for consumer in consumers if subject in _filters(consumer)]
                if concerned and not any(consumer["name"] in own for consumer in concerned):
                    continue
                needed = needed_from(subject, concerned, last=state["last_seq"], names=names)
                swept[subject] = needed
                if needed > max(first, self._swept.get(subject, 0)):
                    await ask(session, f"STREAM.PURGE.{names.stream}", {"filter": subject, "seq": needed})
            self._swept = swept
        except Refused as error:  # the stream has just been deleted, or we may not
            raise Unavailable(str(error)) from error


def needed_from(subject: str, consumers: list[dict[str, Any]], *, last: int, names: Names) -> int:
    """The first number in the stream from which somebody needs messages with this subject; 0: all are needed.

    Removing with a filter moves the consumers of that subject forward, with all their other subjects too. So it must
    not go further than each of them has acknowledged everything.
    """
    done = [_done(consumer, last) for consumer in consumers if subject in _filters(consumer)]
    if not done and not names.is_topic(subject):
        return 0  # a command whose service was never up
    return min(done, default=last) + 1


def _done(consumer: dict[str, Any], last: int) -> int:
    """Up to where it has acknowledged all that it wants."""
    if not consumer["num_pending"] and not consumer["num_ack_pending"]:
        return last
    return int(consumer["ack_floor"]["stream_seq"])


def _filters(consumer: dict[str, Any]) -> list[str]:
    config = consumer["config"]
    return config.get("filter_subjects") or [config.get("filter_subject", "")]


async def _consumers(session: Session, names: Names) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        answer = await ask(session, f"CONSUMER.LIST.{names.stream}", {"offset": len(found)})
        some: list[dict[str, Any]] = answer.get("consumers") or []
        if answer.get("missing"):
            raise Unavailable("listing the consumers failed: not all of them answered.")
        found += some
        if not some or len(found) >= answer["total"]:
            return found
