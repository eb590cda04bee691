"""The SQL of grants: leasing to a host, returning, closing, doubt and write-off.

A bucket is always locked before its grants, here and in settlement.
"""

from datetime import datetime
from uuid import UUID

from psycopg import Connection
from psycopg.rows import DictRow, dict_row

from tokenworks.charging.errors import (
    GrantNotFound,
    GrantNotInDoubt,
    GrantStillOpen,
)
from tokenworks.charging.ledger.closing_store import finish_closing
from tokenworks.charging.ledger.model import GrantAnswer
from tokenworks.charging.ledger.recall_store import RECALL_WAIT_MAX_S, first_waiter
from tokenworks.charging.ledger.store import RECORDS_SHOWN_MAX, database_now, notify_hosts
from tokenworks.kernel import uuid7


def granted_elsewhere(connection: Connection, account_id: UUID, journal_id: UUID) -> int:
    """The unused quantity in open grants of other hosts, which can be recalled."""
    row = connection.execute(
        """SELECT coalesce(sum(amount - used), 0)::bigint FROM grants
           WHERE account_id = %s AND state = 'open' AND journal_id <> %s""",
        (account_id, journal_id),
    ).fetchone()
    return int(row[0]) if row else 0


def grant(
    connection: Connection,
    *,
    account_id: UUID,
    bucket_id: UUID,
    journal_id: UUID,
    grant_id: UUID | None,
    amount: int,
    spend_for_s: float,
    now: datetime,
) -> GrantAnswer | None:
    """Lease up to `amount` of a bucket to a host: open a grant, or extend and renew the host's open grant.

    An `amount` of 0 only renews. Returns None if the bucket cannot be spent now or has nothing left. If another host has waited
    longer for returned quantity, nothing is added and the answer has `behind`.
    """
    with connection.transaction():
        row = connection.execute(
            """SELECT remaining, valid_until FROM bucket b JOIN account a USING (account_id)
               WHERE b.account_id = %s AND bucket_id = %s AND closing IS NULL AND NOT paused AND a.state = 'open'
                 AND valid_from <= %s AND (valid_until IS NULL OR valid_until > %s) FOR UPDATE OF b""",
            (account_id, bucket_id, now, now),
        ).fetchone()
        if row is None:
            return None
        remaining, valid_until = row
        added = min(remaining, amount)
        first = first_waiter(connection, account_id, RECALL_WAIT_MAX_S) if added else None
        behind = first is not None and first != journal_id
        if behind:
            added = 0
        if valid_until is not None:
            spend_for_s = min(spend_for_s, (valid_until - now).total_seconds())
        if added:
            connection.execute(
                """UPDATE bucket SET remaining = remaining - %s, granted = granted + %s
                   WHERE account_id = %s AND bucket_id = %s""",
                (added, added, account_id, bucket_id),
            )
        if grant_id is not None:
            changed = connection.execute(
                """UPDATE grants SET amount = amount + %s, spend_until = %s::timestamptz + make_interval(secs => %s)
                   WHERE account_id = %s AND grant_id = %s AND state = 'open' AND journal_id = %s""",
                (added, now, spend_for_s, account_id, grant_id, journal_id),
            ).rowcount
            assert changed == 1, f"grant {grant_id} is not this host's open grant"
        elif added:
            grant_id = uuid7()
            connection.execute(
                """INSERT INTO grants (account_id, grant_id, bucket_id, journal_id, amount, spend_until)
                   VALUES (%s, %s, %s, %s, %s, %s::timestamptz + make_interval(secs => %s))""",
                (account_id, grant_id, bucket_id, journal_id, added, now, spend_for_s),
            )
        elif behind:
            return GrantAnswer("", 0, 0, 0.0, behind=True)
        else:
            return None
    return GrantAnswer(grant_id.hex, added, remaining - added, spend_for_s, behind)


def _lock_bucket_of(connection: Connection, account_id: UUID, grant_id: UUID) -> None:
    """Lock the bucket of a grant, before the grant itself is locked."""
    connection.execute(
        """SELECT 1 FROM bucket WHERE account_id = %(account)s AND bucket_id = (
               SELECT bucket_id FROM grants WHERE account_id = %(account)s AND grant_id = %(grant)s) FOR UPDATE""",
        {"account": account_id, "grant": grant_id},
    )


