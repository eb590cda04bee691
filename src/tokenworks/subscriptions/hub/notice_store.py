"""The SQL of the outbox of notices (table `notification`)."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from tokenworks.kernel import uuid7


def add_notification(
    connection: Connection,
    subscriber_id: UUID,
    kind: str,
    ref: str,
    content: Mapping[str, object],
    at: datetime,
) -> bool:
    """Add a notice, once per (subscriber, kind, ref). Return False if it was there. `content` can be written as JSON."""
    row = connection.execute(
        """INSERT INTO notification (notification_id, subscriber_id, kind, ref, content, created_at, next_at)
           VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING 1""",
        (uuid7(), subscriber_id, kind, ref, Jsonb(content), at, at),
    ).fetchone()
    return row is not None


def lease_notifications(connection: Connection, now: datetime, until: datetime, limit: int) -> list[TupleRow]:
    return connection.execute(
        """WITH due AS (SELECT notification_id FROM notification
                        WHERE next_at <= %s AND delivered_at IS NULL AND given_up_at IS NULL
                        ORDER BY next_at, notification_id LIMIT %s FOR UPDATE SKIP LOCKED)
           UPDATE notification n SET next_at = %s, attempts = attempts + 1 FROM due
           WHERE n.notification_id = due.notification_id
           RETURNING n.notification_id, subscriber_id, kind, ref, content, created_at, attempts""",
        (now, limit, until),
    ).fetchall()


def end_notification(connection: Connection, notification_id: UUID, column: str, at: datetime) -> None:
    connection.execute(
        f"UPDATE notification SET {column} = %s WHERE notification_id = %s".encode(), (at, notification_id)
    )


def retry_notification(connection: Connection, notification_id: UUID, at: datetime) -> None:
    connection.execute(
        "UPDATE notification SET next_at = %s WHERE notification_id = %s", (at, notification_id)
    )
