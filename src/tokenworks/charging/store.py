"""The SQL of charging: the only writer of balances."""

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from tokenworks.charging.errors import (
    GrantNotFound,
    GrantNotInDoubt,
    GrantStillOpen,
)
from tokenworks.charging.messages import BucketTerms
from tokenworks.charging.model import Bucket, Granted
from tokenworks.kernel import uuid7

Connection = psycopg.Connection[tuple[Any, ...]]
Posting = tuple[str, str, UUID | None, int]
"""(ledger account, unit, bucket, amount); the amounts of an entry sum to zero per unit."""

RECORDS_SHOWN_MAX: Final = 1000
# Who waits longer than this for other hosts is not waited for: its host may be gone.
RECALL_WAIT_MAX_S: Final = 1.0
# Who asks back for no host's sake: every host is asked, and nobody is kept waiting for it.
NO_HOST: Final = UUID(int=0)


def database_now(connection: Connection) -> datetime:
    """The database's time, asked for before a statement that needs it: one that changes rows is given the time."""
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


def add_account(connection: Connection, account_id: UUID) -> None:
    connection.execute("INSERT INTO account (account_id) VALUES (%s)", (account_id,))


def account_state(connection: Connection, account_id: UUID) -> str | None:
    row = connection.execute("SELECT state FROM account WHERE account_id = %s", (account_id,)).fetchone()
    return None if row is None else str(row[0])


def _check_balanced(kind: str, ref: str, postings: Sequence[Posting]) -> None:
    """Asserts what the auditor will: an entry sums to zero per unit."""
    sums: dict[str, int] = {}
    for _, unit, _, amount in postings:
        sums[unit] = sums.get(unit, 0) + amount
    assert not any(sums.values()), f"entry {kind} {ref} does not balance: {sums}"


def post(connection: Connection, account_id: UUID, kind: str, ref: str, postings: Sequence[Posting]) -> UUID:
    """One entry. Asserts that it balances."""
    _check_balanced(kind, ref, postings)
    entry_id = uuid7()
    connection.execute(
        "INSERT INTO entry (account_id, entry_id, kind, ref) VALUES (%s, %s, %s, %s)",
        (account_id, entry_id, kind, ref),
    )
    with connection.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO posting (account_id, entry_id, line_no, ledger_account, unit, bucket_id, amount)
               VALUES (%s, %s, %s, %s, %s, %s, %s)""",
            [(account_id, entry_id, no, account, unit, bucket, amount)
             for no, (account, unit, bucket, amount) in enumerate(postings, 1)],
        )  # fmt: skip
    return entry_id


def post_many(
    connection: Connection, kind: str, entries: Sequence[tuple[UUID, str, Sequence[Posting]]]
) -> list[UUID]:
    """Entries of one kind, (account, ref, postings) each; they balance, as `post` asserts. Returns their ids in order."""
    ids = [uuid7() for _ in entries]
    with connection.cursor() as cursor:
        with cursor.copy("COPY entry (account_id, entry_id, kind, ref) FROM STDIN") as copy:
            for entry_id, (account_id, ref, postings) in zip(ids, entries, strict=True):
                _check_balanced(kind, ref, postings)
                copy.write_row((account_id, entry_id, kind, ref))
        with cursor.copy(
            "COPY posting (account_id, entry_id, line_no, ledger_account, unit, bucket_id, amount) FROM STDIN"
        ) as copy:
            for entry_id, (account_id, _, postings) in zip(ids, entries, strict=True):
                for line_no, posting in enumerate(postings, 1):
                    copy.write_row((account_id, entry_id, line_no, *posting))
    return ids


def add_bucket(
    connection: Connection,
    *,
    account_id: UUID,
    product_id: UUID | None,
    kind: str,
    unit: str,
    total: int,
    priority: int,
    valid_from: datetime,
    valid_until: datetime | None,
    model_classes: Sequence[str],
    rate_version: str,
    window_s: int | None = None,
    charge_id: UUID | None = None,
    rollover: tuple[int, datetime] | None = None,
) -> UUID:
    """`rollover`: (how much at most, until when) goes on of what it leaves at its end."""
    assert total or kind != "balance", "a zero is not a row"
    bucket_id = uuid7()
    connection.execute(
        """INSERT INTO bucket (account_id, bucket_id, product_id, kind, unit, total, remaining, priority, valid_from,
                               valid_until, model_classes, rate_version, window_s, window_quantity, charge_id,
                               rollover_left, rollover_until)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
        (account_id, bucket_id, product_id, kind, unit, total, total, priority, valid_from, valid_until,
         list(model_classes), rate_version, window_s, None if window_s is None else total, charge_id,
         *(rollover or (None, None))),
    )  # fmt: skip
    if kind == "balance" and total:
        post(
            connection, account_id, "issue", str(bucket_id),
            [("issued", unit, bucket_id, -total), ("customer_liability", unit, bucket_id, total)],
        )  # fmt: skip
    return bucket_id


