"""The tables, how they are made and brought up to date, and how a connection is opened.

A queue is a log with a head. A message is appended and never changed; that it was handled is the head moving past
it. What the head passed over is listed one by one in `outlast_open`: claimed deliveries, and those left for
later. So a message is written once, its cost does not grow with what is waiting, and the log is kept as history.
Times are whole microseconds since 1970-01-01 UTC.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from weakref import ref

from outlast.errors import Misuse, Unavailable

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE outlast_queues (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        head INTEGER NOT NULL DEFAULT 0     -- up to here every message is handled, or listed in outlast_open
    );
    CREATE TABLE outlast_open (
        queue INTEGER NOT NULL,
        id INTEGER NOT NULL,
        count INTEGER NOT NULL,             -- how often it was handed over
        claimed_until INTEGER,
        owner INTEGER,                      -- the number in the name of the claiming process's FIFO
        PRIMARY KEY (queue, id)
    ) WITHOUT ROWID;
    CREATE TABLE outlast_topics (
        topic TEXT NOT NULL,
        queue INTEGER NOT NULL,
        PRIMARY KEY (topic, queue)
    ) WITHOUT ROWID;
    CREATE TABLE outlast_dated (
        due INTEGER NOT NULL,
        id TEXT NOT NULL,
        queue TEXT NOT NULL,
        topic TEXT NOT NULL,
        packet BLOB NOT NULL CHECK (typeof(packet) = 'blob'),
        PRIMARY KEY (due, id)
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE outlast_workflows (
        id INTEGER PRIMARY KEY,
        service TEXT NOT NULL,
        name TEXT NOT NULL,
        UNIQUE (service, name)
    );
    CREATE TABLE outlast_instances (
        id INTEGER PRIMARY KEY,             -- in order of beginning, so that live rows lie together
        workflow INTEGER NOT NULL,
        key TEXT NOT NULL,
        version INTEGER NOT NULL,
        done INTEGER NOT NULL,
        conversation TEXT NOT NULL,
        started_at INTEGER NOT NULL,
        changed_at INTEGER NOT NULL,
        keep_until INTEGER,
        state BLOB NOT NULL
    );
    CREATE UNIQUE INDEX outlast_instances_key ON outlast_instances (key, workflow);
    CREATE INDEX outlast_instances_keep ON outlast_instances (keep_until) WHERE keep_until IS NOT NULL;
    CREATE TABLE outlast_stash (
        id INTEGER PRIMARY KEY,
        workflow INTEGER NOT NULL,
        key TEXT NOT NULL,
        until INTEGER NOT NULL,
        packet BLOB NOT NULL
    );
    CREATE INDEX outlast_stash_key ON outlast_stash (key, workflow);
    CREATE INDEX outlast_stash_until ON outlast_stash (until);
    CREATE TABLE outlast_dead (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        status TEXT NOT NULL,
        service TEXT NOT NULL,
        packet BLOB NOT NULL,
        letter BLOB NOT NULL                -- everything but the packet, as JSON
    );
    CREATE INDEX outlast_dead_open ON outlast_dead (service) WHERE status = 'open';
    CREATE TABLE outlast_history (           -- one row per turn; see history.py
        number INTEGER PRIMARY KEY,
        queue INTEGER NOT NULL,
        oldest INTEGER NOT NULL,            -- the first message of its queue's log that it refers to
        at INTEGER NOT NULL,
        marks BLOB NOT NULL,
        entries BLOB NOT NULL
    );
    CREATE TABLE outlast_replies (
        request TEXT PRIMARY KEY,
        at INTEGER NOT NULL,
        packet BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE outlast_sent (              -- ids that callers gave, so that a repeated call sends once
        id TEXT PRIMARY KEY,
        at INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX outlast_sent_at ON outlast_sent (at);
    """,
    """
    CREATE INDEX outlast_history_oldest ON outlast_history (queue, oldest) WHERE oldest > 0;
    """,
    """
    CREATE TABLE outlast_inbox (             -- messages of a broker that a turn has handled
        queue INTEGER NOT NULL,
        id TEXT NOT NULL,
        at INTEGER NOT NULL,
        PRIMARY KEY (queue, id)
    ) WITHOUT ROWID;
    CREATE INDEX outlast_inbox_at ON outlast_inbox (at);
    CREATE TABLE outlast_tries (             -- how often those were tried that may have killed a process
        queue INTEGER NOT NULL,
        id TEXT NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (queue, id)
    ) WITHOUT ROWID;
    """,
)

QUEUE = """
    CREATE TABLE outlast_log_{id} (
        id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again, so that an old claim fits no new message
        packet BLOB NOT NULL
    ) STRICT;                                  -- so that whatever others write into it can at least be read
    CREATE VIEW outlast_queue_{id} AS
        SELECT o.id, l.packet, o.count, o.claimed_until, o.owner
        FROM outlast_open o JOIN outlast_log_{id} l ON l.id = o.id WHERE o.queue = {id}
        UNION ALL
        SELECT l.id, l.packet, 0, NULL, NULL
        FROM outlast_log_{id} l WHERE l.id > (SELECT head FROM outlast_queues WHERE id = {id});
"""


MOVED = 1_000_000
"""The version of a file that was left for another engine."""

