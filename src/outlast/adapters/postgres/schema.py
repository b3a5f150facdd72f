"""The tables, how they are made and brought up to date, and how values are written in them.

All queues are one table, so nothing is made at run time and a user with no more than the rights to read and write
rows can run every service. Times are whole microseconds since 1970-01-01 UTC, and come from the `World`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from outlast.errors import Unavailable

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE outlast.queues (
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text COLLATE "C" NOT NULL UNIQUE
    );
    CREATE TABLE outlast.messages (
        queue integer NOT NULL,
        id bigint GENERATED ALWAYS AS IDENTITY,  -- never used again, so that an old claim fits no new message
        count integer NOT NULL DEFAULT 0,        -- how often it was handed over
        claimed_until bigint,
        owner bigint,                            -- the number of the claiming process in outlast.workers
        packet bytea NOT NULL,
        PRIMARY KEY (queue, id)
    ) WITH (
        fillfactor = 50,                         -- room for a claim on the same page: then no index has to know
        autovacuum_vacuum_threshold = 10000,     -- rows live for a second: what is dead goes early and without pauses
        autovacuum_vacuum_scale_factor = 0,
        autovacuum_vacuum_cost_delay = 0,
        autovacuum_vacuum_insert_threshold = -1,
        autovacuum_analyze_threshold = 1000000   -- the plans do not depend on statistics
    );
    CREATE TABLE outlast.topics (
        topic text COLLATE "C" NOT NULL,
        queue integer NOT NULL,
        PRIMARY KEY (topic, queue)
    );
    CREATE TABLE outlast.dated (
        due bigint NOT NULL,
        id text COLLATE "C" NOT NULL,
        queue text NOT NULL,
        topic text NOT NULL,
        packet bytea NOT NULL,
        PRIMARY KEY (due, id)
    ) WITH (
        autovacuum_vacuum_threshold = 10000,
        autovacuum_vacuum_scale_factor = 0,
        autovacuum_vacuum_cost_delay = 0
    );
    CREATE TABLE outlast.workflows (
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        service text COLLATE "C" NOT NULL,
        name text COLLATE "C" NOT NULL,
        UNIQUE (service, name)
    );
    CREATE TABLE outlast.instances (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- in order of beginning
        workflow integer NOT NULL,
        version integer NOT NULL,
        done boolean NOT NULL,
        started_at bigint NOT NULL,
        changed_at bigint NOT NULL,
        keep_until bigint,
        key text COLLATE "C" NOT NULL,
        conversation text NOT NULL,
        state bytea NOT NULL,
        UNIQUE (key, workflow)
    ) WITH (
        fillfactor = 70,                         -- room for the next version on the same page
        autovacuum_vacuum_scale_factor = 0.02,
        autovacuum_vacuum_cost_delay = 0
    );
    CREATE INDEX instances_keep ON outlast.instances (keep_until) WHERE keep_until IS NOT NULL;
    CREATE TABLE outlast.stash (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        workflow integer NOT NULL,
        at bigint NOT NULL,
        until bigint NOT NULL,
        key text COLLATE "C" NOT NULL,
        packet bytea NOT NULL
    );
    CREATE INDEX stash_key ON outlast.stash (key, workflow);
    CREATE INDEX stash_until ON outlast.stash (until);
    CREATE INDEX stash_at ON outlast.stash (at);
    CREATE TABLE outlast.dead (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id text COLLATE "C" NOT NULL UNIQUE,
        status text COLLATE "C" NOT NULL,
        service text COLLATE "C" NOT NULL,
        packet bytea NOT NULL,
        letter bytea NOT NULL                    -- everything but the packet, as JSON
    );
    CREATE INDEX dead_open ON outlast.dead (number) WHERE status = 'open';
    CREATE TABLE outlast.history (               -- one row per turn; see history.py
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at bigint NOT NULL,
        service text NOT NULL,
        marks integer[] NOT NULL,
        entries bytea NOT NULL,
        ids bigint[],                            -- the messages that the turn consumed, and their packets
        packets bytea[]
    ) WITH (autovacuum_vacuum_scale_factor = 0.02);
    CREATE TABLE outlast.replies (
        request text COLLATE "C" PRIMARY KEY,
        at bigint NOT NULL,
        packet bytea NOT NULL
    );
    CREATE INDEX replies_at ON outlast.replies (at);
    CREATE TABLE outlast.sent (                  -- ids that callers gave, so that a repeated call sends once
        id text COLLATE "C" PRIMARY KEY,
        at bigint NOT NULL
    );
    CREATE INDEX sent_at ON outlast.sent (at);
    CREATE TABLE outlast.inbox (                 -- ids of a broker's messages whose turn is committed
        queue integer NOT NULL,
        id text COLLATE "C" NOT NULL,
        at bigint NOT NULL,
        PRIMARY KEY (queue, id)
    );
    CREATE INDEX inbox_at ON outlast.inbox (at);
    CREATE TABLE outlast.tries (                 -- how often a broker's message was handed over, if more than once
        queue integer NOT NULL,
        id text COLLATE "C" NOT NULL,
        count integer NOT NULL,
        at bigint NOT NULL,
        PRIMARY KEY (queue, id)
    );
    CREATE INDEX tries_at ON outlast.tries (at);
    CREATE UNLOGGED TABLE outlast.workers (      -- processes, and which messages the latest turn of each is about
        number bigint NOT NULL,
        queue integer NOT NULL,
        first bigint NOT NULL,
        last bigint NOT NULL,
        PRIMARY KEY (number, queue)
    ) WITH (fillfactor = 50);
    DO $$
    DECLARE place record;
    BEGIN
        FOR place IN SELECT * FROM (VALUES ('messages', 'packet'), ('history', 'entries'), ('history', 'packets'),
                     ('instances', 'state')) AS places (name, part) LOOP
            EXECUTE format('ALTER TABLE outlast.%I ALTER COLUMN %I SET COMPRESSION lz4', place.name, place.part);
        END LOOP;
    EXCEPTION WHEN OTHERS THEN
        NULL;                                    -- a server before 14, or built without lz4, compresses its own way
    END $$;
    """,
)

