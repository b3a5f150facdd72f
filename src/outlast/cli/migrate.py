"""`outlast migrate`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import click

from outlast.cli.errors import DONE
from outlast.cli.loading import load_services
from outlast.cli.output import print_json
from outlast.cli.settings import Given, apps_of, options, url_of
from outlast.engines import open_engine, schema_of, shown
from outlast.errors import Misuse
from outlast.ports import HasSchema
from outlast.runtime.service import Service


@click.command("migrate")
@click.option("--sql", "as_sql", is_flag=True, help="Print the SQL that makes the tables, and change nothing.")
@click.option("--topology", is_flag=True, help="Make the queues and subscriptions of the services at the broker, too.")
@options(apps=True)
def migrate_command(given: Given, as_sql: bool, topology: bool) -> int:
    """Make the tables in a PostgreSQL database, or bring them up to date.

    Services do so by themselves when they start, if their user may. Where it may not, somebody who may runs this once,
    or what --sql prints; and with --topology and --app makes what the services need at a broker.
    """
    url = url_of(given.url)
    services = load_services(apps_of(given.apps)) if topology else []
    done = asyncio.run(_sql(url) if as_sql else _migrate(url, services))
    if given.as_json:
        print_json({"sql": done} if as_sql else {"migrated": True, "topology": [service.name for service in services]})
    else:
        click.echo(done)
    return DONE


async def _sql(url: str) -> str:
    engine, _ = open_engine(url)
    try:
        return _schema(schema_of(engine), url).schema_sql()
    finally:
        await engine.close()


async def _migrate(url: str, services: Sequence[Service]) -> str:
    engine, _ = open_engine(url)
    try:
        schema = schema_of(engine)
        if schema is not None or not services:
            await _schema(schema, url).migrate()
        for service in services:
            await engine.declare(service.name, service.routes.topics)
    finally:
        await engine.close()
    made = f", and what {', '.join(service.name for service in services)} need at the broker" if services else ""
    return f"the tables are up to date{made}"


def _schema(schema: HasSchema | None, url: str) -> HasSchema:
    if schema is None:
        raise Misuse(f"{shown(url)!r} has no tables that anybody has to make. Name a PostgreSQL database with --url.")
    return schema
