"""The URL of a database: what of it is ours, and what is the driver's."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, urlencode, urlsplit

from outlast.errors import BadUrl


@dataclass(frozen=True, slots=True)
class Options:
    """What a URL says."""

    dsn: str
    """For the driver."""
    where: str
    """For people, without a password."""
    schema: str
    pool: int
    synchronous_commit: str


def options_of(url: str) -> Options:
    """Raises `BadUrl`."""
    parts = urlsplit(url)
    others = parse_qs(parts.query, keep_blank_values=True)
    schema = others.pop("schema", ["outlast"])[-1]
    pool = others.pop("pool", ["10"])[-1]
    synchronous = others.pop("synchronous_commit", ["on"])[-1]
    where = f"{parts.netloc.rpartition('@')[2]}{parts.path}"
    if not schema or not pool.isdigit() or not int(pool) or synchronous not in ("on", "off", "local"):
        raise BadUrl(
            f"the options {parts.query!r} of the database {where} cannot be used. Write ?schema=name, ?pool=10, "
            "?synchronous_commit=on, off or local; others are the driver's, such as ?sslmode=require."
        )
    dsn = parts._replace(query=urlencode(others, doseq=True)).geturl()
    return Options(dsn, where, schema, int(pool), synchronous)
