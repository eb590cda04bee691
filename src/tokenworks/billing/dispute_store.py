"""The SQL of questions about bill lines."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from psycopg import Connection

from tokenworks.billing.model import Dispute
from tokenworks.kernel import FORGOTTEN

_DISPUTE: Final = """d.dispute_id, d.subscriber_id, d.bill_id, b.bill_no, d.line_no, l.description, l.description_zh, l.amount_nano,
    d.question, d.asked_at, d.state, d.answer, d.answered_by, d.answered_at"""
_FROM: Final = "FROM dispute d JOIN bill b USING (bill_id) JOIN bill_line l USING (bill_id, line_no)"


def add(
    connection: Connection,
    dispute_id: UUID,
    subscriber_id: UUID,
    bill_id: UUID,
    line_no: int,
    question: str,
    at: datetime,
) -> bool:
    """Return False if the line has an open question already."""
    row = connection.execute(
        """INSERT INTO dispute (dispute_id, subscriber_id, bill_id, line_no, question, asked_at, state)
           VALUES (%s, %s, %s, %s, %s, %s, 'open') ON CONFLICT (bill_id, line_no) WHERE state = 'open' DO NOTHING RETURNING 1""",
        (dispute_id, subscriber_id, bill_id, line_no, question, at),
    ).fetchone()
    return row is not None


def answer(connection: Connection, dispute_id: UUID, text: str, by: str, at: datetime) -> bool:
    """Return False if the dispute is answered already, or there is none."""
    row = connection.execute(
        """UPDATE dispute SET state = 'answered', answer = %s, answered_by = %s, answered_at = %s
           WHERE dispute_id = %s AND state = 'open' RETURNING 1""",
        (text, by, at, dispute_id),
    ).fetchone()
    return row is not None


def forget(connection: Connection, subscriber_id: UUID) -> None:
    connection.execute(
        """UPDATE dispute SET question = %(gone)s, answer = CASE WHEN answer IS NOT NULL THEN %(gone)s END
           WHERE subscriber_id = %(id)s""",
        {"gone": FORGOTTEN, "id": subscriber_id},
    )


def find(connection: Connection, dispute_id: UUID) -> Dispute | None:
    row = connection.execute(
        f"SELECT {_DISPUTE} {_FROM} WHERE d.dispute_id = %s".encode(), (dispute_id,)
    ).fetchone()
    return None if row is None else Dispute(*row)


def of_line(connection: Connection, bill_id: UUID, line_no: int) -> list[Dispute]:
    """Oldest first."""
    rows = connection.execute(
        f"SELECT {_DISPUTE} {_FROM} WHERE d.bill_id = %s AND d.line_no = %s ORDER BY d.dispute_id".encode(),
        (bill_id, line_no),
    )
    return [Dispute(*row) for row in rows]


def of_bills(connection: Connection, bill_ids: Sequence[UUID]) -> list[Dispute]:
    """Oldest first."""
    rows = connection.execute(
        f"SELECT {_DISPUTE} {_FROM} WHERE d.bill_id = ANY(%s) ORDER BY d.dispute_id".encode(),
        (list(bill_ids),),
    )
    return [Dispute(*row) for row in rows]


def page(
    connection: Connection,
    subscriber_id: UUID | None,
    state: Literal["open", "answered"] | None,
    offset: int,
    limit: int,
) -> tuple[list[Dispute], int]:
    """A page, oldest first, and how many there are."""
    where = """WHERE (%(subscriber)s::uuid IS NULL OR d.subscriber_id = %(subscriber)s)
               AND (%(state)s::text IS NULL OR d.state = %(state)s)"""
    names = {"subscriber": subscriber_id, "state": state, "offset": offset, "limit": limit}
    rows = connection.execute(
        f"SELECT {_DISPUTE} {_FROM} {where} ORDER BY d.dispute_id OFFSET %(offset)s LIMIT %(limit)s".encode(),
        names,
    ).fetchall()
    count = connection.execute(f"SELECT count(*) FROM dispute d {where}".encode(), names).fetchone()
    assert count is not None
    return [Dispute(*row) for row in rows], int(count[0])
