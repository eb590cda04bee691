"""The SQL of members' caps, of transfers between caps, and of the history of an account's balances."""

from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from tokenworks.charging.ledger import whose_store
from tokenworks.charging.ledger.model import BalanceMove, Transfer
from tokenworks.charging.ledger.store import notify_hosts
from tokenworks.kernel import FORGOTTEN, uuid7


def cap_bucket(
    connection: Connection,
    account_id: UUID,
    cap_of: UUID,
    valid_from: datetime,
    valid_until: datetime | None,
    total: int,
    rate_version: str,
) -> UUID:
    """The bucket of a cap in one of its periods; a missing one is made. If the cap has changed, the bucket gets the new total
    and keeps what is used.
    """
    with connection.transaction():
        connection.execute(
            """INSERT INTO bucket (account_id, bucket_id, kind, unit, total, remaining, priority, valid_from, valid_until,
                                   model_classes, rate_version, cap_of)
               VALUES (%s, %s, 'cap', 'token', %s, %s, 0, %s, %s, '{*}', %s, %s) ON CONFLICT DO NOTHING""",
            (account_id, uuid7(), total, total, valid_from, valid_until, rate_version, cap_of),
        )
        row = connection.execute(
            """SELECT bucket_id, total, remaining FROM bucket
               WHERE account_id = %s AND cap_of = %s AND valid_from = %s FOR UPDATE""",
            (account_id, cap_of, valid_from),
        ).fetchone()
        assert row is not None
        bucket_id, old_total, remaining = row
        # Transfers between members are added to the cap. They are read by a separate statement after the lock is held: the
        # statement that waits for the lock still sees the rows as they were before the wait.
        transferred = connection.execute(
            """SELECT coalesce(sum(CASE WHEN to_bucket_id = %(id)s THEN amount ELSE -amount END), 0)::bigint FROM transfer
               WHERE account_id = %(account)s AND %(id)s IN (from_bucket_id, to_bucket_id)""",
            {"id": bucket_id, "account": account_id},
        ).fetchone()
        change = max(total + (transferred[0] if transferred else 0) - old_total, -remaining)
        if change:
            connection.execute(
                """UPDATE bucket SET total = total + %s, remaining = remaining + %s
                   WHERE account_id = %s AND bucket_id = %s""",
                (change, change, account_id, bucket_id),
            )
            notify_hosts(connection, account_id)
    return UUID(str(bucket_id))


def used_of_caps(connection: Connection, account_id: UUID, now: datetime) -> dict[UUID, int]:
    rows = connection.execute(
        """SELECT cap_of, used + coalesce((SELECT sum(g.used) FROM grants g WHERE g.account_id = %(account)s
                                           AND g.bucket_id = b.bucket_id AND g.state = 'open'), 0)::bigint
           FROM bucket b WHERE account_id = %(account)s AND cap_of IS NOT NULL AND valid_from <= %(now)s
               AND (valid_until IS NULL OR valid_until > %(now)s)""",
        {"account": account_id, "now": now},
    )
    return dict(rows.fetchall())


_COLUMNS: Final = """transfer_id, account_id, from_bucket_id, to_bucket_id, from_member_id, to_member_id, amount, reason, made_by,
    made_at"""


def _found(connection: Connection, where: str, values: tuple[object, ...]) -> list[Transfer]:
    with connection.cursor(row_factory=class_row(Transfer)) as cursor:
        return cursor.execute(f"SELECT {_COLUMNS} FROM transfer WHERE {where}".encode(), values).fetchall()


def of_key(connection: Connection, account_id: UUID, idempotency_key: str) -> Transfer | None:
    found = _found(connection, "account_id = %s AND idempotency_key = %s", (account_id, idempotency_key))
    return found[0] if found else None


def find(connection: Connection, transfer_id: UUID) -> Transfer | None:
    account_id = whose_store.of_transfer(connection, transfer_id)
    if account_id is None:
        return None
    found = _found(connection, "account_id = %s AND transfer_id = %s", (account_id, transfer_id))
    return found[0] if found else None


