"""The SQL of dunning."""

from datetime import datetime
from uuid import UUID

from psycopg import Connection


def overdue(connection: Connection, due_before: datetime, step: str, limit: int) -> list[tuple[UUID, UUID]]:
    """(bill, subscriber) of unpaid bills that were due before a time and for which the step is not taken yet, without the bills in a
    charge file that the carrier has not answered.
    """
    return connection.execute(
        """SELECT b.bill_id, b.subscriber_id FROM bill b JOIN subscriber s USING (subscriber_id)
           WHERE b.state <> 'settled' AND greatest(b.due_at, b.reopened_at) < %s AND s.state <> 'closed'
               AND NOT EXISTS (SELECT 1 FROM dunning d WHERE d.bill_id = b.bill_id AND d.step = %s)
               AND NOT EXISTS (SELECT 1 FROM charge_file_line l WHERE l.bill_id = b.bill_id AND l.state = 'sent')
           ORDER BY b.bill_id LIMIT %s""",
        (due_before, step, limit),
    ).fetchall()


def add_dunning(connection: Connection, bill_id: UUID, step: str, subscriber_id: UUID, at: datetime) -> bool:
    row = connection.execute(
        """INSERT INTO dunning (bill_id, step, subscriber_id, taken_at) VALUES (%s, %s, %s, %s)
           ON CONFLICT DO NOTHING RETURNING 1""",
        (bill_id, step, subscriber_id, at),
    ).fetchone()
    return row is not None


def follow_dunning(connection: Connection, subscriber_id: UUID, at: datetime) -> set[str] | None:
    """End the steps of bills that are paid, and put the steps of bills that are open again back in force. Returns the steps in force;
    None if nothing changed.
    """
    changed = connection.execute(
        """UPDATE dunning d SET lifted_at = CASE WHEN b.remaining_nano = 0 THEN %s::timestamptz END FROM bill b
           WHERE d.subscriber_id = %s AND b.bill_id = d.bill_id AND (d.lifted_at IS NULL) = (b.remaining_nano = 0)""",
        (at, subscriber_id),
    ).rowcount
    if not changed:
        return None
    rows = connection.execute(
        "SELECT DISTINCT step FROM dunning WHERE subscriber_id = %s AND lifted_at IS NULL", (subscriber_id,)
    )
    return {row[0] for row in rows}


def dunned_for_nothing(connection: Connection, limit: int) -> list[UUID]:
    """Subscribers with steps in force for bills on which nothing is open, because a credit settled them."""
    rows = connection.execute(
        """SELECT DISTINCT d.subscriber_id FROM dunning d JOIN bill b USING (bill_id)
           WHERE d.lifted_at IS NULL AND b.remaining_nano = 0 ORDER BY 1 LIMIT %s""",
        (limit,),
    )
    return [row[0] for row in rows]
