"""The SQL of the log of content. Each statement names one account, or one shard of accounts."""

from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from psycopg import Connection

_ENTRY: Final = (
    "content_log_id, key_id, protocol, model, outcome, request_bytes, answer_bytes, made_at, expires_at"
)


class ContentLogEntry(NamedTuple):
    """An entry without its content. `request_id`: of the request. Sizes are of the whole request and answer."""

    request_id: UUID
    key_id: UUID
    protocol: str
    model: str
    outcome: str
    request_bytes: int
    answer_bytes: int
    made_at: datetime
    expires_at: datetime


Found = tuple[ContentLogEntry, UUID, bytes, bytes]
"""(entry, person, encrypted request, encrypted answer)"""


def lock_account(connection: Connection, account_id: UUID) -> None:
    """Wait for other transactions that add entries to this account or delete them, so that its sums hold."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"content {account_id}",))


def sums(connection: Connection, account_id: UUID) -> tuple[int, int]:
    """(entries, bytes) of an account."""
    row = connection.execute(
        "SELECT count(*), coalesce(sum(stored_bytes), 0)::bigint FROM content_log WHERE account_id = %s",
        (account_id,),
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def add(
    connection: Connection,
    account_id: UUID,
    member_id: UUID,
    person_id: UUID,
    entry: ContentLogEntry,
    request: bytes,
    answer: bytes,
) -> bool:
    """Add an entry. False if the request has one: the worker asked twice."""
    row = connection.execute(
        f"""INSERT INTO content_log (account_id, member_id, person_id, request_sealed, answer_sealed, stored_bytes, {_ENTRY})
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING 1""".encode(),
        (account_id, member_id, person_id, request, answer, len(request) + len(answer), *entry),
    ).fetchone()
    return row is not None


def evict(connection: Connection, account_id: UUID, rows: int, size: int, limit: int) -> tuple[int, int]:
    """Delete the account's oldest entries, at most `limit`, until so many rows and bytes are free. Returns (rows, bytes) that were."""
    row = connection.execute(
        """WITH oldest AS (
               SELECT content_log_id, row_number() OVER by_age - 1 AS rows, coalesce(sum(stored_bytes) OVER (by_age ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
               FROM content_log WHERE account_id = %(account)s WINDOW by_age AS (ORDER BY content_log_id)
               ORDER BY content_log_id LIMIT %(most)s),
           gone AS (
               DELETE FROM content_log c USING oldest o WHERE c.account_id = %(account)s AND c.content_log_id = o.content_log_id
                   AND (o.rows < %(rows)s OR o.before < %(size)s) RETURNING c.stored_bytes)
           SELECT count(*), coalesce(sum(stored_bytes), 0)::bigint FROM gone""",
        {"account": account_id, "rows": rows, "size": size, "most": limit},
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def entries(
    connection: Connection, account_id: UUID, key_id: UUID, before: UUID | None, now: datetime, limit: int
) -> list[ContentLogEntry]:
    rows = connection.execute(
        f"""SELECT {_ENTRY} FROM content_log WHERE account_id = %s AND key_id = %s AND expires_at > %s
            AND content_log_id < coalesce(%s, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
            ORDER BY content_log_id DESC LIMIT %s""".encode(),
        (account_id, key_id, now, before, limit),
    )
    return [ContentLogEntry._make(row) for row in rows]


def find(
    connection: Connection, account_id: UUID, key_id: UUID, request_id: UUID, now: datetime
) -> Found | None:
    row = connection.execute(
        f"""SELECT person_id, request_sealed, answer_sealed, {_ENTRY} FROM content_log
            WHERE account_id = %s AND key_id = %s AND content_log_id = %s AND expires_at > %s""".encode(),
        (account_id, key_id, request_id, now),
    ).fetchone()
    return None if row is None else _found(*row)


def of_member(
    connection: Connection, account_id: UUID, member_id: UUID, after: UUID, now: datetime, limit: int
) -> list[Found]:
    """Entries of a member's keys after the request `after`, oldest first."""
    rows = connection.execute(
        f"""SELECT person_id, request_sealed, answer_sealed, {_ENTRY} FROM content_log
            WHERE account_id = %s AND member_id = %s AND content_log_id > %s AND expires_at > %s
            ORDER BY content_log_id LIMIT %s""".encode(),
        (account_id, member_id, after, now, limit),
    )
    return [_found(*row) for row in rows]


def _found(person_id: UUID, request: bytes, answer: bytes, *entry: object) -> Found:
    return ContentLogEntry._make(entry), person_id, bytes(request), bytes(answer)


def delete(connection: Connection, account_id: UUID, key_id: UUID, request_id: UUID | None) -> int:
    return connection.execute(
        "DELETE FROM content_log WHERE account_id = %s AND key_id = %s AND content_log_id = coalesce(%s, content_log_id)",
        (account_id, key_id, request_id),
    ).rowcount


def forget_account(connection: Connection, account_id: UUID) -> None:
    connection.execute("DELETE FROM content_log WHERE account_id = %s", (account_id,))


def forget_member(connection: Connection, account_id: UUID, member_id: UUID) -> None:
    connection.execute(
        "DELETE FROM content_log WHERE account_id = %s AND member_id = %s", (account_id, member_id)
    )


def delete_over(connection: Connection, shard: int, now: datetime, limit: int) -> int:
    """Delete entries of a shard of accounts that are over. Returns how many. Rows that are locked wait for the next time."""
    return connection.execute(
        """DELETE FROM content_log c USING (
               SELECT account_id, content_log_id FROM content_log WHERE shard_of(account_id) = %(shard)s AND expires_at <= %(now)s
               ORDER BY expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED) o
           WHERE shard_of(c.account_id) = %(shard)s AND c.account_id = o.account_id AND c.content_log_id = o.content_log_id""",
        {"shard": shard, "now": now, "limit": limit},
    ).rowcount
