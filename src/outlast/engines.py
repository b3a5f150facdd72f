"""From a URL to an engine. The URL is all that changes when a system grows."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

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
    within the process and forgotten with it.
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
    raise BadUrl(f"the engine URL {url!r} names no engine of this version. Use memory:// or sqlite:///file.db.")


def inspector_of(engine: Engine) -> Inspector:
    """What operators use to look into this engine."""
    if isinstance(engine, SqliteEngine):
        return SqliteInspector(engine)
    if isinstance(engine, MemoryEngine):
        return MemoryInspector(engine)
    raise Misuse(f"{type(engine).__name__} cannot be inspected.")
