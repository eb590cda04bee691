"""The SQL of hosts. Each host has one row in the table `journal`."""

from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.charging.ledger.model import Host, Release

HOSTS_NAMED_MAX: Final = 1000
# A host that was not seen for this long counts as dead: its requests in flight do not count for limits.
HOST_SILENT_S: Final = 10.0
# A silent host can be a stopped one that resumes later, so it belongs to the fleet for this long.
HOST_REMEMBERED_S: Final = 86_400.0


def report_release(connection: Connection, journal_id: UUID, release: Release) -> None:
    """Store the release that a host runs, when the host starts."""
    connection.execute(
        """UPDATE journal SET release = %(release)s, release_schema = %(schema)s,
               release_since = CASE WHEN (release, release_schema) = (%(release)s, %(schema)s) AND (seen_at IS NULL OR release_seen_at = seen_at)
                   THEN release_since ELSE clock_timestamp() END
           WHERE journal_id = %(journal)s""",
        {"journal": journal_id, "release": release.release, "schema": release.schema},
    )


def hosts_alive(connection: Connection, journal_id: UUID) -> int:
    """Store that this host is alive. Returns how many hosts are alive, this one included."""
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
    """The hosts that have not left, by name. Also works on schemas before 0030, which have no release columns."""
    rows = connection.execute(
        """SELECT host, row->>'release', row->>'release_schema', (row->>'release_since')::timestamptz, seen_at,
               seen_at > clock_timestamp() - make_interval(secs => %s), coalesce(row->>'release_seen_at' = row->>'seen_at', false)
           FROM (SELECT host, journal_id, seen_at, to_jsonb(journal) AS row FROM journal WHERE seen_at IS NOT NULL) found
           ORDER BY host, journal_id LIMIT %s""",
        (HOST_SILENT_S, HOSTS_NAMED_MAX),
    ).fetchall()
    return [
        Host(host, Release(release, schema), since, seen_at, alive)
        if reported
        else Host(host, None, None, seen_at, alive)
        for host, release, schema, since, seen_at, alive, reported in rows
    ]


def hosts_of_fleet(connection: Connection) -> list[tuple[UUID, str, datetime]]:
    """(journal, host, last seen) of the hosts that have not left and were seen within `HOST_REMEMBERED_S`."""
    rows = connection.execute(
        """SELECT journal_id, host, seen_at FROM journal WHERE seen_at > clock_timestamp() - make_interval(secs => %s)
           ORDER BY host, journal_id LIMIT %s""",
        (HOST_REMEMBERED_S, HOSTS_NAMED_MAX),
    ).fetchall()
    return [(row[0], str(row[1]), row[2]) for row in rows]


def host_leaves(connection: Connection, journal_id: UUID) -> None:
    """Store that a host shuts down in order, so that no other host waits for it."""
    connection.execute("UPDATE journal SET seen_at = NULL WHERE journal_id = %s", (journal_id,))