def tell_account(connection: Connection, account_id: UUID) -> None:
    """Hosts that hold something of this account look at it again."""
    connection.execute("INSERT INTO change (kind, ref) VALUES ('account', %s)", (account_id.hex,))


def load_terms(connection: Connection, account_id: UUID, now: datetime) -> list[tuple[BucketTerms, int]]:
    """The buckets that can be spent now, each with what the ledger has left of it to grant.

    Prompts that are used up are among them: what goes on with a tool's result costs none.
    """
    refill_windows(connection, account_id, now)
    return terms_of(account_id, connection.execute(TERMS, {"account": account_id, "now": now}))


TERMS: Final = """SELECT bucket_id, kind, unit, priority, valid_until, model_classes, rate_version, remaining,
       CASE WHEN kind = 'balance' THEN ARRAY(
           SELECT w.bucket_id FROM bucket w WHERE w.account_id = %(account)s AND w.product_id = b.product_id
               AND w.kind = 'window' ORDER BY w.bucket_id) ELSE '{}' END
    FROM bucket b JOIN account a USING (account_id)
    WHERE b.account_id = %(account)s AND a.state = 'open' AND closing IS NULL AND NOT paused
      AND valid_from <= %(now)s AND (valid_until IS NULL OR valid_until > %(now)s)
      AND (remaining + granted > 0 OR (unit = 'prompt' AND kind = 'balance'))"""


def terms_of(account_id: UUID, rows: Iterable[tuple[Any, ...]]) -> list[tuple[BucketTerms, int]]:
    """Rows of `TERMS` as terms, each with what the ledger has left of it."""
    return [
        (
            BucketTerms(
                bucket_id=bucket_id.hex,
                account_id=account_id.hex,
                kind=kind,
                unit=unit,
                priority=priority,
                valid_until_ms=None if valid_until is None else int(valid_until.timestamp() * 1000),
                model_classes=tuple(model_classes),
                rate_version=rate_version,
                windows=tuple(window.hex for window in windows),
            ),
            remaining,
        )
        for bucket_id, kind, unit, priority, valid_until, model_classes, rate_version, remaining, windows in rows
    ]


def refill_windows(connection: Connection, account_id: UUID, now: datetime) -> None:
    """What was used of a window longer ago than it is long comes back: by exactly that its total grows."""
    due = """FROM window_use u JOIN bucket b USING (account_id, bucket_id)
             WHERE u.account_id = %(account)s AND b.closing IS NULL
               AND u.used_at <= %(now)s::timestamptz - make_interval(secs => b.window_s)"""
    names = {"account": account_id, "now": now}
    if connection.execute(f"SELECT 1 {due} LIMIT 1".encode(), names).fetchone() is None:
        return
    with connection.transaction():
        # Buckets in ascending order of their ids; who comes second finds the uses gone.
        connection.execute(
            "SELECT 1 FROM bucket WHERE account_id = %s AND kind = 'window' ORDER BY bucket_id FOR UPDATE",
            (account_id,),
        )
        connection.execute(
            f"""WITH due AS (SELECT u.bucket_id, u.usage_id, u.amount {due}),
                     gone AS (DELETE FROM window_use w USING due WHERE w.account_id = %(account)s
                              AND w.bucket_id = due.bucket_id AND w.usage_id = due.usage_id
                              RETURNING w.bucket_id, w.amount),
                     back AS (SELECT bucket_id, sum(amount)::bigint AS amount FROM gone GROUP BY 1)
                UPDATE bucket b SET total = total + back.amount, remaining = remaining + back.amount
                FROM back WHERE b.account_id = %(account)s AND b.bucket_id = back.bucket_id""".encode(),
            names,
        )


