"""What an error of PostgreSQL or of its driver means for a turn: try again at once, later, or never."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from outlast.errors import Conflict, OutlastError, Unavailable

_OVERRULED = frozenset({"40001", "40P01"})
"""Serialization failure and deadlock: another transaction was first."""
_SERVER = frozenset({"08", "28", "3D", "53", "57", "58", "XX"})
"""Classes of errors that say something of the server, and nothing of what it was asked for."""
_STATES = frozenset({"25006", "25P03", "55P03", "25P04"})
"""Read-only, idle for too long, a lock that was not to be had in time."""
_SCHEMA = frozenset({"42501", "42P01", "3F000"})
_CANCELLED = "57014"

_DRIVER = ("InterfaceError", "InternalClientError", "OperationalError")


def _state(error: BaseException) -> str | None:
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else None


def is_overruled(error: BaseException) -> bool:
    """Whether another transaction was first, so that this one is to be done again."""
    return _state(error) in _OVERRULED


def is_of_the_server(error: BaseException) -> bool:
    """Whether the server or the way to it is to blame, and not what a statement asked for."""
    state = _state(error)
    if state is not None:
        return state != _CANCELLED and (state[:2] in _SERVER or state in _STATES)
    return isinstance(error, ConnectionError)


def chain(error: BaseException | None) -> Generator[BaseException]:
    """The error and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def explained(error: Exception, attempt: str, *, where: str) -> OutlastError | None:
    """What to raise in place of an error of one of our own statements; `None` if that is not for us to say."""
    if isinstance(error, OutlastError):
        return None
    if is_overruled(error):
        return Conflict(f"{attempt} met another transaction: {error}")
    state = _state(error)
    text = str(error) or type(error).__name__
    if state in _SCHEMA:
        return Unavailable(
            f"{attempt} at {where} failed: {text}. The user may lack a right, or the schema is gone. Somebody who may "
            "can run `outlast migrate`, or what `outlast migrate --sql` prints, with its GRANTs."
        )
    if state == _CANCELLED or is_of_the_server(error) or isinstance(error, OSError | TimeoutError | EOFError):
        return Unavailable(
            f"{attempt} at {where} failed: {text}. It is tried again, and takes effect once. See whether the server is "
            "up, reachable and writable, with room on its disk and for another connection."
        )
    name = type(error).__name__
    if state is None and (name in _DRIVER or isinstance(error, asyncio.InvalidStateError)):
        return Unavailable(
            f"{attempt} at {where} failed: {text}. The connection is given up and the work is tried again on a new one."
        )
    return None


@contextmanager
def attempting(attempt: str, *, where: str) -> Generator[None]:
    """Raises `Conflict` or `Unavailable` in place of what the database has to say."""
    try:
        yield
    except Exception as error:
        known = explained(error, attempt, where=where)
        if known is None:
            raise
        raise known from error
