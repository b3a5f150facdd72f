"""Statements of user code: placeholders as on every engine, and none that would end the turn's transaction."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from outlast.errors import BadHandler, Misuse

_TOKEN = re.compile(
    r"""
    (?P<skip>
        \b[eE]'(?:[^'\\]|\\.|'')*'
      | '(?:[^']|'')*'
      | "(?:[^"]|"")*"
      | --[^\n]*
      | /\*
      | \$(?P<tag>(?:[A-Za-z_\x80-\uffff][\w\x80-\uffff]*)?)\$.*?\$(?P=tag)\$
      | ::
      | \?\?
    )
    | (?P<number>\$\d+)
    | (?P<mark>\?)
    | :(?P<name>[A-Za-z_]\w*)
    | (?P<end>;)
    | (?P<word>[A-Za-z_]\w*)
    """,
    re.VERBOSE | re.DOTALL,
)

_ENDS = frozenset({"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT"})
_PARTS = frozenset({"SAVEPOINT", "RELEASE", "ROLLBACK"})
SAVEPOINT_NAME = "outlast_handler"


def _tokens(sql: str) -> Iterable[re.Match[str]]:
    place = 0
    while (found := _TOKEN.search(sql, place)) is not None:
        place = _after_comment(sql, found.end()) if found["skip"] == "/*" else found.end()
        yield found


def _after_comment(sql: str, place: int) -> int:
    """Where a comment ends that began before `place`; comments of PostgreSQL may hold comments."""
    depth = 1
    for found in re.compile(r"/\*|\*/").finditer(sql, place):
        depth += 1 if found[0] == "/*" else -1
        if depth == 0:
            return found.end()
    return len(sql)


@lru_cache(maxsize=1024)
def translated(sql: str) -> tuple[str, tuple[str | None, ...]]:
    """The statement with `$1`, `$2` for its `?` or `:name`, and the names in that order (`None` for a `?`).

    One that has `$1` itself is left alone. A question mark that is an operator is written twice.
    """
    tokens = list(_tokens(sql))
    if any(token["number"] for token in tokens):
        return sql, ()
    parts: list[str] = []
    names: list[str | None] = []
    place = 0
    for token in tokens:
        if token["skip"] == "??":
            text = "?"
        elif token["mark"]:
            names.append(None)
            text = f"${len(names)}"
        elif token["name"]:
            if token["name"] not in names:
                names.append(token["name"])
            text = f"${names.index(token['name']) + 1}"
        else:
            continue
        parts += [sql[place : token.start()], text]
        place = token.end()
    return "".join(parts) + sql[place:], tuple(names)


def with_values(sql: str, parameters: Sequence[Any] | Mapping[str, Any]) -> tuple[str, list[Any]]:
    """The statement as PostgreSQL has it, and its parameters in order."""
    if not parameters:
        return sql, []
    text, names = translated(sql)
    if isinstance(parameters, Mapping):
        missing = [name for name in names if name is None or name not in parameters]
        if missing:
            raise Misuse(f"running {sql!r} failed: it has places without a value. Give a mapping with {missing!r}.")
        return text, [parameters[name] for name in names if name is not None]
    if any(name is not None for name in names):
        raise Misuse(f"running {sql!r} failed: its places have names. Give a mapping, or write ? for them.")
    return text, list(parameters)


@lru_cache(maxsize=1024)
def refusal(sql: str) -> str:
    """Why a handler may not run this in the turn's transaction; empty if it may."""
    words: list[str] = []
    for token in _tokens(sql + ";"):
        if token["word"]:
            words.append(token["word"].upper())
        elif token["skip"] and token["skip"].startswith('"'):
            words.append(token["skip"].strip('"').upper())
        elif token["end"]:
            reason = _refusal_of(words)
            if reason:
                return reason
            words = []
    return ""


def _refusal_of(words: Sequence[str]) -> str:
    if not words:
        return ""
    if words[0] in _PARTS and SAVEPOINT_NAME.upper() in words:
        return f"the savepoint {SAVEPOINT_NAME} is the turn's own. Name yours otherwise."
    is_part = words[0] == "ROLLBACK" and "TO" in words[1:4] and "PREPARED" not in words
    if (words[0] in _ENDS and not is_part) or words[:2] == ["PREPARE", "TRANSACTION"]:
        return (
            f"a handler ran {words[0]} on the turn's connection. Its rows commit with the turn, and an exception "
            "undoes them; leave the statement out, or use `async with connection.transaction()` for a part."
        )
    return ""


def refuse_ending(sql: str) -> None:
    """Raises `BadHandler` for a statement that would end the turn's transaction."""
    reason = refusal(sql)
    if reason:
        raise BadHandler(reason)


class PostgresStatements:
    """What a handler may do in the turn's transaction."""

    __slots__ = ("connection",)

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def execute(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
        text, values = with_values(sql, parameters)
        rows: list[Any] = await self.connection.fetch(text, *values)
        return rows

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        await self.connection.executemany(translated(sql)[0], [list(row) for row in rows])