def window_back_s(connection: Connection, account_id: UUID, bucket_ids: Sequence[UUID], now: datetime) -> int:
    row = connection.execute(
        """SELECT max(back) FROM (
               SELECT extract(epoch FROM min(u.used_at) + make_interval(secs => b.window_s) - %s::timestamptz) AS back
               FROM window_use u JOIN bucket b USING (account_id, bucket_id)
               WHERE u.account_id = %s AND u.bucket_id = ANY(%s::uuid[]) GROUP BY u.bucket_id, b.window_s) w""",
        (now, account_id, list(bucket_ids)),
    ).fetchone()
    return max(1, math.ceil(row[0])) if row is not None and row[0] is not None else 1


HAS_UNIT: Final = """SELECT EXISTS (SELECT 1 FROM bucket WHERE account_id = %s AND unit = %s AND kind = 'balance'
    AND closing IS NULL AND (valid_until IS NULL OR valid_until > %s))"""


def has_unit(connection: Connection, account_id: UUID, unit: str, now: datetime) -> bool:
    row = connection.execute(HAS_UNIT, (account_id, unit, now)).fetchone()
    return bool(row and row[0])


def free_of(connection: Connection, account_id: UUID, product_id: UUID, now: datetime) -> int:
    row = connection.execute(
        """SELECT coalesce(sum(remaining), 0)::bigint FROM bucket WHERE account_id = %s AND product_id = %s
               AND kind = 'balance' AND closing IS NULL AND (valid_until IS NULL OR valid_until > %s)""",
        (account_id, product_id, now),
    ).fetchone()
    return int(row[0]) if row else 0


def granted_elsewhere(connection: Connection, account_id: UUID, journal_id: UUID) -> int:
    """What open grants of other hosts have not used: it may come back."""
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
) -> Granted | None:
    """Lease up to `amount` of a bucket to a host: open a grant, or add to the host's open one and renew it.

    `amount` may be 0 to renew only. None where the bucket can't be spent (any more), or nothing was to be had. Where
    another host has waited longer for what was given back, nothing is added: `behind`.
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
            return Granted("", 0, 0, 0.0, behind=True)
        else:
            return None
    return Granted(grant_id.hex, added, remaining - added, spend_for_s, behind)


def _lock_bucket_of(connection: Connection, account_id: UUID, grant_id: UUID) -> None:
    """A bucket is locked before its grants, here as in settlement."""
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
    """Give back what a grant has not used. Everything that its host ever wrote for it must be settled.

    Raises `GrantStillOpen` where the journal's settled sequence is below `settled_seq`. Closing twice is nothing.
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


def finish_closing(connection: Connection, account_id: UUID, bucket_id: UUID, now: datetime) -> None:
    """Take what remains out of a bucket that is closing or past its validity. Granted quantity follows later."""
    row = connection.execute(
        """SELECT kind, unit, remaining, closing, valid_until, rollover_left FROM bucket
           WHERE account_id = %s AND bucket_id = %s FOR UPDATE""",
        (account_id, bucket_id),
    ).fetchone()
    assert row is not None
    kind, unit, remaining, closing, valid_until, rollover_left = row
    if closing is None and valid_until is not None and valid_until <= now:
        closing = "expire" if rollover_left is None else "rollover"
        connection.execute(
            "UPDATE bucket SET closing = %s WHERE account_id = %s AND bucket_id = %s",
            (closing, account_id, bucket_id),
        )
    if closing == "rollover" and remaining:
        remaining -= _roll_over(connection, account_id, bucket_id, min(remaining, rollover_left))
    if closing is None or not remaining:
        return
    column, ledger_account = ("withdrawn", "withdrawn") if closing == "withdraw" else ("expired", "breakage")
    connection.execute(
        f"""UPDATE bucket SET remaining = 0, {column} = {column} + %s
            WHERE account_id = %s AND bucket_id = %s""",
        (remaining, account_id, bucket_id),
    )
    if kind == "balance":
        post(
            connection, account_id, closing, str(bucket_id),
            [("customer_liability", unit, bucket_id, -remaining), (ledger_account, unit, bucket_id, remaining)],
        )  # fmt: skip


