"""From a URL to an engine. The URL is all that changes when a system grows."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from types import ModuleType
from urllib.parse import parse_qs, unquote, urlsplit

from outlast.adapters.broker import BrokerEngine, BrokerInspector
from outlast.adapters.memory import MemoryEngine, MemoryStore
from outlast.adapters.memory_inspector import MemoryInspector
from outlast.adapters.sqlite import SqliteEngine, SqliteInspector
from outlast.adapters.system import SystemWorld
from outlast.errors import BadUrl, Misuse
from outlast.ports import Engine, HasSchema, Inspector, Store, Transport, World

_memories: dict[str, MemoryStore] = {}
"""What `memory://name` means within this process."""


def open_engine(url: str | None, world: World | None = None) -> tuple[Engine, World]:
    """The engine that the URL names, and the world it lives in. Raises `BadUrl` or `Unavailable`.

    * `sqlite:///shop.db` is a file in the working directory, `sqlite:////data/shop.db` an absolute path;
      `?synchronous=normal` trades the last commits before a power cut for speed.
    * `postgresql://user@host/database`; `?schema=outlast` names the schema, `?pool=10` bounds the connections of
      turns, `?synchronous_commit=off` trades the last commits before a crash of the server for speed.
    * `amqp://user:password@host/vhost?store=postgresql://…` is RabbitMQ with a store, which is any of the above and
      the last option; `nats://host?store=…` is NATS JetStream. `?bundle=64` sends up to so many messages in one of
      the broker's.
    * `memory://name` is shared within the process and forgotten with it.
    """
    world = world or SystemWorld()
    if not url:
        raise BadUrl(
            "no engine was named. Give a URL such as sqlite:///shop.db, as an argument or in the environment "
            "variable OUTLAST_URL."
        )
    scheme = urlsplit(url).scheme
    if scheme in _DATABASES:
        return _DATABASES[scheme](url, world), world
    if scheme in _BROKERS:
        address, store = _with_store(url)
        transport, bundle = _BROKERS[scheme](address, world)
        return BrokerEngine(transport, store(world), world, bundle=bundle), world
    known = ", ".join([*_DATABASES, *_BROKERS])
    raise BadUrl(
        f"the engine URL {shown(url)!r} names no engine of this version. Use one of {known}, such as sqlite:///file.db."
    )


def inspector_of(engine: Engine) -> Inspector:
    """What operators use to look into this engine."""
    if isinstance(engine, SqliteEngine):
        return SqliteInspector(engine)
    if isinstance(engine, MemoryEngine):
        return MemoryInspector(engine)
    if isinstance(engine, BrokerEngine):
        return BrokerInspector(engine, inspector_of(engine.store))
    module = sys.modules.get("outlast.adapters.postgres")
    if module is not None and isinstance(engine, module.PostgresEngine):
        inspector: Inspector = module.PostgresInspector(engine)
        return inspector
    raise Misuse(f"{type(engine).__name__} cannot be inspected.")


def schema_of(engine: Engine) -> HasSchema | None:
    """Whose tables may have to be made by an administrator: the engine itself, or a broker's store."""
    holder = engine.store if isinstance(engine, BrokerEngine) else engine
    return holder if isinstance(holder, HasSchema) else None


def patience_of(engine: Engine) -> timedelta | None:
    """How long a broker waits before it hands over again what was not acknowledged; `None` if there is no broker."""
    return engine.transport.patience if isinstance(engine, BrokerEngine) else None


def shown(url: str) -> str:
    """The URL without its passwords."""
    return re.sub(r"(://[^/@:?]*):[^/@]*@", r"\1:***@", url)


def _memory(url: str, world: World) -> Store:
    return MemoryEngine(_memories.setdefault(urlsplit(url).netloc, MemoryStore()), world)


def _sqlite(url: str, world: World) -> Store:
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    synchronous = options.pop("synchronous", ["full"])[-1].upper()
    if synchronous not in ("FULL", "NORMAL", "EXTRA") or options or parts.netloc or len(parts.path) < 2:
        raise BadUrl(
            f"the engine URL {url!r} cannot be used. Write sqlite:///file.db or sqlite:////absolute/file.db, "
            "with ?synchronous=full (the default), normal or extra."
        )
    return SqliteEngine(Path(parts.path[1:]), world, synchronous=synchronous)


def _postgres(url: str, world: World) -> Store:
    store: Store = _extra("postgres", "asyncpg", "PostgreSQL").PostgresEngine(url, world)
    return store


def _rabbitmq(url: str, world: World) -> tuple[Transport, int]:
    transport = _extra("rabbitmq", "pika", "RabbitMQ").RabbitMQTransport(url, world)
    return transport, transport.bundle


def _nats(url: str, world: World) -> tuple[Transport, int]:
    transport = _extra("nats", "nats", "NATS").NatsTransport(url, world)
    return transport, transport.bundle


def _extra(name: str, library: str, product: str) -> ModuleType:
    """An adapter whose library is not installed unless asked for."""
    try:
        return import_module(f"outlast.adapters.{name}")
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise BadUrl(
            f"{product} was asked for, and its library {library} is not installed. Run: pip install 'outlast[{name}]'"
        ) from error


def _with_store(url: str) -> tuple[str, Callable[[World], Store]]:
    """The broker's part of the URL, and what opens its store."""
    found = re.search(r"[?&]store=", url)
    address, store = (url[: found.start()], url[found.end() :]) if found else (url, "")
    if "://" not in store:
        store = unquote(store)
    scheme = urlsplit(store).scheme
    if scheme not in _DATABASES:
        raise BadUrl(
            f"the engine URL {shown(url)!r} does not say where state is kept, which no broker does. Write the URL of "
            "a database as its last option: ?store=postgresql://user@host/database, or ?store=sqlite:///file.db."
        )
    return address, lambda world: _DATABASES[scheme](store, world)


_DATABASES: Mapping[str, Callable[[str, World], Store]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "postgresql": _postgres,
    "postgres": _postgres,
}
_BROKERS: Mapping[str, Callable[[str, World], tuple[Transport, int]]] = {
    "amqp": _rabbitmq,
    "amqps": _rabbitmq,
    "nats": _nats,
    "tls": _nats,
}
