"""From a URL to an engine. The URL is all that changes when a system grows."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlencode, urlsplit

from outlast.adapters.memory import MemoryEngine, MemoryStore
from outlast.adapters.memory_inspector import MemoryInspector
from outlast.adapters.sqlite import SqliteEngine, SqliteInspector
from outlast.adapters.system import SystemWorld
from outlast.errors import BadUrl, Misuse
from outlast.ports import Engine, Inspector, World

_stores: dict[str, MemoryStore] = {}
"""What `memory://name` means within this process."""


def open_engine(url: str | None, world: World | None = None) -> tuple[Engine, World]:
    """The engine that the URL names, and the world it lives in. Raises `BadUrl` or `Unavailable`.

    `sqlite:///shop.db` is a file in the working directory, `sqlite:////data/shop.db` an absolute path;
    `?synchronous=normal` trades the last commits before a power cut for speed. `memory://name` is shared
    within the process and forgotten with it. `postgresql://user@host/database` is a PostgreSQL database;
    `?schema=outlast` names the schema, `?pool=10` bounds the connections of turns, `?synchronous_commit=off` trades
    the last commits before a crash of the server for speed.
    """
    world = world or SystemWorld()
    if not url:
        raise BadUrl(
            "no engine was named. Give a URL such as sqlite:///shop.db, as an argument or in the environment "
            "variable OUTLAST_URL."
        )
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return MemoryEngine(_stores.setdefault(parts.netloc, MemoryStore()), world), world
    if parts.scheme == "sqlite":
        options = parse_qs(parts.query)
        synchronous = options.pop("synchronous", ["full"])[-1].upper()
        if synchronous not in ("FULL", "NORMAL", "EXTRA") or options or parts.netloc or len(parts.path) < 2:
            raise BadUrl(
                f"the engine URL {url!r} cannot be used. Write sqlite:///file.db or sqlite:////absolute/file.db, "
                "with ?synchronous=full (the default), normal or extra."
            )
        return SqliteEngine(Path(parts.path[1:]), world, synchronous=synchronous), world
    if parts.scheme in ("postgresql", "postgres"):
        return _open_postgres(parts, world), world
    raise BadUrl(
        f"the engine URL {url!r} names no engine of this version. Use memory://, sqlite:///file.db or "
        "postgresql://user@host/database."
    )


def _open_postgres(parts: SplitResult, world: World) -> Engine:
    try:
        from outlast.adapters.postgres import PostgresEngine
    except ImportError as error:
        raise BadUrl(
            "PostgreSQL needs its driver, which is not installed. Run: pip install 'outlast[postgres]'"
        ) from error
    options = parse_qs(parts.query, keep_blank_values=True)
    schema = options.pop("schema", ["outlast"])[-1]
    pool = options.pop("pool", ["10"])[-1]
    synchronous = options.pop("synchronous_commit", ["on"])[-1]
    where = f"{parts.netloc.rpartition('@')[2]}{parts.path}"
    if not schema or not pool.isdigit() or not int(pool) or synchronous not in ("on", "off", "local"):
        raise BadUrl(
            f"the options {parts.query!r} of the database {where} cannot be used. Write ?schema=name, ?pool=10, "
            "?synchronous_commit=on, off or local; others are the driver's, such as ?sslmode=require."
        )
    dsn = parts._replace(query=urlencode(options, doseq=True)).geturl()
    return PostgresEngine(dsn, world, where=where, schema=schema, pool=int(pool), synchronous_commit=synchronous)


def inspector_of(engine: Engine) -> Inspector:
    """What operators use to look into this engine."""
    if isinstance(engine, SqliteEngine):
        return SqliteInspector(engine)
    if isinstance(engine, MemoryEngine):
        return MemoryInspector(engine)
    if "outlast.adapters.postgres" in sys.modules:
        from outlast.adapters.postgres import PostgresEngine, PostgresInspector

        if isinstance(engine, PostgresEngine):
            return PostgresInspector(engine)
    raise Misuse(f"{type(engine).__name__} cannot be inspected.")
