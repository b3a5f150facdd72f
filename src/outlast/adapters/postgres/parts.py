"""What a commit writes, as parts of one statement: one round trip, however much there is.

The parts run side by side on one snapshot, so none sees what another does. Each gives a number of rows back, and
those that must change a certain number of rows are compared with it afterwards.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_PLACE = re.compile(r"\$(\d+)")

PARTS = {
    "handled": """
        DELETE FROM outlast.messages
        WHERE queue = $2::integer AND id = ANY($1::text::bigint[]) AND count = $3::integer RETURNING id, packet""",
    "claimed": """
        UPDATE outlast.messages SET count = count + 1, claimed_until = $4::bigint, owner = $5::bigint
        WHERE queue = $2::integer AND id = ANY($1::text::bigint[]) AND count = $3::integer RETURNING 1""",
    "renewed": """
        UPDATE outlast.messages SET claimed_until = $4::bigint
        WHERE queue = $2::integer AND id = ANY($1::text::bigint[]) AND count = $3::integer RETURNING 1""",
    "released": """
        UPDATE outlast.messages SET count = count - 1, claimed_until = NULL, owner = NULL
        WHERE queue = $2::integer AND id = ANY($1::text::bigint[]) AND count = $3::integer RETURNING 1""",
    "seen": """
        INSERT INTO outlast.inbox (queue, id, at) SELECT $2::integer, id, $3::bigint FROM unnest($1::text[]) AS s (id)
        ON CONFLICT DO NOTHING RETURNING 1""",
    "tried": """
        INSERT INTO outlast.tries AS t (queue, id, count, at)
        SELECT $2::integer, id, 1, $3::bigint FROM unnest($1::text[]) AS s (id)
        ON CONFLICT (queue, id) DO UPDATE SET count = t.count + 1, at = excluded.at RETURNING 1""",
    "untried": """
        DELETE FROM outlast.tries WHERE queue = $2::integer AND id = ANY($1::text[]) RETURNING 1""",
    "begun": """
        INSERT INTO outlast.instances
            (workflow, version, done, started_at, changed_at, keep_until, key, conversation, state)
        SELECT s.workflow, 1, s.done, $7::bigint, $7::bigint, s.keep_until, s.key, s.conversation, s.state
        FROM unnest($1::text::integer[], $2::text[], $3::text::boolean[], $4::text[], $5::text::bigint[], $6::bytea[])
            AS s (workflow, key, done, conversation, keep_until, state)
        ON CONFLICT DO NOTHING RETURNING 1""",
    "changed": """
        UPDATE outlast.instances i
        SET version = i.version + 1, done = s.done, changed_at = $7::bigint, keep_until = s.keep_until, state = s.state
        FROM unnest($1::text::integer[], $2::text[], $3::text::integer[], $4::text::boolean[], $5::text::bigint[],
            $6::bytea[]) AS s (workflow, key, version, done, keep_until, state)
        WHERE i.key = s.key AND i.workflow = s.workflow AND i.version = s.version RETURNING 1""",
    "stashed": """
        INSERT INTO outlast.stash (workflow, at, until, key, packet)
        SELECT s.workflow, $5::bigint, s.until, s.key, s.packet
        FROM unnest($1::text::integer[], $2::text[], $3::text::bigint[], $4::bytea[])
            AS s (workflow, key, until, packet)
        WHERE NOT EXISTS (SELECT 1 FROM outlast.instances i WHERE i.key = s.key AND i.workflow = s.workflow)
        RETURNING 1""",
    "unstashed": """
        DELETE FROM outlast.stash s
        USING unnest($1::text::integer[], $2::text[], $3::text::integer[]) AS b (workflow, key, queue)
        WHERE (SELECT EXISTS (SELECT 1 FROM outlast.stash)) AND s.key = b.key AND s.workflow = b.workflow
        RETURNING s.id AS n, b.queue, s.packet""",
    "posted": """
        INSERT INTO outlast.messages (queue, packet)
        SELECT coalesce(p.queue, t.queue), p.packet
        FROM unnest($1::text::integer[], $2::text[], $3::bytea[]) WITH ORDINALITY AS p (queue, topic, packet, n)
        LEFT JOIN outlast.topics t ON p.queue IS NULL AND t.topic = p.topic
        WHERE coalesce(p.queue, t.queue) IS NOT NULL ORDER BY p.n RETURNING queue""",
    "sent": """
        INSERT INTO outlast.messages (queue, packet)
        SELECT p.queue, p.packet FROM unnest($1::text::integer[], $2::bytea[]) AS p (queue, packet) RETURNING queue""",
    "returned": """
        INSERT INTO outlast.messages (queue, packet) SELECT queue, packet FROM unstashed ORDER BY n RETURNING queue""",
    "outboxed": """
        INSERT INTO outlast.messages (queue, packet, count, claimed_until)
        VALUES ($1::integer, $2::bytea, 1, $3::bigint) RETURNING id""",
    "dated": """
        INSERT INTO outlast.dated (due, id, queue, topic, packet)
        SELECT * FROM unnest($1::text::bigint[], $2::text[], $3::text[], $4::text[], $5::bytea[])
        ON CONFLICT (due, id) DO UPDATE SET queue = excluded.queue, topic = excluded.topic, packet = excluded.packet
        RETURNING 1""",
    "withdrawn": """
        DELETE FROM outlast.dated d USING unnest($1::text::bigint[], $2::text[]) AS w (due, id)
        WHERE d.due = w.due AND d.id = w.id RETURNING 1""",
    "replied": """
        INSERT INTO outlast.replies (request, at, packet) SELECT r.request, $3::bigint, r.packet
        FROM unnest($1::text[], $2::bytea[]) AS r (request, packet)
        ON CONFLICT (request) DO UPDATE SET at = excluded.at, packet = excluded.packet RETURNING 1""",
    "dead": """
        INSERT INTO outlast.dead (id, status, service, packet, letter)
        SELECT d.id, 'open', d.service, d.packet, d.letter
        FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[]) AS d (id, service, packet, letter) RETURNING 1""",
    "unsynced": """
        SELECT set_config('synchronous_commit', 'off', true)""",
    "history": """
        INSERT INTO outlast.history (service, at, marks, entries)
        VALUES ($1::text, $2::bigint, $3::text::integer[], $4::bytea) RETURNING 1""",
    "history_of_handled": """
        INSERT INTO outlast.history (service, at, marks, entries, ids, packets)
        SELECT $1::text, $2::bigint, $3::text::integer[], $4::bytea, array_agg(id), array_agg(packet)
        FROM handled RETURNING 1""",
}

RINGING = frozenset({"posted", "sent", "returned"})
"""Parts that put messages into queues, and say into which."""


@lru_cache(maxsize=512)
def combined(names: tuple[str, ...], counts: tuple[int, ...]) -> str:
    """One statement of these parts, which have so many values each; a column for each part, in order.

    Where a part is there several times, the others refer to the first by its name.
    """
    texts: list[str] = []
    columns: list[str] = []
    offset = 0
    for place, (name, count) in enumerate(zip(names, counts, strict=True)):
        alias = name if name not in names[:place] else f"{name}_{place}"
        texts.append(f"{alias} AS ({_moved(PARTS[name], offset)})")
        column = "array_agg(DISTINCT queue)" if name in RINGING else "max(id)" if name == "outboxed" else "count(*)"
        columns.append(f"(SELECT {column} FROM {alias})")
        offset += count
    return f"WITH {', '.join(texts)} SELECT {', '.join(columns)}"


def _moved(text: str, offset: int) -> str:
    """The text with its places so much further on."""
    return _PLACE.sub(lambda found: f"${int(found[1]) + offset}", text)


class Parts:
    """The parts of one commit, gathered."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._counts: list[int] = []
        self.values: list[Any] = []
        self._expected: list[int | None] = []

    def __bool__(self) -> bool:
        return bool(self._names)

    @property
    def can_be_refused(self) -> bool:
        """Whether it may turn out, after it has run, that it must not have happened."""
        return any(expected is not None for expected in self._expected)

    def add(self, name: str, *values: Any, expects: int | None = None) -> None:
        """Adds a part with its values; `expects` rows must change."""
        self._names.append(name)
        self._counts.append(len(values))
        self._expected.append(expects)
        self.values += values

    @property
    def statement(self) -> str:
        return combined(tuple(self._names), tuple(self._counts))

    def refused(self, row: Any) -> str:
        """The part that did not change what it had to; empty if all did."""
        for name, expected, changed in zip(self._names, self._expected, row, strict=True):
            if expected is not None and changed != expected:
                return name
        return ""

    def rung(self, row: Any) -> set[int]:
        """The queues that messages were put into."""
        pairs = zip(self._names, row, strict=True)
        return {queue for name, found in pairs if name in RINGING for queue in found or ()}