def _roll_over(connection: Connection, account_id: UUID, bucket_id: UUID, amount: int) -> int:
    """Move so much of an ended bucket's remainder to the one that goes on with it, made at its first need: spent first,
    for one more cycle, paid by the same charge. Nothing where that one has ended. Returns how much was moved.
    """
    if not amount:
        return 0
    row = connection.execute(
        "SELECT rollover_to FROM bucket WHERE account_id = %s AND bucket_id = %s", (account_id, bucket_id)
    ).fetchone()
    assert row is not None
    to = row[0]
    if to is None:
        to = uuid7()
        connection.execute(
            """INSERT INTO bucket (account_id, bucket_id, product_id, kind, unit, total, remaining, priority, valid_from,
                                   valid_until, model_classes, rate_version, charge_id, paused)
               SELECT account_id, %s, product_id, kind, unit, 0, 0, greatest(0, priority - 1), valid_until, rollover_until,
                      model_classes, rate_version, charge_id, paused
               FROM bucket WHERE account_id = %s AND bucket_id = %s""",
            (to, account_id, bucket_id),
        )
    moved = connection.execute(
        """UPDATE bucket SET total = total + %s, remaining = remaining + %s
           WHERE account_id = %s AND bucket_id = %s AND closing IS NULL RETURNING unit""",
        (amount, amount, account_id, to),
    ).fetchone()
    if moved is None:
        return 0
    connection.execute(
        """UPDATE bucket SET remaining = remaining - %(x)s, withdrawn = withdrawn + %(x)s,
                             rollover_left = rollover_left - %(x)s, rollover_to = %(to)s
           WHERE account_id = %(account)s AND bucket_id = %(bucket)s""",
        {"x": amount, "to": to, "account": account_id, "bucket": bucket_id},
    )
    post(
        connection, account_id, "rollover", str(bucket_id),
        [("customer_liability", moved[0], bucket_id, -amount), ("customer_liability", moved[0], to, amount)],
    )  # fmt: skip
    tell_account(connection, account_id)
    return amount


def set_paused(connection: Connection, account_id: UUID, product_id: UUID, *, paused: bool) -> None:
    connection.execute(
        "UPDATE bucket SET paused = %s WHERE account_id = %s AND product_id = %s",
        (paused, account_id, product_id),
    )


def start_closing(
    connection: Connection,
    account_id: UUID,
    product_id: UUID,
    reason: str,
    now: datetime,
    *,
    charge_id: UUID | None = None,
    uncharged: bool = False,
    kind: str | None = None,
) -> list[UUID]:
    """Forbid new grants on a product's buckets (of one charge, of none, of one kind) and take back what remains. Returns those
    that still have grants.
    """
    pending = []
    rows = connection.execute(
        """SELECT bucket_id, granted FROM bucket WHERE account_id = %(account)s AND product_id = %(product)s
               AND closing IS NULL AND (%(charge)s::uuid IS NULL OR charge_id = %(charge)s)
               AND (NOT %(uncharged)s OR charge_id IS NULL) AND (%(kind)s::text IS NULL OR kind = %(kind)s) ORDER BY bucket_id FOR UPDATE""",
        {
            "account": account_id,
            "product": product_id,
            "charge": charge_id,
            "uncharged": uncharged,
            "kind": kind,
        },
    ).fetchall()
    for bucket_id, granted in rows:
        connection.execute(
            "UPDATE bucket SET closing = %s WHERE account_id = %s AND bucket_id = %s",
            (reason, account_id, bucket_id),
        )
        finish_closing(connection, account_id, bucket_id, now)
        if granted:
            pending.append(bucket_id)
    tell_account(connection, account_id)
    return pending