def of_account(connection: Connection, account_id: UUID, limit: int) -> list[Transfer]:
    """Newest first."""
    return _found(connection, "account_id = %s ORDER BY transfer_id DESC LIMIT %s", (account_id, limit))


def lock_caps(connection: Connection, account_id: UUID, bucket_ids: list[UUID]) -> dict[UUID, int]:
    """The quantity of each open cap that is granted to no host. The caps are locked in the order of their ids."""
    rows = connection.execute(
        """SELECT bucket_id, remaining FROM bucket WHERE account_id = %s AND bucket_id = ANY(%s) AND kind = 'cap'
               AND closing IS NULL ORDER BY bucket_id FOR UPDATE""",
        (account_id, bucket_ids),
    )
    return dict(rows.fetchall())


def move(connection: Connection, transfer: Transfer, idempotency_key: str) -> None:
    t = transfer
    connection.execute(
        f"INSERT INTO transfer ({_COLUMNS}, idempotency_key) VALUES ({', '.join(['%s'] * 11)})".encode(),
        (t.transfer_id, t.account_id, t.from_bucket_id, t.to_bucket_id, t.from_member_id, t.to_member_id, t.amount, t.reason,
         t.made_by, t.made_at, idempotency_key),
    )  # fmt: skip
    for bucket_id, change in ((t.from_bucket_id, -t.amount), (t.to_bucket_id, t.amount)):
        connection.execute(
            """UPDATE bucket SET total = total + %s, remaining = remaining + %s
               WHERE account_id = %s AND bucket_id = %s""",
            (change, change, t.account_id, bucket_id),
        )
    notify_hosts(connection, t.account_id)


_MOVES: Final = """
    SELECT e.entry_id, e.posted_at, e.kind, p.bucket_id, p.unit, p.amount, e.ref
    FROM entry e JOIN posting p USING (account_id, entry_id)
    WHERE e.account_id = %(account)s AND e.kind IN ('issue', 'expire', 'withdraw', 'rollover', 'adjust')
        AND p.ledger_account = 'customer_liability' AND p.bucket_id IS NOT NULL
    UNION ALL
    SELECT t.transfer_id, t.made_at, 'transfer', x.bucket_id, 'token', x.amount, t.transfer_id::text
    FROM transfer t CROSS JOIN LATERAL (VALUES (t.from_bucket_id, -t.amount), (t.to_bucket_id, t.amount)) x(bucket_id, amount)
    WHERE t.account_id = %(account)s"""


def _moves(connection: Connection, which: str, names: dict[str, object]) -> list[BalanceMove]:
    with connection.cursor(row_factory=class_row(BalanceMove)) as cursor:
        return cursor.execute(
            f"""SELECT entry_id AS move_id, posted_at AS at, kind, bucket_id, unit, amount, ref
                FROM ({_MOVES}) m {which}""".encode(),
            names,
        ).fetchall()


def find_move(connection: Connection, account_id: UUID, move_id: UUID, bucket_id: UUID) -> BalanceMove | None:
    names: dict[str, object] = {"account": account_id, "move": move_id, "bucket": bucket_id}
    return next(iter(_moves(connection, "WHERE entry_id = %(move)s AND bucket_id = %(bucket)s", names)), None)


def moves(connection: Connection, account_id: UUID, offset: int, limit: int) -> tuple[list[BalanceMove], int]:
    """(a page of moves, newest first; the count of all moves)."""
    names: dict[str, object] = {"account": account_id, "offset": offset, "limit": limit}
    found = _moves(connection, "ORDER BY entry_id DESC, bucket_id OFFSET %(offset)s LIMIT %(limit)s", names)
    count = connection.execute(f"SELECT count(*) FROM ({_MOVES}) m".encode(), names).fetchone()
    assert count is not None
    return found, int(count[0])


def forget_reasons(connection: Connection, account_id: UUID, member_id: UUID | None = None) -> None:
    connection.execute(
        """UPDATE transfer SET reason = %(gone)s WHERE account_id = %(account)s
               AND (%(member)s::uuid IS NULL OR %(member)s IN (from_member_id, to_member_id))""",
        {"gone": FORGOTTEN, "account": account_id, "member": member_id},
    )