def close_grant(
    connection: Connection,
    account_id: UUID,
    grant_id: UUID,
    journal_id: UUID,
    settled_seq: int,
    now: datetime,
) -> None:
    """Close a grant and return its unused quantity. All records that its host wrote for the grant must be settled.

    Closing a closed grant does nothing. Raises `GrantStillOpen` if the journal's settled sequence is below `settled_seq`, or if the
    grant is in doubt.
    """
    with connection.transaction():
        row = connection.execute(
            "SELECT settled_seq FROM journal WHERE journal_id = %s", (journal_id,)
        ).fetchone()
        if row is None or row[0] < settled_seq:
            raise GrantStillOpen(f"grant {grant_id} has records that are not settled yet")
        _lock_bucket_of(connection, account_id, grant_id)
        row = connection.execute(
            """SELECT bucket_id, amount, used, doubt FROM grants
               WHERE account_id = %s AND grant_id = %s AND journal_id = %s AND state = 'open' FOR UPDATE""",
            (account_id, grant_id, journal_id),
        ).fetchone()
        if row is None:
            return
        bucket_id, amount, used, doubt = row
        if doubt is not None:
            raise GrantStillOpen(f"grant {grant_id} is in doubt: {doubt}")
        connection.execute(
            "UPDATE grants SET state = 'closed', closed_at = %s WHERE account_id = %s AND grant_id = %s",
            (now, account_id, grant_id),
        )
        connection.execute(
            """UPDATE bucket SET granted = granted - %s, used = used + %s, remaining = remaining + %s
               WHERE account_id = %s AND bucket_id = %s""",
            (amount, used, amount - used, account_id, bucket_id),
        )
        finish_closing(connection, account_id, bucket_id, now)


def open_grants(connection: Connection, journal_id: UUID) -> list[tuple[str, str, str, int, int]]:
    """(account, bucket, grant, amount, used) of a host's open grants."""
    rows = connection.execute(
        "SELECT account_id, bucket_id, grant_id, amount, used FROM grants WHERE journal_id = %s AND state = 'open'",
        (journal_id,),
    )
    return [
        (account.hex, bucket.hex, grant_id.hex, amount, used)
        for account, bucket, grant_id, amount, used in rows
    ]


def grants(connection: Connection, account_id: UUID | None, limit: int) -> list[DictRow]:
    """Open grants, oldest first: account, bucket, host, amounts (in thousandths of `unit`), times, and the reason for a doubt."""
    whose = "" if account_id is None else "AND g.account_id = %(account)s"
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            f"""SELECT grant_id, g.account_id, g.bucket_id, b.unit, host, g.journal_id, amount, g.used, opened_at, spend_until,
                      CASE WHEN doubt IS NOT NULL THEN doubt WHEN spend_until < now() THEN 'expired' END AS in_doubt
               FROM grants g JOIN journal j USING (journal_id)
                    JOIN bucket b ON b.account_id = g.account_id AND b.bucket_id = g.bucket_id
               WHERE g.state = 'open' {whose} ORDER BY opened_at, grant_id LIMIT %(limit)s""".encode(),
            {"account": account_id, "limit": limit},
        ).fetchall()


def request_grant_close(connection: Connection, account_id: UUID, grant_id: UUID) -> None:
    row = connection.execute(
        "SELECT account_id FROM grants WHERE account_id = %s AND grant_id = %s AND state = 'open'",
        (account_id, grant_id),
    ).fetchone()
    if row is None:
        raise GrantNotFound(f"there is no open grant {grant_id}: tokenworks grant list")
    connection.execute(
        "INSERT INTO change (kind, ref) VALUES ('grant', %s)", (f"{row[0].hex}:{grant_id.hex}",)
    )


def in_doubt(connection: Connection) -> tuple[int, int, int]:
    """Figures of the grants in doubt: (how many, their unused thousandths of tokens, seconds since the oldest lease expired)."""
    row = connection.execute(
        """SELECT count(*), coalesce(sum(amount - g.used) FILTER (WHERE b.unit = 'token'), 0)::bigint,
                  coalesce(extract(epoch FROM now() - min(spend_until)), 0)::bigint
           FROM grants g JOIN bucket b ON b.account_id = g.account_id AND b.bucket_id = g.bucket_id
           WHERE g.state = 'open' AND (spend_until < now() OR doubt IS NOT NULL)"""
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1]), int(row[2])


