"""The SQL of charging: the only writer of balances."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import psycopg

from tokenworks.charging.errors import GrantStillOpen
from tokenworks.charging.model import Bucket, BucketTerms, Granted
from tokenworks.kernel import uuid7

Connection = psycopg.Connection[tuple[Any, ...]]
Posting = tuple[str, str, UUID | None, int]
"""(ledger account, unit, bucket, amount); the amounts of an entry sum to zero per unit."""

RECORDS_SHOWN_MAX: Final = 1000


def add_account(connection: Connection, account_id: UUID) -> None:
    connection.execute("INSERT INTO account (account_id) VALUES (%s)", (account_id,))


def account_state(connection: Connection, account_id: UUID) -> str | None:
    row = connection.execute("SELECT state FROM account WHERE account_id = %s", (account_id,)).fetchone()
    return None if row is None else str(row[0])


def post(connection: Connection, account_id: UUID, kind: str, ref: str, postings: Sequence[Posting]) -> UUID:
    """One entry. Asserts what the auditor will: it sums to zero per unit."""
    sums: dict[str, int] = {}
    for _, unit, _, amount in postings:
        sums[unit] = sums.get(unit, 0) + amount
    assert not any(sums.values()), f"entry {kind} {ref} does not balance: {sums}"
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
) -> UUID:
    bucket_id = uuid7()
    connection.execute(
        """INSERT INTO bucket (account_id, bucket_id, product_id, kind, unit, total, remaining, priority, valid_from,
                               valid_until, model_classes, rate_version)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
        (account_id, bucket_id, product_id, kind, unit, total, total, priority, valid_from, valid_until,
         list(model_classes), rate_version),
    )  # fmt: skip
    if kind == "balance":
        post(
            connection, account_id, "issue", str(bucket_id),
            [("issued", unit, bucket_id, -total), ("customer_liability", unit, bucket_id, total)],
        )  # fmt: skip
    return bucket_id


def tell_account(connection: Connection, account_id: UUID) -> None:
    """Hosts that hold something of this account look at it again."""
    connection.execute("INSERT INTO change (kind, ref) VALUES ('account', %s)", (account_id.hex,))