def expire_due(connection: Connection, now: datetime, limit: int) -> int:
    """Expire buckets whose validity has passed, a bounded number a call. Returns how many."""
    rows = connection.execute(
        """SELECT account_id, bucket_id FROM bucket WHERE valid_until <= %s AND remaining > 0
           ORDER BY account_id, bucket_id LIMIT %s""",
        (now, limit),
    ).fetchall()
    for account_id, bucket_id in rows:
        with connection.transaction():
            finish_closing(connection, account_id, bucket_id, now)
            tell_account(connection, account_id)
    return len(rows)


def buckets(connection: Connection, account_id: UUID) -> list[Bucket]:
    rows = connection.execute(
        """SELECT b.bucket_id, product_id, kind, unit, total, remaining, granted,
                  coalesce((SELECT sum(g.used) FROM grants g WHERE g.account_id = %(account)s
                            AND g.bucket_id = b.bucket_id AND g.state = 'open'), 0)::bigint,
                  used, expired, withdrawn, priority, valid_from, valid_until, model_classes, rate_version, closing,
                  window_s, window_quantity, cap_of
           FROM bucket b WHERE b.account_id = %(account)s ORDER BY priority, valid_until NULLS LAST, bucket_id""",
        {"account": account_id},
    )
    return [
        Bucket(
            bucket_id=row[0], product_id=row[1], kind=row[2], unit=row[3], total=row[4], remaining=row[5], granted=row[6],
            granted_used=row[7], used=row[8], expired=row[9], withdrawn=row[10], priority=row[11], valid_from=row[12],
            valid_until=row[13], model_classes=tuple(row[14]), rate_version=row[15], closing=row[16], window_s=row[17],
            window_quantity=row[18], cap_of=row[19],
        )
        for row in rows
    ]  # fmt: skip


def register_journal(connection: Connection, journal_id: UUID, host: str) -> int:
    """The journal's settled sequence; registers a new one at 0."""
    connection.execute(
        "INSERT INTO journal (journal_id, host) VALUES (%s, %s) ON CONFLICT DO NOTHING", (journal_id, host)
    )
    row = connection.execute(
        "SELECT settled_seq FROM journal WHERE journal_id = %s", (journal_id,)
    ).fetchone()
    assert row is not None
    return int(row[0])


def settled_seq(connection: Connection, journal_id: UUID) -> int | None:
    row = connection.execute(
        "SELECT settled_seq FROM journal WHERE journal_id = %s", (journal_id,)
    ).fetchone()
    return None if row is None else int(row[0])


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


def grants(connection: Connection, account_id: UUID | None, limit: int) -> list[dict[str, Any]]:
    """Open grants, oldest first: whose, how much (in thousandths of `unit`), how long, and whether in doubt."""
    whose = "" if account_id is None else "AND g.account_id = %(account)s"
    cursor = connection.execute(
        f"""SELECT grant_id, g.account_id, g.bucket_id, b.unit, host, g.journal_id, amount, g.used, opened_at, spend_until,
                  CASE WHEN doubt IS NOT NULL THEN doubt WHEN spend_until < now() THEN 'expired' END AS in_doubt
           FROM grants g JOIN journal j USING (journal_id)
                JOIN bucket b ON b.account_id = g.account_id AND b.bucket_id = g.bucket_id
           WHERE g.state = 'open' {whose} ORDER BY opened_at, grant_id LIMIT %(limit)s""".encode(),
        {"account": account_id, "limit": limit},
    )
    assert cursor.description is not None
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def ask_grant_back(connection: Connection, account_id: UUID, grant_id: UUID) -> None:
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
    """(grants, thousandths of tokens in them, seconds since the oldest expired) of what is in doubt."""
    row = connection.execute(
        """SELECT count(*), coalesce(sum(amount - g.used) FILTER (WHERE b.unit = 'token'), 0)::bigint,
                  coalesce(extract(epoch FROM now() - min(spend_until)), 0)::bigint
           FROM grants g JOIN bucket b ON b.account_id = g.account_id AND b.bucket_id = g.bucket_id
           WHERE g.state = 'open' AND (spend_until < now() OR doubt IS NOT NULL)"""
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1]), int(row[2])