GRANTS = """\
-- A user that services run as needs no more than this (put its name for "app"):
-- GRANT USAGE ON SCHEMA outlast TO app;
-- GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA outlast TO app;
"""

_EXISTS = """
    SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1::text AND c.relname = 'schema_version')"""
_HAS_SCHEMA = "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1::text)"
_VERSION = "CREATE TABLE outlast.schema_version (number integer NOT NULL);"


def script(schema: str) -> str:
    """All SQL that makes the schema, for people who let nobody else change theirs."""
    parts = ["BEGIN;", "CREATE SCHEMA outlast;", _VERSION, *(_dedented(text) for text in MIGRATIONS)]
    parts += [f"INSERT INTO outlast.schema_version VALUES ({len(MIGRATIONS)});", "COMMIT;", GRANTS]
    return within(schema, "\n".join(parts)).replace("SCHEMA outlast", f"SCHEMA {quoted(schema)}")


async def prepare(connection: Any, schema: str) -> None:
    """Brings the schema up to date. Several processes may do so at once: one does it, the others wait."""
    if await schema_version_of(connection.fetch, schema) == len(MIGRATIONS):
        return
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", lock_class(schema))
        version = await schema_version_of(connection.fetch, schema)
        if version > len(MIGRATIONS):
            raise Unavailable(
                f"opening the schema {schema!r} failed: it has version {version}, and this outlast knows versions up "
                f"to {len(MIGRATIONS)}. A newer outlast has made it; install that one."
            )
        if version == len(MIGRATIONS):
            return
        if version == 0:
            if not await connection.fetchval(_HAS_SCHEMA, schema):
                await connection.execute(f"CREATE SCHEMA {quoted(schema)}")
            await connection.execute(within(schema, _VERSION))
            await connection.execute(within(schema, "INSERT INTO outlast.schema_version VALUES (0)"))
        for statements in MIGRATIONS[version:]:
            await connection.execute(within(schema, statements))
        await connection.execute(within(schema, "UPDATE outlast.schema_version SET number = $1"), len(MIGRATIONS))


async def schema_version_of(fetch: Callable[..., Awaitable[Sequence[Any]]], schema: str) -> int:
    """The version of the schema; 0 if there is none."""
    # Not `to_regclass`, which within a transaction goes on not to know what another has made.
    [[exists]] = await fetch(_EXISTS, schema)
    if not exists:
        return 0
    [[version]] = await fetch(within(schema, "SELECT max(number) FROM outlast.schema_version"))
    return version or 0


_OURS = re.compile(r"\boutlast\.(?=[a-z])")


@lru_cache(maxsize=1024)
def within(schema: str, sql: str) -> str:
    """The statement with its tables in this schema; statements are written as if it were `outlast`."""
    return sql if schema == "outlast" else _OURS.sub(lambda _: f"{quoted(schema)}.", sql)


def quoted(name: str) -> str:
    """The name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def lock_class(schema: str) -> int:
    """The first half of our advisory locks: those of other schemas and programs are other ones."""
    return zlib.crc32(f"outlast {schema}".encode()) - (1 << 31)


def _dedented(text: str) -> str:
    return re.sub(r"^    ", "", text, flags=re.MULTILINE).strip()


def micros(at: datetime) -> int:
    """A point in time as the tables have it."""
    return (at - _EPOCH) // _MICROSECOND


def moment(stored: int) -> datetime:
    """The point in time that the tables have as this number."""
    return _EPOCH + timedelta(microseconds=stored)


def array(values: Iterable[int | None]) -> str:
    """Numbers as an array's text, to be cast by the statement: the driver would look at each of them several times."""
    return f"{{{','.join([str(value) if value is not None else 'NULL' for value in values])}}}"


def written(text: str) -> str:
    """A text of the user's as the tables have it: PostgreSQL's cannot have a NUL, and a key may."""
    if "\\" in text or "\0" in text:
        return text.replace("\\", "\\\\").replace("\0", "\\0")
    return text


def read(text: str) -> str:
    """The text that was `written`."""
    if "\\" in text:
        return re.sub(r"\\(.)", lambda found: "\0" if found[1] == "0" else found[1], text)
    return text