def load_terms(connection: Connection, account_id: UUID, now: datetime) -> list[tuple[BucketTerms, int]]:
    """The buckets that can be spent now, each with what the ledger has left of it to grant."""
    rows = connection.execute(
        """SELECT bucket_id, kind, unit, priority, valid_until, model_classes, rate_version, remaining
           FROM bucket b JOIN account a USING (account_id)
           WHERE b.account_id = %s AND a.state = 'open' AND closing IS NULL
             AND valid_from <= %s AND (valid_until IS NULL OR valid_until > %s) AND remaining + granted > 0""",
        (account_id, now, now),
    )
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
            ),
            remaining,
        )
        for bucket_id, kind, unit, priority, valid_until, model_classes, rate_version, remaining in rows
    ]


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

    `amount` may be 0 to renew only. None where the bucket can't be spent (any more), or nothing was to be had.
    """
    with connection.transaction():
        row = connection.execute(
            """SELECT remaining, valid_until FROM bucket b JOIN account a USING (account_id)
               WHERE b.account_id = %s AND bucket_id = %s AND closing IS NULL AND a.state = 'open'
                 AND valid_from <= %s AND (valid_until IS NULL OR valid_until > %s) FOR UPDATE OF b""",
            (account_id, bucket_id, now, now),
        ).fetchone()
        if row is None:
            return None
        remaining, valid_until = row
        added = min(remaining, amount)
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
        else:
            return None
    return Granted(grant_id.hex, added, remaining - added, spend_for_s)


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
        row = connection.execute(
            """SELECT bucket_id, amount, used FROM grants
               WHERE account_id = %s AND grant_id = %s AND journal_id = %s AND state = 'open' FOR UPDATE""",
            (account_id, grant_id, journal_id),
        ).fetchone()
        if row is None:
            return
        bucket_id, amount, used = row
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
        """SELECT kind, unit, remaining, closing, valid_until FROM bucket
           WHERE account_id = %s AND bucket_id = %s FOR UPDATE""",
        (account_id, bucket_id),
    ).fetchone()
    assert row is not None
    kind, unit, remaining, closing, valid_until = row
    if closing is None and valid_until is not None and valid_until <= now:
        closing = "expire"
        connection.execute(
            "UPDATE bucket SET closing = 'expire' WHERE account_id = %s AND bucket_id = %s",
            (account_id, bucket_id),
        )
    if closing is None or not remaining:
        return
    column, ledger_account = ("expired", "breakage") if closing == "expire" else ("withdrawn", "withdrawn")
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


def start_closing(
    connection: Connection, account_id: UUID, product_id: UUID, reason: str, now: datetime
) -> list[UUID]:
    """Forbid new grants on a product's buckets and take back what remains. Returns those that still have grants."""
    pending = []
    rows = connection.execute(
        "SELECT bucket_id, granted FROM bucket WHERE account_id = %s AND product_id = %s AND closing IS NULL ORDER BY bucket_id FOR UPDATE",
        (account_id, product_id),
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
                  coalesce((SELECT sum(g.used) FROM grants g WHERE g.account_id = b.account_id
                            AND g.bucket_id = b.bucket_id AND g.state = 'open'), 0)::bigint,
                  used, expired, withdrawn, priority, valid_from, valid_until, model_classes, rate_version, closing
           FROM bucket b WHERE b.account_id = %s ORDER BY priority, valid_until NULLS LAST, bucket_id""",
        (account_id,),
    )
    return [
        Bucket(
            bucket_id=row[0], product_id=row[1], kind=row[2], unit=row[3], total=row[4], remaining=row[5], granted=row[6],
            granted_used=row[7], used=row[8], expired=row[9], withdrawn=row[10], priority=row[11], valid_from=row[12],
            valid_until=row[13], model_classes=tuple(row[14]), rate_version=row[15], closing=row[16],
        )
        for row in rows
    ]  # fmt: skip


def usage(connection: Connection, account_id: UUID, floor: UUID | None, limit: int) -> list[dict[str, Any]]:
    """Usage records, newest first."""
    cursor = connection.execute(
        """SELECT usage_id, request_id, attempt_no, key_id, member_id, protocol, model, deployment, state, reason,
                  counted_by, started_at, ended_at, first_byte_ms, latency_ms, fresh_input, cached_input, cache_write,
                  audio_input, output, reasoning, audio_output, provider_total, parts, loss, flags, upstream_id
           FROM usage WHERE account_id = %s AND usage_id >= %s ORDER BY usage_id DESC LIMIT %s""",
        (account_id, floor or UUID(int=0), min(limit, RECORDS_SHOWN_MAX)),
    )
    assert cursor.description is not None
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def owns_upstream_id(connection: Connection, account_id: UUID, upstream_id: str) -> str | None:
    """The deployment from which this account received an upstream object, or None."""
    row = connection.execute(
        "SELECT deployment FROM usage WHERE account_id = %s AND upstream_id = %s ORDER BY usage_id DESC LIMIT 1",
        (account_id, upstream_id),
    ).fetchone()
    return None if row is None else str(row[0])


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


_SETTLE: Final = """
WITH incoming AS MATERIALIZED (
    SELECT (e->>0)::bigint AS seq, r.* FROM jsonb_array_elements(%(records)s::jsonb) e, jsonb_to_record(e->1) AS r(
        account_id uuid, usage_id uuid, request_id text, attempt_no int, key_id uuid, member_id uuid, protocol text,
        model text, deployment text, state text, reason text, counted_by text, started_ms bigint, ended_ms bigint,
        first_byte_ms int, latency_ms int, c jsonb, provider_total bigint, parts jsonb, loss jsonb, flags jsonb,
        upstream_id text)
    WHERE (e->>0)::bigint > %(settled)s
), entries AS MATERIALIZED (
    SELECT account_id, gen_random_uuid() AS entry_id FROM (SELECT DISTINCT account_id FROM incoming) a
), inserted AS (
    INSERT INTO usage (account_id, usage_id, request_id, attempt_no, key_id, member_id, protocol, model, deployment,
        state, reason, counted_by, started_at, ended_at, first_byte_ms, latency_ms, fresh_input, cached_input,
        cache_write, audio_input, output, reasoning, audio_output, provider_total, parts, loss, flags, upstream_id,
        journal_id, seq, entry_id)
    SELECT i.account_id, usage_id, request_id, attempt_no, key_id, member_id, protocol, model, deployment, state,
        reason, counted_by, to_timestamp(started_ms / 1000.0), to_timestamp(ended_ms / 1000.0), first_byte_ms,
        latency_ms, (c->>0)::bigint, (c->>1)::bigint, (c->>2)::bigint, (c->>3)::bigint, (c->>4)::bigint,
        (c->>5)::bigint, (c->>6)::bigint, provider_total, parts, nullif(loss, 'null'::jsonb),
        ARRAY(SELECT jsonb_array_elements_text(flags)), upstream_id, %(journal)s, seq, e.entry_id
    FROM incoming i JOIN entries e USING (account_id)
    RETURNING account_id, usage_id, entry_id, parts
), part AS MATERIALIZED (
    SELECT account_id, entry_id, (p->>0)::uuid AS bucket_id, (p->>1)::uuid AS grant_id, p->>3 AS unit, p->>4 AS kind,
        sum((p->>5)::bigint)::bigint AS amount
    FROM inserted, jsonb_array_elements(parts) p GROUP BY 1, 2, 3, 4, 5, 6
), drawn AS (
    UPDATE grants g SET used = used + part.amount
    FROM part WHERE g.account_id = part.account_id AND g.grant_id = part.grant_id AND g.state = 'open'
        AND g.journal_id = %(journal)s
    RETURNING g.grant_id
), entered AS (
    INSERT INTO entry (account_id, entry_id, kind, ref)
    SELECT account_id, entry_id, 'usage', %(ref)s FROM entries
), posted AS (
    INSERT INTO posting (account_id, entry_id, line_no, ledger_account, unit, bucket_id, amount)
    SELECT account_id, entry_id, row_number() OVER (PARTITION BY account_id, entry_id ORDER BY bucket_id, side),
        CASE side WHEN 0 THEN 'customer_liability' ELSE 'used' END, unit, bucket_id,
        CASE side WHEN 0 THEN -amount ELSE amount END
    FROM (SELECT account_id, entry_id, bucket_id, unit, sum(amount)::bigint AS amount FROM part
          WHERE kind = 'balance' AND amount > 0 GROUP BY 1, 2, 3, 4) b, generate_series(0, 1) side
    RETURNING 1
), lost AS (
    INSERT INTO posting (account_id, entry_id, line_no, ledger_account, unit, bucket_id, amount)
    SELECT account_id, entry_id, 1000000 + side, CASE side WHEN 0 THEN 'produced' ELSE 'operator_loss' END, 'token', NULL,
        CASE side WHEN 0 THEN -tokens ELSE tokens END
    FROM (SELECT i.account_id, e.entry_id,
                 (1000 * sum((SELECT sum(t::bigint) FROM jsonb_array_elements_text(i.loss->1) t)))::bigint AS tokens
          FROM incoming i JOIN entries e USING (account_id) WHERE jsonb_typeof(i.loss) = 'array' GROUP BY 1, 2) l,
         generate_series(0, 1) side WHERE tokens > 0
    RETURNING 1
)
SELECT (SELECT count(*) FROM inserted), (SELECT count(DISTINCT grant_id) FROM part), (SELECT count(*) FROM drawn)
"""


def settle(
    connection: Connection,
    journal_id: UUID,
    up_to_seq: int,
    records_json: str,
    grants: Collection[tuple[str, str]],
) -> int:
    """Apply records above the journal's settled sequence and advance it: one transaction, exactly once.

    `grants` are the (account, grant) pairs that the records name. Returns how many records were applied. A record whose grant is not this journal's open grant is an error.
    """
    with connection.transaction():
        row = connection.execute(
            "SELECT settled_seq FROM journal WHERE journal_id = %s FOR UPDATE", (journal_id,)
        ).fetchone()
        assert row is not None, f"journal {journal_id} is not registered"
        settled = int(row[0])
        if up_to_seq <= settled:
            return 0
        # Grants are locked in ascending order of their key.
        connection.execute(
            """SELECT 1 FROM grants WHERE (account_id, grant_id) IN (SELECT * FROM unnest(%s::uuid[], %s::uuid[]))
               ORDER BY account_id, grant_id FOR UPDATE""",
            ([account for account, _ in grants], [grant_id for _, grant_id in grants]),
        )
        row = connection.execute(
            _SETTLE,
            {
                "records": records_json,
                "settled": settled,
                "journal": journal_id,
                "ref": f"{journal_id}:{settled + 1}-{up_to_seq}",
            },
        ).fetchone()
        assert row is not None
        applied, grants_named, grants_drawn = row
        assert grants_named == grants_drawn, (
            f"{grants_named - grants_drawn} grants are not open grants of journal {journal_id}"
        )
        connection.execute(
            "UPDATE journal SET settled_seq = %s, settled_at = now() WHERE journal_id = %s",
            (up_to_seq, journal_id),
        )
    return int(applied)
