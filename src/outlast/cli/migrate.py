"""`outlast migrate`."""

from __future__ import annotations

import asyncio

import click

from outlast.cli.errors import DONE
from outlast.cli.output import print_json
from outlast.cli.settings import Given, options, url_of
from outlast.engines import open_engine
from outlast.errors import Misuse
from outlast.ports import HasSchema


@click.command("migrate")
@click.option("--sql", "as_sql", is_flag=True, help="Print the SQL that makes the tables, and change nothing.")
@options()
def migrate_command(given: Given, as_sql: bool) -> int:
    """Make the tables in a PostgreSQL database, or bring them up to date.

    Services do so by themselves when they start, if their user may. Where it may not, somebody who may runs this once,
    or what --sql prints.
    """
    done = asyncio.run(_migrate(url_of(given.url), as_sql))
    if given.as_json:
        print_json({"sql": done} if as_sql else {"migrated": True})
    else:
        click.echo(done or "the tables are up to date")
    return DONE


async def _migrate(url: str | None, as_sql: bool) -> str:
    """Migrates, or returns the SQL."""
    engine, _ = open_engine(url)
    try:
        if not isinstance(engine, HasSchema):
            raise Misuse(f"{url!r} has no tables that anybody has to make. Name a PostgreSQL database with --url.")
        if as_sql:
            return engine.schema_sql()
        await engine.migrate()
        return ""
    finally:
        await engine.close()
