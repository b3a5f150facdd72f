"""URLs: what each names, and what is said of one that names nothing."""

from __future__ import annotations

import pytest

from outlast.engines import open_engine, shown
from outlast.errors import BadUrl


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "no engine was named"),
        ("oracle://host", "names no engine of this version"),
        ("sqlite://host/file.db", "cannot be used"),
        ("amqp://guest:secret@host/", r"does not say where state is kept"),
        ("nats://host", r"\?store=postgresql://"),
        ("amqp://host/?store=amqp://other", "does not say where state is kept"),
    ],
)
def test_a_url_that_names_no_engine_is_refused_with_what_to_write(url: str, said: str) -> None:
    with pytest.raises(BadUrl, match=said) as caught:
        open_engine(url)
    assert "secret" not in str(caught.value)


def test_a_password_is_never_shown() -> None:
    assert shown("amqp://me:secret@host/?store=postgresql://you:hidden@db/shop") == (
        "amqp://me:***@host/?store=postgresql://you:***@db/shop"
    )
