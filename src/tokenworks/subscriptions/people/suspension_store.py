"""The SQL of suspensions (table `suspension`)."""

from datetime import datetime
from uuid import UUID

from psycopg import Connection

from tokenworks.subscriptions.model import CYCLE_STOPPERS, Suspension


def begin_suspension(connection: Connection, begun: Suspension) -> None:
    connection.execute(
        """INSERT INTO suspension (suspension_id, subscriber_id, cause, reason, began_at) VALUES (%s, %s, %s, %s, %s)""",
        (begun.suspension_id, begun.subscriber_id, begun.cause, begun.reason, begun.began_at),
    )


def end_suspensions(
    connection: Connection, subscriber_id: UUID, cause: str | None, at: datetime, reason: str | None
) -> None:
    """End a subscriber's open suspensions of one cause (None: of all)."""
    connection.execute(
        """UPDATE suspension SET ended_at = %(at)s, end_reason = %(reason)s
           WHERE subscriber_id = %(id)s AND ended_at IS NULL AND (%(cause)s::text IS NULL OR cause = %(cause)s)""",
        {"id": subscriber_id, "cause": cause, "at": at, "reason": reason},
    )


def suspensions(connection: Connection, subscriber_id: UUID, limit: int) -> list[Suspension]:
    """A subscriber's suspensions, newest first."""
    rows = connection.execute(
        """SELECT suspension_id, subscriber_id, cause, reason, began_at, ended_at, end_reason FROM suspension
           WHERE subscriber_id = %s ORDER BY began_at DESC, suspension_id DESC LIMIT %s""",
        (subscriber_id, limit),
    )
    return [Suspension(*row) for row in rows]


def was_stopped_since(connection: Connection, subscriber_id: UUID, since: datetime) -> bool:
    """True if a suspension that stops new cycles lasted at an instant, or after it."""
    row = connection.execute(
        """SELECT EXISTS (SELECT 1 FROM suspension WHERE subscriber_id = %s AND cause = ANY(%s)
               AND (ended_at IS NULL OR ended_at > %s))""",
        (subscriber_id, list(CYCLE_STOPPERS), since),
    ).fetchone()
    assert row is not None
    return bool(row[0])