def find_grant(connection: Connection, account_id: UUID, grant_id: UUID) -> dict[str, Any] | None:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            """SELECT grant_id, g.account_id, g.bucket_id, b.unit, journal_id, amount, g.used, g.state, doubt
               FROM grants g JOIN bucket b ON b.account_id = g.account_id AND b.bucket_id = g.bucket_id
               WHERE g.account_id = %s AND grant_id = %s""",
            (account_id, grant_id),
        ).fetchone()


def grants_in_doubt_for(connection: Connection, seconds: int) -> list[tuple[UUID, UUID]]:
    """(account, grant) of open grants whose lease ended so long ago, oldest first."""
    rows = connection.execute(
        """SELECT account_id, grant_id FROM grants WHERE state = 'open' AND doubt IS NULL
               AND spend_until < now() - make_interval(secs => %s) ORDER BY grant_id LIMIT %s""",
        (seconds, RECORDS_SHOWN_MAX),
    )
    return [(row[0], row[1]) for row in rows]


def write_off(
    connection: Connection, account_id: UUID, grant_id: UUID, now: datetime, *, ended: bool = False
) -> int:
    """Take a grant in doubt back from a host that is lost: what is not settled is free again. Returns how much. `ended`: its host
    is known to spend nothing any more, so that the end of its lease is not waited for.

    What that host settles after all is late: it draws on what is free, the rest is operator loss.
    Raises `GrantNotFound`, `GrantNotInDoubt`.
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
        tell_account(connection, account_id)
    return int(amount - used)


def set_account_state(connection: Connection, account_id: UUID, state: str) -> bool:
    """Freeze or open an account; hosts hear of it. Whether there is such an account that is not closed."""
    with connection.transaction():
        changed = connection.execute(
            "UPDATE account SET state = %s WHERE account_id = %s AND state <> 'closed'", (state, account_id)
        ).rowcount
        connection.execute("INSERT INTO change (kind, ref) VALUES ('freeze', %s)", (account_id.hex,))
    return bool(changed)


def first_waiter(connection: Connection, account_id: UUID, wait_s: float) -> UUID | None:
    """The journal that has waited longest for what others hold of an account, None where nobody waits."""
    return first_waiters(connection, [account_id], wait_s).get(account_id)


def first_waiters(connection: Connection, account_ids: Sequence[UUID], wait_s: float) -> dict[UUID, UUID]:
    """`first_waiter` of each account that has one."""
    if not account_ids:
        return {}
    rows = connection.execute(
        """SELECT DISTINCT ON (account_id) account_id, journal_id FROM recall
           WHERE account_id = ANY(%s) AND ended_at IS NULL AND journal_id <> %s
             AND asked_at > clock_timestamp() - make_interval(secs => %s) ORDER BY account_id, recall_id""",
        (list(account_ids), NO_HOST, wait_s),
    )
    return {row[0]: row[1] for row in rows}


def return_grant(
    connection: Connection, account_id: UUID, grant_id: UUID, journal_id: UUID, amount: int, now: datetime
) -> bool:
    """Give back a part of an open grant that its host has free. False where the grant is not open any more."""
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
    """(bucket, grant, amount, used) that this journal has open of an account."""
    rows = connection.execute(
        """SELECT bucket_id, grant_id, amount, used FROM grants
           WHERE account_id = %s AND journal_id = %s AND state = 'open'""",
        (account_id, journal_id),
    )
    return [(bucket.hex, grant_id.hex, amount, used) for bucket, grant_id, amount, used in rows]
