"""The SQL of cases to reconcile."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.billing.model import ReconciliationCase
from tokenworks.kernel import FORGOTTEN

_CASE: Final = (
    "case_id, subscriber_id, bill_id, payment_id, kind, amount_nano, opened_at, closed_at, resolution"
)


def add_cases(connection: Connection, cases: Sequence[ReconciliationCase]) -> None:
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY reconciliation_case ({_CASE}) FROM STDIN".encode()) as copy,
    ):
        for c in cases:
            copy.write_row((
                c.case_id, c.subscriber_id, c.bill_id, c.payment_id, c.kind, c.amount_nano, c.opened_at, c.closed_at, c.resolution,
            ))  # fmt: skip


def cases(
    connection: Connection, *, still_open: bool, offset: int, limit: int
) -> tuple[list[ReconciliationCase], int]:
    """A page, oldest first, and how many cases there are."""
    where = "FROM reconciliation_case" + (" WHERE closed_at IS NULL" if still_open else "")
    rows = connection.execute(
        f"SELECT {_CASE} {where} ORDER BY opened_at, case_id OFFSET %s LIMIT %s".encode(), (offset, limit)
    ).fetchall()
    count = connection.execute(f"SELECT count(*) {where}".encode()).fetchone()
    assert count is not None
    return [ReconciliationCase(*row) for row in rows], int(count[0])


def lock_case(connection: Connection, case_id: UUID) -> ReconciliationCase | None:
    row = connection.execute(
        f"SELECT {_CASE} FROM reconciliation_case WHERE case_id = %s FOR UPDATE".encode(), (case_id,)
    ).fetchone()
    return None if row is None else ReconciliationCase(*row)


def close_cases(
    connection: Connection,
    resolution: str,
    at: datetime,
    *,
    case_id: UUID | None = None,
    payment_id: UUID | None = None,
    rejected_bill_id: UUID | None = None,
) -> None:
    """Close the open cases with this id, of this payment, or for the rejection of this bill."""
    connection.execute(
        """UPDATE reconciliation_case SET closed_at = %s, resolution = %s
           WHERE closed_at IS NULL AND (case_id = %s OR payment_id = %s OR (bill_id = %s AND kind = 'rejected'))""",
        (at, resolution, case_id, payment_id, rejected_bill_id),
    )


def forget(connection: Connection, subscriber_id: UUID) -> None:
    """Erase the free text."""
    connection.execute(
        "UPDATE reconciliation_case SET resolution = %s WHERE subscriber_id = %s AND resolution IS NOT NULL",
        (FORGOTTEN, subscriber_id),
    )