def find_grant(connection: Connection, account_id: UUID, grant_id: UUID) -> DictRow | None:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            """SELECT grant_id, g.account_id, g.bucket_id, b.unit, journal_id, amount, g.used, g.state, doubt
               FROM grants g JOIN bucket b ON b.account_id = g.account_id AND b.bucket_id = g.bucket_id
               WHERE g.account_id = %s AND grant_id = %s""",
            (account_id, grant_id),
        ).fetchone()


def grants_in_doubt_for(connection: Connection, seconds: int) -> list[tuple[UUID, UUID]]:
    """(account, grant) of open grants whose lease expired at least `seconds` ago, oldest first."""
    rows = connection.execute(
        """SELECT account_id, grant_id FROM grants WHERE state = 'open' AND doubt IS NULL
               AND spend_until < now() - make_interval(secs => %s) ORDER BY grant_id LIMIT %s""",
        (seconds, RECORDS_SHOWN_MAX),
    )
    return [(row[0], row[1]) for row in rows]


def write_off(
    connection: Connection, account_id: UUID, grant_id: UUID, now: datetime, *, ended: bool = False
) -> int:
    """Write off a grant in doubt, whose host is lost: its unsettled quantity returns to the bucket. Returns how much that is.

    `ended`: the caller knows that the host spends nothing any more, so the lease need not have expired. Records that the host
    settles later are late: they draw on the bucket's free quantity, and the rest is operator loss. Raises `GrantNotFound`,
    `GrantNotInDoubt`.
    """
    with connection.transaction():
        _lock_bucket_of(connection, account_id, grant_id)
        row = connection.execute(
            """SELECT bucket_id, amount, used, spend_until < %s OR doubt IS NOT NULL FROM grants
               WHERE account_id = %s AND grant_id = %s AND state = 'open' FOR UPDATE""",
            (database_now(connection), account_id, grant_id),
        ).fetchone()
        if row is None:
            raise GrantNotFound(f"there is no open grant {grant_id}: tokenworks grant list")
        bucket_id, amount, used, in_doubt_now = row
        if not in_doubt_now and not ended:
            raise GrantNotInDoubt(
                f"the host of grant {grant_id} may still spend it: wait until it expires, or stop that host"
            )
        connection.execute(
            "UPDATE grants SET state = 'written_off', closed_at = %s WHERE account_id = %s AND grant_id = %s",
            (now, account_id, grant_id),
        )
        connection.execute(
            """UPDATE bucket SET granted = granted - %s, used = used + %s, remaining = remaining + %s
               WHERE account_id = %s AND bucket_id = %s""",
            (amount, used, amount - used, account_id, bucket_id),
        )
        finish_closing(connection, account_id, bucket_id, now)
        notify_hosts(connection, account_id)
    return int(amount - used)


def return_grant(
    connection: Connection, account_id: UUID, grant_id: UUID, journal_id: UUID, amount: int, now: datetime
) -> bool:
    """Return `amount` of an open grant, which its host has free, to the bucket. Returns False if the grant is not open any more."""
    with connection.transaction():
        _lock_bucket_of(connection, account_id, grant_id)
        row = connection.execute(
            """UPDATE grants SET amount = amount - %s
               WHERE account_id = %s AND grant_id = %s AND journal_id = %s AND state = 'open' AND amount - %s >= used
               RETURNING bucket_id""",
            (amount, account_id, grant_id, journal_id, amount),
        ).fetchone()
        if row is None:
            return False
        connection.execute(
            """UPDATE bucket SET granted = granted - %s, remaining = remaining + %s
               WHERE account_id = %s AND bucket_id = %s""",
            (amount, amount, account_id, row[0]),
        )
        finish_closing(connection, account_id, row[0], now)
    return True


def open_grants_of(
    connection: Connection, account_id: UUID, journal_id: UUID
) -> list[tuple[str, str, int, int]]:
    """(bucket, grant, amount, used) of the open grants of an account that this journal has."""
    rows = connection.execute(
        """SELECT bucket_id, grant_id, amount, used FROM grants
           WHERE account_id = %s AND journal_id = %s AND state = 'open'""",
        (account_id, journal_id),
    )
    return [(bucket.hex, grant_id.hex, amount, used) for bucket, grant_id, amount, used in rows]