# What was prepared once is run again without asking the authorizer, so our own statements have texts that nobody
# else's have.
BEGIN, COMMIT, ROLLBACK, SAVEPOINT, ROLLBACK_TO, RELEASE = (
    f"{statement} /* the turn's own */"
    for statement in (
        "BEGIN IMMEDIATE",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT outlast_handler",
        "ROLLBACK TO outlast_handler",
        "RELEASE outlast_handler",
    )
)


class SharedConnection(sqlite3.Connection):
    """The engine's connection, as a handler may be given it: statements yes, ending the turn's transaction no.

    `with connection:` is a part of the transaction that an exception undoes; it commits nothing.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.is_lent = False
        """A handler has it now."""
        self._cursors: list[ref[sqlite3.Cursor]] = []
        self.set_authorizer(self._authorize)

    def lend(self) -> None:
        """Lets a handler have it."""
        self.is_lent = True
        self.cursor, self.execute = self._lent_cursor, self._lent_execute  # type: ignore[method-assign]

    def take_back(self) -> None:
        """Ends the handler's use of it: how it reads rows is ours again, and no statement goes on.

        A statement that is not read to its end keeps a snapshot, from which no later transaction could write.
        """
        self.is_lent = False
        del self.cursor, self.execute
        for known in self._cursors:
            if (cursor := known()) is not None:
                cursor.close()
        self._cursors = []
        self.row_factory, self.text_factory = None, str

    def _lent_cursor(self, *args: Any, **options: Any) -> Any:
        return self._known(super().cursor(*args, **options))

    def _lent_execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        return self._known(super().execute(sql, parameters))

    def _known(self, cursor: sqlite3.Cursor) -> sqlite3.Cursor:
        if len(self._cursors) % 1000 == 999:
            self._cursors = [known for known in self._cursors if known() is not None]
        self._cursors.append(ref(cursor))
        return cursor

    def _authorize(self, action: int, operation: str | None, name: str | None, *_: object) -> int:
        if self.is_lent and (
            action == sqlite3.SQLITE_TRANSACTION
            or (action == sqlite3.SQLITE_SAVEPOINT and (name or "").startswith("outlast_"))
        ):
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    def commit(self) -> None:
        raise Misuse(
            "a handler called commit() on the turn's connection. Its rows commit with the turn, when the handler "
            "returns; leave commit() out."
        )

    def rollback(self) -> None:
        raise Misuse(
            "a handler called rollback() on the turn's connection. Raise an exception to have its rows undone."
        )

    def close(self) -> None:
        raise Misuse("a handler called close() on the turn's connection. It belongs to the worker; leave it open.")

    def __enter__(self) -> SharedConnection:
        self.execute("SAVEPOINT part")
        return self

    def __exit__(self, *error: object) -> None:  # type: ignore[override]  # never swallows, never commits
        if error[0] is not None:
            self.execute("ROLLBACK TO part")
        self.execute("RELEASE part")

    def really_close(self) -> None:
        """Closes it, for its owner."""
        super().close()


def connect(path: Path, *, synchronous: str) -> SharedConnection:
    """A connection in WAL mode to an existing or new file, its schema up to date."""
    try:
        connection = sqlite3.connect(
            path,
            isolation_level=None,
            cached_statements=512,
            factory=SharedConnection,
            check_same_thread=False,
        )
        connection.execute("PRAGMA busy_timeout = 10000")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        migrate(connection, path)
        # From here on the engine waits for the lock by itself: SQLite's own waiting can starve a process.
        connection.execute("PRAGMA busy_timeout = 0")
    except sqlite3.DatabaseError as error:
        raise Unavailable(
            f"opening {path} failed: {error}. It must be a SQLite file (or not exist yet) in a folder that can be "
            "written to, on a local disk."
        ) from error
    return connection


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Brings the schema up to date. Several processes may do so at once: one does it, the others wait."""
    if _version(connection) == len(MIGRATIONS):
        return
    connection.execute(BEGIN)
    try:
        version = _version(connection)
        if version == MOVED:
            raise Unavailable(moved(connection, path))
        if version > len(MIGRATIONS):
            raise Unavailable(
                f"{path} has schema version {version}, and this outlast knows versions up to {len(MIGRATIONS)}. "
                "A newer outlast has written it; install that one."
            )
        for statements in MIGRATIONS[version:]:
            run_script(connection, statements)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute(COMMIT)
    except BaseException:
        connection.execute(ROLLBACK)
        raise


def moved(connection: sqlite3.Connection, path: Path) -> str:
    """What to say to who opens a file that was left."""
    [[url]] = connection.execute("SELECT url FROM outlast_moved")
    return (
        f"{path} was left for {url} by `outlast move`, and nothing runs on it any more. Use that URL. If the move was "
        "interrupted, run the same command once more."
    )


def run_script(connection: sqlite3.Connection, statements: str) -> None:
    """Runs several statements inside the transaction (`executescript` would commit it)."""
    statement = ""
    for line in statements.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


@contextmanager
def plainly(connection: sqlite3.Connection) -> Generator[None]:
    """Lets us read rows of text, however the connection's owner reads them."""
    factories = connection.row_factory, connection.text_factory
    connection.row_factory, connection.text_factory = None, str
    try:
        yield
    finally:
        connection.row_factory, connection.text_factory = factories


def micros(at: datetime) -> int:
    """A point in time as the tables have it."""
    return (at - _EPOCH) // _MICROSECOND


def moment(stored: int) -> datetime:
    """The point in time that the tables have as this number."""
    return _EPOCH + timedelta(microseconds=stored)
