"""The SQL of stored answers. Each statement names one account, or one shard of accounts."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple, cast
from uuid import UUID

from psycopg import Connection

from tokenworks.catalog import TOKEN_CLASSES, Counts
from tokenworks.charging.messages import CountedBy, Loss
from tokenworks.charging.model import losses_of
from tokenworks.charging.replay import IDEMPOTENCY_KEY
from tokenworks.charging.routing_note import read_note

# The most answers of the cache that one stored answer displaces.
EVICTED_MAX = 1000


# The columns of an original.
_ORIGINAL: Final = f"request_id, state, counted_by, loss, model, asked, choice, {', '.join(TOKEN_CLASSES)}"


class Name(NamedTuple):
    """The key of a row."""

    account_id: UUID
    kind: str
    name_hash: bytes


class Row(NamedTuple):
    """A stored answer, or a claim: `usage_id` and what follows are None until it has an answer."""

    body_hash: bytes
    answer_id: UUID
    journal_id: UUID
    worker_id: UUID
    made_at: datetime
    claimed_until: datetime
    expires_at: datetime
    usage_id: UUID | None
    person_id: UUID | None
    media_type: str | None
    sealed: bytes | None


class Claim(NamedTuple):
    """What a request that has no answer yet writes."""

    body_hash: bytes
    answer_id: UUID
    member_id: UUID
    journal_id: UUID
    worker_id: UUID
    made_at: datetime
    claimed_until: datetime
    expires_at: datetime


class Original(NamedTuple):
    """The record of an answer."""

    request_id: str
    state: str
    counted_by: CountedBy
    counts: Counts
    losses: Sequence[Loss]
    model: str
    asked: str | None
    choice: str | None


def find(connection: Connection, name: Name, *, lock: bool) -> Row | None:
    row = connection.execute(
        """SELECT body_hash, answer_id, journal_id, worker_id, made_at, claimed_until, expires_at, usage_id, person_id, media_type,
               answer_sealed
           FROM replay_answer WHERE account_id = %s AND kind = %s AND name_hash = %s"""
        + (" FOR UPDATE" if lock else ""),
        name,
    ).fetchone()
    if row is None:
        return None
    return Row._make((bytes(row[0]), *row[1:10], None if row[10] is None else bytes(row[10])))


def claim(connection: Connection, name: Name, made: Claim) -> bool:
    """Add a claim. False if another request has added one meanwhile."""
    row = connection.execute(
        """INSERT INTO replay_answer (account_id, kind, name_hash, body_hash, answer_id, member_id, journal_id, worker_id, made_at,
               claimed_until, expires_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING 1""",
        (*name, *made),
    ).fetchone()
    return row is not None


def take_over(connection: Connection, name: Name, made: Claim) -> None:
    """Replace a row that is locked, is over or came to nothing, by a claim."""
    connection.execute(
        """UPDATE replay_answer SET body_hash = %s, answer_id = %s, member_id = %s, journal_id = %s, worker_id = %s, made_at = %s,
               claimed_until = %s, expires_at = %s, usage_id = NULL, person_id = NULL, media_type = NULL, answer_sealed = NULL,
               answer_bytes = 0
           WHERE account_id = %s AND kind = %s AND name_hash = %s""",
        (*made, *name),
    )


def fill(
    connection: Connection,
    name: Name,
    answer_id: UUID,
    usage_id: UUID,
    person_id: UUID | None,
    media_type: str,
    sealed: bytes | None,
) -> bool:
    """Add the answer to a claim. False if the claim is not this request's any more."""
    row = connection.execute(
        """UPDATE replay_answer SET usage_id = %s, person_id = %s, media_type = %s, answer_sealed = %s, answer_bytes = %s
           WHERE account_id = %s AND kind = %s AND name_hash = %s AND answer_id = %s RETURNING 1""",
        (usage_id, person_id, media_type, sealed, len(sealed or b""), *name, answer_id),
    ).fetchone()
    return row is not None


def drop(connection: Connection, name: Name, answer_id: UUID) -> None:
    """Remove a claim that came to nothing."""
    connection.execute(
        """DELETE FROM replay_answer WHERE account_id = %s AND kind = %s AND name_hash = %s AND answer_id = %s
           AND usage_id IS NULL""",
        (*name, answer_id),
    )


def claims_of(
    connection: Connection, account_id: UUID, request_ids: Sequence[UUID]
) -> list[tuple[Name, UUID]]:
    """(the name, the request) of the idempotency keys that these requests claimed, locked."""
    rows = connection.execute(
        """SELECT kind, name_hash, answer_id FROM replay_answer
           WHERE account_id = %s AND kind = %s AND answer_id = ANY(%s) FOR UPDATE""",
        (account_id, IDEMPOTENCY_KEY, list(request_ids)),
    ).fetchall()
    return [(Name(account_id, str(kind), bytes(name)), answer_id) for kind, name, answer_id in rows]


def forget(connection: Connection, name: Name) -> None:
    """Delete a row, with or without an answer."""
    connection.execute(
        "DELETE FROM replay_answer WHERE account_id = %s AND kind = %s AND name_hash = %s", name
    )


def lock_account(connection: Connection, account_id: UUID) -> None:
    """Wait for other transactions that add answers to this account, so that its sums hold."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"replay {account_id}",))


def sums(connection: Connection, account_id: UUID) -> tuple[int, int]:
    """(rows, bytes) of an account."""
    row = connection.execute(
        "SELECT count(*), coalesce(sum(answer_bytes), 0)::bigint FROM replay_answer WHERE account_id = %s",
        (account_id,),
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def sums_of_kind(connection: Connection, account_id: UUID, kind: str, now: datetime) -> tuple[int, int]:
    """(rows, bytes) of an account's answers of this kind that are not over."""
    row = connection.execute(
        """SELECT count(*), coalesce(sum(answer_bytes), 0)::bigint FROM replay_answer
           WHERE account_id = %s AND kind = %s AND expires_at > %s""",
        (account_id, kind, now),
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def evict(connection: Connection, account_id: UUID, rows: int, size: int, now: datetime) -> tuple[int, int]:
    """Delete an account's rows that are over, then answers of the cache, the oldest first, until so many rows and bytes are free.
    Returns (rows, bytes) that were deleted, which may be less.
    """
    row = connection.execute(
        """WITH oldest AS (
               SELECT kind, name_hash, answer_bytes, row_number() OVER by_age - 1 AS rows,
                   coalesce(sum(answer_bytes) OVER (by_age ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS size
               FROM replay_answer WHERE account_id = %(account)s AND (kind = 'response_cache' OR expires_at <= %(now)s)
               WINDOW by_age AS (ORDER BY expires_at > %(now)s, made_at, name_hash) LIMIT %(most)s),
           gone AS (
               DELETE FROM replay_answer r USING oldest o WHERE r.account_id = %(account)s AND r.kind = o.kind
                   AND r.name_hash = o.name_hash AND (o.rows < %(rows)s OR o.size < %(size)s) RETURNING o.answer_bytes)
           SELECT count(*), coalesce(sum(answer_bytes), 0)::bigint FROM gone""",
        {"account": account_id, "now": now, "rows": rows, "size": size, "most": EVICTED_MAX},
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def original(connection: Connection, account_id: UUID, usage_id: UUID) -> Original | None:
    """The settled record with this id."""
    return _original(
        connection.execute(
            f"""SELECT {_ORIGINAL} FROM usage
                WHERE account_id = %s AND usage_id = %s""".encode(),
            (account_id, usage_id),
        ).fetchone()
    )


def answered(connection: Connection, account_id: UUID, request_id: UUID) -> Original | None:
    """The settled complete record of a request. The ids of a request's records are not below its own."""
    return _original(
        connection.execute(
            f"""SELECT {_ORIGINAL} FROM usage
                WHERE account_id = %s AND usage_id >= %s AND request_id = %s AND state = 'complete' LIMIT 1""".encode(),
            (account_id, request_id, request_id.hex),
        ).fetchone()
    )


def _original(row: Sequence[object] | None) -> Original | None:
    if row is None:
        return None
    request_id, state, counted_by, loss, model, asked, note, *classes = row
    losses = losses_of(loss if isinstance(loss, list) else None)
    return Original(
        str(request_id),
        str(state),
        cast("CountedBy", counted_by),
        Counts(*[int(str(n)) for n in classes]),
        losses,
        str(model),
        None if asked is None else str(asked),
        read_note(None if note is None else str(note)).choice,
    )


def forget_account(connection: Connection, account_id: UUID) -> None:
    connection.execute("DELETE FROM replay_answer WHERE account_id = %s", (account_id,))


def forget_member(connection: Connection, account_id: UUID, member_id: UUID) -> None:
    connection.execute(
        "DELETE FROM replay_answer WHERE account_id = %s AND member_id = %s", (account_id, member_id)
    )


def delete_over(connection: Connection, shard: int, now: datetime, limit: int) -> int:
    """Delete rows of a shard of accounts that are over. Returns how many. Rows that are locked wait for the next time."""
    return connection.execute(
        """DELETE FROM replay_answer r USING (
               SELECT account_id, kind, name_hash FROM replay_answer WHERE shard_of(account_id) = %(shard)s AND expires_at <= %(now)s
               ORDER BY expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED) o
           WHERE shard_of(r.account_id) = %(shard)s AND r.account_id = o.account_id AND r.kind = o.kind AND r.name_hash = o.name_hash""",
        {"shard": shard, "now": now, "limit": limit},
    ).rowcount
