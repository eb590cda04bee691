"""The SQL of stored answers, by idempotency key."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from psycopg import Connection
from psycopg.types.json import Jsonb

# The old rows that one new row deletes: more than one, so that the table shrinks.
DELETED_AT_ONCE_MAX = 10


def claim(connection: Connection, asker: str, key: str, request_hash: bytes, at: datetime) -> bool:
    """True if the asker has not used the key before. A concurrent request with the same key waits here for the end of this transaction."""
    row = connection.execute(
        """INSERT INTO kept_answer (asker, idempotency_key, request_hash, made_at) VALUES (%s, %s, %s, %s)
           ON CONFLICT DO NOTHING RETURNING 1""",
        (asker, key, request_hash, at),
    ).fetchone()
    return row is not None


def find(
    connection: Connection, asker: str, key: str
) -> (
    tuple[bytes, int | None, dict[str, str] | None, bytes | None, UUID | None, UUID | None, bytes | None]
    | None
):
    """(hash of the request, status, headers, plain body, id of the answer, its person, encrypted body); None if there is no such key.

    Only answers of earlier releases have a plain body.
    """
    row = connection.execute(
        """SELECT request_hash, status, headers, body, answer_id, person_id, body_sealed FROM kept_answer
           WHERE asker = %s AND idempotency_key = %s""",
        (asker, key),
    ).fetchone()
    if row is None:
        return None
    plain, sealed = (None if value is None else bytes(value) for value in (row[3], row[6]))
    return bytes(row[0]), row[1], row[2], plain, row[4], row[5], sealed


def keep(
    connection: Connection,
    asker: str,
    key: str,
    status: int,
    headers: Mapping[str, str],
    answer_id: UUID,
    person_id: UUID | None,
    body_sealed: bytes | None,
) -> None:
    connection.execute(
        """UPDATE kept_answer SET status = %s, headers = %s, answer_id = %s, person_id = %s, body_sealed = %s
           WHERE asker = %s AND idempotency_key = %s""",
        (status, Jsonb(dict(headers)), answer_id, person_id, body_sealed, asker, key),
    )


def delete_old(connection: Connection, before: datetime) -> None:
    """Delete a few of the oldest answers. Locked rows are skipped."""
    connection.execute(
        """DELETE FROM kept_answer WHERE (asker, idempotency_key) IN (
               SELECT asker, idempotency_key FROM kept_answer WHERE made_at < %s ORDER BY made_at LIMIT %s
               FOR UPDATE SKIP LOCKED)""",
        (before, DELETED_AT_ONCE_MAX),
    )
