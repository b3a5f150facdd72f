"""What of the server matters: its version, settings, room, rights and clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from outlast.ports import Finding

OLDEST = 130_000
CLOCKS_SECONDS = 5.0
OPEN_SECONDS = 300.0
PLACES = 10

FACTS = """
    SELECT current_setting('server_version_num')::integer, current_setting('server_version'),
        current_setting('fsync') = 'on' AND current_setting('full_page_writes') = 'on',
        current_setting('synchronous_commit'), clock_timestamp(),
        current_setting('max_connections')::integer - (SELECT count(*) FROM pg_stat_activity)::integer,
        (SELECT extract(epoch FROM clock_timestamp() - min(xact_start))::float8 FROM pg_stat_activity
            WHERE pid <> pg_backend_pid()),
        pg_is_in_recovery(),
        NOT EXISTS (SELECT 1 FROM pg_class c WHERE c.relnamespace = to_regnamespace($1) AND c.relkind = 'r'
            AND c.relname <> 'schema_version' AND NOT (has_table_privilege(c.oid, 'SELECT')
            AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')
            AND has_table_privilege(c.oid, 'DELETE')))"""


def findings(facts: Sequence[Any], now: datetime) -> list[Finding]:
    """What these facts mean."""
    number, version, is_safe, synchronous, clock, room, longest, is_copy, has_rights = facts
    apart = abs((clock - now).total_seconds())
    return [
        Finding(
            what="PostgreSQL",
            is_good=number >= OLDEST and not is_copy,
            seen=f"{version}{', a copy that cannot be written to' if is_copy else ''}",
            advice="Use version 13 or newer, and the primary server, not one of its copies.",
        ),
        Finding(
            what="durability",
            is_good=is_safe and synchronous not in ("off", "local"),
            seen=f"synchronous_commit={synchronous}, fsync and full_page_writes {'on' if is_safe else 'not both on'}",
            advice="What was committed last may be lost when the server stops. Switch them on unless you mean it.",
        ),
        Finding(
            what="rights",
            is_good=has_rights,
            seen="all that is needed" if has_rights else "some table cannot be read or written",
            advice="Run the GRANTs that `outlast migrate --sql` prints.",
        ),
        Finding(
            what="connections",
            is_good=room >= PLACES,
            seen=f"room for {room} more",
            advice="Raise max_connections, or let processes have fewer with ?pool= in the URL.",
        ),
        Finding(
            what="open transactions",
            is_good=longest is None or longest < OPEN_SECONDS,
            seen="none" if longest is None else f"the oldest for {longest:.0f} s",
            advice="Nothing that was deleted since then can be reused. See pg_stat_activity for whose it is.",
        ),
        Finding(
            what="clocks",
            is_good=apart < CLOCKS_SECONDS,
            seen=f"{apart:.1f} s apart from the server's",
            advice="Let both machines take their time from the network: timers follow the clocks of the workers.",
        ),
    ]
