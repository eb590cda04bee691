"""The SQL of the reports in which hosts say which secrets they have loaded."""

from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow


def report(
    connection: Connection,
    journal_id: UUID,
    peppers: list[int],
    issues_under: int | None,
    wrapping: list[int],
    webhook: bytes | None,
) -> None:
    connection.execute(
        """INSERT INTO host_secrets (journal_id, peppers, issues_under, wrapping, webhook_fingerprint, reported_at)
           VALUES (%s, %s, %s, %s, %s, clock_timestamp())
           ON CONFLICT (journal_id) DO UPDATE SET peppers = excluded.peppers, issues_under = excluded.issues_under,
               wrapping = excluded.wrapping, webhook_fingerprint = excluded.webhook_fingerprint, reported_at = excluded.reported_at""",
        (journal_id, peppers, issues_under, wrapping, webhook),
    )


def reports(connection: Connection, journal_ids: list[UUID]) -> list[TupleRow]:
    return connection.execute(
        """SELECT journal_id, peppers, issues_under, wrapping, webhook_fingerprint FROM host_secrets
           WHERE journal_id = ANY(%s)""",
        (journal_ids,),
    ).fetchall()
