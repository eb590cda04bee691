"""The SQL of marks: buckets whose use has passed a threshold. The database writes a mark in the transaction that settles the use."""

from uuid import UUID

from psycopg import Connection


def take(connection: Connection, limit: int) -> list[tuple[UUID, UUID, int]]:
    """Delete the oldest marks in the caller's transaction, and return them: (account, bucket, percent)."""
    rows = connection.execute(
        """DELETE FROM balance_mark m USING (
               SELECT bucket_id, percent FROM balance_mark ORDER BY marked_at LIMIT %s FOR UPDATE SKIP LOCKED) old
           WHERE m.bucket_id = old.bucket_id AND m.percent = old.percent
           RETURNING m.account_id, m.bucket_id, m.percent""",
        (limit,),
    )
    return [(row[0], row[1], int(row[2])) for row in rows]
