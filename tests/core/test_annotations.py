"""The message flow, as signatures say it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Optional, Union

import pytest

from outlast import Command, Event, Failed, Message
from outlast.core.annotations import answers_of, hints_of, incoming, is_message_type, outgoing
from outlast.errors import BadHandler, BadMessage


class A(Event):
    id: str


class B(Event):
    id: str


class Ask(Command[A | B], to="x"):
    id: str


class AskMore(Ask):
    more: str = ""


class Tell(Command[None], to="x"):
    id: str


@pytest.mark.parametrize(
    ("annotation", "kinds"),
    [
        (A, [A]),
        (A | B, [A, B]),
        (Union[A, B], [A, B]),  # noqa: UP007
        (Annotated[A, "note"], [A]),
        (A | Failed[Ask], [A, Failed[Ask]]),
        (str, []),
        (A | str, []),
        (Event, []),
        (Message, []),
        (None, []),
        (Any, []),
        (list[A], []),
    ],
    ids=str,
)
def test_a_parameter_takes_one_message_or_a_union(annotation: Any, kinds: list[Any]) -> None:
    assert incoming(annotation) == kinds


@pytest.mark.parametrize(
    ("annotation", "kinds"),
    [
        (None, []),
        (A, [A]),
        (A | None, [A]),
        (Optional[A], [A]),  # noqa: UP045
        (A | Tell | None, [A, Tell]),
        (tuple[A, B], [A, B]),
        (list[A | B], [A, B]),
        (Iterator[A | Tell], [A, Tell]),
        (AsyncIterator[A], [A]),
        (tuple[A, ...] | Tell, [A, Tell]),
        (tuple[A, A], [A]),
    ],
    ids=str,
)
def test_what_is_sent_is_read_from_the_return_annotation(annotation: Any, kinds: list[Any]) -> None:
    assert outgoing(annotation) == kinds


def test_the_answers_ride_on_the_type_of_the_command() -> None:
    assert answers_of(Ask) == [A, B]
    assert answers_of(AskMore) == [A, B]
    assert answers_of(Tell) == []


def test_the_bases_of_messages_are_no_messages() -> None:
    assert [is_message_type(kind) for kind in (Message, Event, Command, Failed, int, A, Failed[Ask])] == [
        *[False] * 5,
        True,
        True,
    ]


def test_a_name_that_does_not_resolve_is_named() -> None:
    def handler(command: Nowhere) -> None: ...  # noqa: F821

    with pytest.raises(BadHandler, match=r"'Nowhere' is not defined. Import the name at run time"):
        hints_of(handler, BadHandler)


class AskAhead(Command["Reply"], to="oracle"):
    question: str


class Reply(Event):
    answer: str


class AskNobody(Command["Nowhere"], to="oracle"):  # type: ignore[name-defined]
    question: str


def test_an_answer_may_be_named_before_it_is_defined() -> None:
    assert answers_of(AskAhead) == [Reply]


def test_an_answer_that_is_nowhere_is_an_error_that_names_it() -> None:
    with pytest.raises(BadMessage, match="'Nowhere' answers it, and there is no such name in module"):
        answers_of(AskNobody)
