"""The SQL of approvals."""

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow

if TYPE_CHECKING:
    from tokenworks.trust.identity.approvals import Approval

_COLUMNS = "approval_id, action, ref, key, amount_nano, asked_by, asked_at, state, decided_by, decided_at"


def lock_matching(
    connection: Connection, action: str, ref: str, key: str, amount_nano: int, asker: str, since: datetime
) -> TupleRow | None:
    """The same person's request for the same operation: approved, or used with the same idempotency key, or open."""
    return connection.execute(
        f"""SELECT {_COLUMNS} FROM approval
            WHERE action = %s AND ref = %s AND key = %s AND amount_nano = %s AND asker = %s AND asked_at > %s
              AND (state IN ('open', 'approved') OR (state = 'used' AND key <> ''))
            ORDER BY state = 'approved' DESC, state = 'used' DESC, approval_id DESC LIMIT 1 FOR UPDATE""".encode(),
        (action, ref, key, amount_nano, asker, since),
    ).fetchone()


def add(connection: Connection, wanted: "Approval", asker: str) -> None:
    connection.execute(
        """INSERT INTO approval (approval_id, action, ref, key, amount_nano, asked_by, asker, asked_at, state)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 'open') ON CONFLICT DO NOTHING""",
        (wanted.approval_id, wanted.action, wanted.ref, wanted.key, wanted.amount_nano, wanted.asked_by, asker,
         wanted.asked_at),
    )  # fmt: skip


def lock(connection: Connection, approval_id: UUID) -> TupleRow | None:
    return connection.execute(
        f"SELECT {_COLUMNS} FROM approval WHERE approval_id = %s FOR UPDATE".encode(), (approval_id,)
    ).fetchone()


def get(connection: Connection, approval_id: UUID) -> TupleRow:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM approval WHERE approval_id = %s".encode(), (approval_id,)
    ).fetchone()
    assert row is not None
    return row


def decide(connection: Connection, approval_id: UUID, state: str, by: str, at: datetime) -> None:
    connection.execute(
        "UPDATE approval SET state = %s, decided_by = %s, decided_at = %s WHERE approval_id = %s",
        (state, by, at, approval_id),
    )


def mark_used(connection: Connection, approval_id: UUID, at: datetime) -> None:
    connection.execute(
        "UPDATE approval SET state = 'used', used_at = coalesce(used_at, %s) WHERE approval_id = %s",
        (at, approval_id),
    )


def page(connection: Connection, state: str | None, offset: int, limit: int) -> tuple[list[TupleRow], int]:
    where = "FROM approval WHERE %(s)s::text IS NULL OR state = %(s)s"
    values = {"s": state, "offset": offset, "limit": limit}
    rows = connection.execute(
        f"SELECT {_COLUMNS} {where} ORDER BY approval_id DESC OFFSET %(offset)s LIMIT %(limit)s".encode(),
        values,
    ).fetchall()
    count = connection.execute(f"SELECT count(*) {where}".encode(), values).fetchone()
    assert count is not None
    return rows, int(count[0])
