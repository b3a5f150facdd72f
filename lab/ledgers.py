"""Reading the ledgers from outside, with drivers of its own, when a run is over or while it goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import psycopg

from lab.audit import Entry, Ledgers, Row


def read_ledgers(books: Mapping[str, str]) -> Ledgers:
    """What the services have written down; `books` has the URL of each one's database."""
    return Ledgers(
        orders=[Row(*row) for row in _read(books["ordering"], "SELECT order_id, total, status, at FROM orders")],
        payments=[
            Entry(*row)
            for row in _read(books["payment"], "SELECT order_id, kind, amount, at FROM payments ORDER BY at")
        ],
        shipments=[
            Entry(id, "shipment", "", at) for id, at in _read(books["warehouse"], "SELECT order_id, at FROM shipments")
        ],
    )


def _read(url: str, sql: str) -> list[tuple[Any, ...]]:
    if url.startswith("sqlite:"):
        with closing(sqlite3.connect(urlsplit(url).path[1:], timeout=10)) as connection:
            return connection.execute(sql).fetchall()
    with psycopg.connect(url, connect_timeout=5) as connection:
        return connection.execute(sql.encode()).fetchall()
