"""The SQL of hosts: a row for each journal."""

from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.charging.ledger.model import Host, Release

HOSTS_NAMED_MAX: Final = 1000
# A host that was not heard of for so long has no requests in flight that count, and takes no part.
HOST_SILENT_S: Final = 10.0
# One that fell silent may be stopped and go on: it counts as one of the fleet for so long.
HOST_REMEMBERED_S: Final = 86_400.0


def says_release(connection: Connection, journal_id: UUID, release: Release) -> None:
    """A host begins with this release, or goes on with it."""
    connection.execute(
        """UPDATE journal SET release = %(release)s, release_schema = %(schema)s,
               release_since = CASE WHEN (release, release_schema) = (%(release)s, %(schema)s) AND (seen_at IS NULL OR release_seen_at = seen_at)
                   THEN release_since ELSE clock_timestamp() END
           WHERE journal_id = %(journal)s""",
        {"journal": journal_id, "release": release.release, "schema": release.schema},
    )


def hosts_alive(connection: Connection, journal_id: UUID) -> int:
    """How many hosts live, this one included; says that it does."""
    connection.execute(
        """UPDATE journal SET seen_at = now.at, release_seen_at = now.at FROM (SELECT clock_timestamp() AS at) now
           WHERE journal_id = %s""",
        (journal_id,),
    )
    row = connection.execute(
        "SELECT count(*) FROM journal WHERE seen_at > clock_timestamp() - make_interval(secs => %s)",
        (HOST_SILENT_S,),
    ).fetchone()
    return max(1, int(row[0])) if row is not None else 1


def hosts(connection: Connection) -> list[Host]:
    """Those that have not left, by name. On schemas before 0030, too, where none says its release."""
    rows = connection.execute(
        """SELECT host, row->>'release', row->>'release_schema', (row->>'release_since')::timestamptz, seen_at,
               seen_at > clock_timestamp() - make_interval(secs => %s), coalesce(row->>'release_seen_at' = row->>'seen_at', false)
           FROM (SELECT host, journal_id, seen_at, to_jsonb(journal) AS row FROM journal WHERE seen_at IS NOT NULL) found
           ORDER BY host, journal_id LIMIT %s""",
        (HOST_SILENT_S, HOSTS_NAMED_MAX),
    ).fetchall()
    return [
        Host(host, Release(release, schema), since, seen_at, alive)
        if said
        else Host(host, None, None, seen_at, alive)
        for host, release, schema, since, seen_at, alive, said in rows
    ]


def hosts_of_fleet(connection: Connection) -> list[tuple[UUID, str, datetime]]:
    """Those that have not left in order, and were heard of within `HOST_REMEMBERED_S`."""
    rows = connection.execute(
        """SELECT journal_id, host, seen_at FROM journal WHERE seen_at > clock_timestamp() - make_interval(secs => %s)
           ORDER BY host, journal_id LIMIT %s""",
        (HOST_REMEMBERED_S, HOSTS_NAMED_MAX),
    ).fetchall()
    return [(row[0], str(row[1]), row[2]) for row in rows]


def host_leaves(connection: Connection, journal_id: UUID) -> None:
    """It ends in order: nobody waits for it."""
    connection.execute("UPDATE journal SET seen_at = NULL WHERE journal_id = %s", (journal_id,))
