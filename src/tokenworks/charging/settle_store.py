"""The SQL of settlement: records applied exactly once by sequence, late ones, and quarantine."""

import contextlib
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from operator import add
from typing import Any, Final
from uuid import UUID

import msgspec
import psycopg

from tokenworks.catalog import Counts, split
from tokenworks.charging.errors import LedgerWentBack, QuarantineNotFound, RecordRefused
from tokenworks.charging.model import (
    CAP_WEIGHTS,
    Loss,
    Part,
    RateLookup,
    UsageRecord,
    decode_record,
    encode_record,
)
from tokenworks.charging.store import Connection
from tokenworks.charging.unpaid_store import UNPAID_MARK, draw_unpaid, lock_buckets
from tokenworks.kernel import uuid7

_SETTLE: Final = """
WITH incoming AS MATERIALIZED (
    SELECT (e->>0)::bigint AS seq, r.* FROM jsonb_array_elements(%(records)s::jsonb) e, jsonb_to_record(e->1) AS r(
        account_id uuid, usage_id uuid, request_id text, attempt_no int, key_id uuid, member_id uuid, protocol text,
        model text, deployment text, state text, reason text, counted_by text, started_ms bigint, ended_ms bigint,
        first_byte_ms int, latency_ms int, c jsonb, provider_total bigint, parts jsonb, loss jsonb, flags jsonb,
        upstream_id text, prompt boolean, asked text, choice text, risk_tokens bigint)
    WHERE (e->>0)::bigint > %(settled)s
), losing AS MATERIALIZED (
    -- [[cause, requests, [tokens by class]], …]; releases before schema 0011 wrote [requests, [tokens by class]].
    SELECT usage_id, account_id, CASE WHEN jsonb_typeof(loss->0) = 'number'
        THEN jsonb_build_array(jsonb_build_array('unnamed', loss->0, loss->1)) ELSE loss END AS loss
    FROM incoming WHERE jsonb_typeof(loss) = 'array' AND loss <> '[]'
), lost_tokens AS MATERIALIZED (
    SELECT account_id, l->>0 AS cause, (SELECT coalesce(sum(t::bigint), 0) FROM jsonb_array_elements_text(l->2) t) AS tokens
    FROM losing, jsonb_array_elements(loss) l
), entries AS MATERIALIZED (
    SELECT account_id, gen_random_uuid() AS entry_id FROM (SELECT DISTINCT account_id FROM incoming) a
), inserted AS (
    INSERT INTO usage (account_id, usage_id, request_id, attempt_no, key_id, member_id, protocol, model, deployment,
        state, reason, counted_by, started_at, ended_at, first_byte_ms, latency_ms, fresh_input, cached_input,
        cache_write, audio_input, output, reasoning, audio_output, cache_write_1h, provider_total, parts, loss, flags,
        upstream_id, prompt, asked, choice, journal_id, seq, entry_id)
    SELECT i.account_id, usage_id, request_id, attempt_no, key_id, member_id, protocol, model, deployment, state,
        reason, counted_by, to_timestamp(started_ms / 1000.0), to_timestamp(ended_ms / 1000.0), first_byte_ms,
        latency_ms, (c->>0)::bigint, (c->>1)::bigint, (c->>2)::bigint, (c->>3)::bigint, (c->>4)::bigint,
        (c->>5)::bigint, (c->>6)::bigint, coalesce((c->>7)::bigint, 0), provider_total, parts, l.loss,
        ARRAY(SELECT jsonb_array_elements_text(flags)), upstream_id, coalesce(prompt, true), asked, choice, %(journal)s, seq, e.entry_id
    FROM incoming i JOIN entries e USING (account_id) LEFT JOIN losing l USING (usage_id)
    RETURNING account_id, usage_id, entry_id, parts, ended_at
), part AS MATERIALIZED (
    SELECT account_id, entry_id, (p->>0)::uuid AS bucket_id, (p->>1)::uuid AS grant_id, p->>3 AS unit, p->>4 AS kind,
        sum((p->>5)::bigint)::bigint AS amount
    FROM inserted, jsonb_array_elements(parts) p GROUP BY 1, 2, 3, 4, 5, 6
), windowed AS (
    INSERT INTO window_use (account_id, bucket_id, usage_id, used_at, amount)
    SELECT account_id, (p->>0)::uuid, usage_id, ended_at, (p->>5)::bigint
    FROM inserted, jsonb_array_elements(parts) p WHERE p->>4 = 'window' AND (p->>5)::bigint > 0
    RETURNING 1
), drawn AS (
    UPDATE grants g SET used = used + part.amount
    FROM part WHERE part.amount > 0 AND g.account_id = part.account_id AND g.grant_id = part.grant_id AND g.state = 'open'
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
    FROM (SELECT account_id, entry_id, (1000 * sum(tokens))::bigint AS tokens
          FROM lost_tokens JOIN entries USING (account_id) GROUP BY 1, 2) l,
         generate_series(0, 1) side WHERE tokens > 0
    RETURNING 1
), risked AS (
    INSERT INTO account_loss (account_id, day, risk_tokens)
    SELECT account_id, (to_timestamp(ended_ms / 1000.0) AT TIME ZONE 'UTC')::date, sum(risk_tokens)::bigint
    FROM incoming WHERE risk_tokens > 0 GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (account_id, day) DO UPDATE SET risk_tokens = account_loss.risk_tokens + excluded.risk_tokens
    RETURNING 1
)
SELECT (SELECT count(*) FROM inserted),
    (SELECT count(DISTINCT grant_id) FROM part WHERE amount > 0 AND NOT grant_id = ANY(%(gone)s::uuid[])), (SELECT count(*) FROM drawn),
    (SELECT coalesce(jsonb_object_agg(cause, tokens), '{}') FROM (SELECT cause, sum(tokens)::bigint AS tokens FROM lost_tokens
                                                                  GROUP BY 1) c)
"""


Settling = tuple[int, str, list[tuple[str, str, int]], bytes]
"""(sequence, account, [(bucket, grant, amount), …], record as JSON)"""


def settle(
    connection: Connection,
    journal_id: UUID,
    up_to_seq: int,
    batch: Sequence[Settling],
    rates: RateLookup,
    *,
    expected: int = 0,
    quarantine: dict[str, str] | None = None,
    lost_tokens: Counter[str] | None = None,
) -> int:
    """Apply records above the journal's settled sequence and advance it: one transaction, exactly once.

    Records whose grant was written off are late: they draw on what their buckets have free. What a host could not pay of a
    record is drawn from what its account has left. Raises one of `REFUSALS` where the database will never take a record; with
    `quarantine` such records are bisected out instead, and usage id and reason are put there. Returns how many records were
    applied; their losses, in tokens by cause, are added to `lost_tokens`. Raises `LedgerWentBack` where the database has
    settled less than `expected`.
    """
    lost: Counter[str] = Counter()
    with connection.transaction():
        row = connection.execute(
            "SELECT settled_seq FROM journal WHERE journal_id = %s FOR UPDATE", (journal_id,)
        ).fetchone()
        assert row is not None, f"journal {journal_id} is not registered"
        settled = int(row[0])
        if settled < expected:
            raise LedgerWentBack(f"the database had settled {expected}, and now says {settled}")
        if up_to_seq <= settled:
            return 0
        batch = [settling for settling in batch if settling[0] > settled]
        if quarantine is None:
            applied = _apply(
                connection, journal_id, batch, rates, settled, f"{settled + 1}-{up_to_seq}", lost
            )
        else:
            range_ = (settled + 1, up_to_seq)
            applied = _apply_apart(connection, journal_id, batch, rates, settled, range_, quarantine, lost)
        connection.execute(
            "UPDATE journal SET settled_seq = %s, settled_at = now() WHERE journal_id = %s",
            (up_to_seq, journal_id),
        )
    if lost_tokens is not None:
        lost_tokens.update(lost)
    return applied


def _apply_apart(
    connection: Connection,
    journal_id: UUID,
    batch: Sequence[Settling],
    rates: RateLookup,
    settled: int,
    range_: tuple[int, int],
    quarantine: dict[str, str],
    lost: Counter[str],
) -> int:
    """Halve what is refused until single records are left; those go to quarantine. `range_`: the sequences that this settles."""
    if not batch:
        return 0
    try:
        with connection.transaction():
            return _apply(connection, journal_id, batch, rates, settled, f"{range_[0]}-{range_[1]}", lost)
    except REFUSALS as error:
        if len(batch) == 1:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:500]
            quarantine[_quarantine(connection, journal_id, batch[0], reason)] = reason
            return 0
    half = len(batch) // 2
    # A frame's records have one sequence: both halves may have some of it.
    parts = (
        (batch[:half], (range_[0], batch[half - 1][0])),
        (batch[half:], (batch[half][0], range_[1])),
    )
    return sum(
        _apply_apart(connection, journal_id, part, rates, settled, of_part, quarantine, lost)
        for part, of_part in parts
    )


def _apply(
    connection: Connection,
    journal_id: UUID,
    batch: Sequence[Settling],
    rates: RateLookup,
    settled: int,
    ref: str,
    lost: Counter[str],
) -> int:
    lock_buckets(connection, {account_id for _, account_id, _, record in batch if UNPAID_MARK in record})
    # What costs nothing draws on no grant.
    named = {(account_id, part[1]) for _, account_id, used, _ in batch for part in used if part[2]}
    # Grants are locked in ascending order of their key.
    states = connection.execute(
        """SELECT account_id, grant_id, state, journal_id FROM grants
           WHERE (account_id, grant_id) IN (SELECT * FROM unnest(%s::uuid[], %s::uuid[]))
           ORDER BY account_id, grant_id FOR UPDATE""",
        ([account for account, _ in named], [grant_id for _, grant_id in named]),
    ).fetchall()
    ours = {(a.hex, g.hex): state for a, g, state, journal in states if journal == journal_id}
    unknown = named - {(a.hex, g.hex) for a, g, _, _ in states}
    if unknown:
        _register_lost(connection, journal_id, batch, unknown)
        ours |= dict.fromkeys(unknown, "written_off")
    if any(ours.get(key) not in {"open", "written_off"} for key in named):
        missing = min(key[1] for key in named if ours.get(key) not in {"open", "written_off"})
        raise RecordRefused(f"grant {missing} is not open, or not of journal {journal_id}")
    gone = {grant_id for (_, grant_id), state in ours.items() if state == "written_off"}
    texts = []
    closed: set[str] = set()
    for _, _, used, text in batch:
        late = not gone.isdisjoint(part[1] for part in used)
        if not late and UNPAID_MARK not in text:
            texts.append(text)
            continue
        record = decode_record(text)
        if late:
            _late(connection, record, gone, rates)
        closed |= draw_unpaid(connection, journal_id, record, rates)
        assert record.unpaid is None, "what is unpaid is paid or lost before it is history"
        texts.append(encode_record(record))
    records = b"[%b]" % b",".join(
        [b"[%d,%b]" % (settling[0], text) for settling, text in zip(batch, texts, strict=True)]
    )
    row = connection.execute(
        _SETTLE,
        {
            "records": records.decode(),
            "settled": settled,
            "journal": journal_id,
            "gone": [*gone, *closed],
            "ref": f"{journal_id}:{ref}",
        },
    ).fetchone()
    assert row is not None
    applied, grants_named, grants_drawn, lost_here = row
    if grants_named != grants_drawn:
        raise RecordRefused(f"{grants_named - grants_drawn} grants are not open")
    lost.update(lost_here)
    return int(applied)


def _register_lost(
    connection: Connection, journal_id: UUID, batch: Sequence[Settling], unknown: set[tuple[str, str]]
) -> None:
    """The database went back to before it made these grants. They are known again, with nothing in them: what was spent of
    them is late, and draws on what its bucket has free.
    """
    buckets = {
        (account_id, grant_id): bucket_id
        for _, account_id, used, _ in batch
        for bucket_id, grant_id, _ in used
    }
    for account_id, grant_id in sorted(unknown):
        made = connection.execute(
            """INSERT INTO grants (account_id, grant_id, bucket_id, journal_id, amount, state, spend_until, closed_at)
               SELECT account_id, %(grant)s, bucket_id, %(journal)s, 0, 'written_off', now(), now() FROM bucket
               WHERE account_id = %(account)s AND bucket_id = %(bucket)s""",
            {
                "grant": UUID(grant_id),
                "journal": journal_id,
                "account": UUID(account_id),
                "bucket": UUID(buckets[account_id, grant_id]),
            },
        ).rowcount
        if not made:
            raise RecordRefused(f"grant {grant_id} is of a bucket that this account does not have")


def _late(connection: Connection, record: UsageRecord, gone: Collection[str], rates: RateLookup) -> None:
    """A record of a grant that was written off: it draws on what its bucket has free, the rest is operator loss."""
    account_id = UUID(record.account_id)
    parts: list[Part] = []
    loss_requests, loss_counts = 0, Counts()
    for part in record.parts:
        if part.grant_id not in gone:
            parts.append(part)
            continue
        row = connection.execute(
            "SELECT remaining FROM bucket WHERE account_id = %s AND bucket_id = %s FOR UPDATE",
            (account_id, UUID(part.bucket_id)),
        ).fetchone()
        found = rates(part.rate_version, record.model)
        if row is None or (found is None and part.kind != "cap"):
            raise RecordRefused(f"bucket {part.bucket_id} or its rate is not there")
        weights = CAP_WEIGHTS if found is None else found[1]
        counts = record.c if part.counts is None else part.counts
        if not part.requests or (part.unit == "prompt" and not record.prompt):
            weights = weights._replace(request=0)
        (share,), requests, left = split([(weights, min(row[0], part.amount))], counts)
        connection.execute(
            """UPDATE bucket SET remaining = remaining - %(x)s, used = used + %(x)s
               WHERE account_id = %(account)s AND bucket_id = %(bucket)s""",
            {"x": share.amount, "account": account_id, "bucket": UUID(part.bucket_id)},
        )
        connection.execute(
            """UPDATE grants SET used = used + %(x)s, amount = greatest(amount, used + %(x)s)
               WHERE account_id = %(account)s AND grant_id = %(grant)s""",
            {"x": share.amount, "account": account_id, "grant": UUID(part.grant_id)},
        )
        parts.append(
            part._replace(
                amount=share.amount, requests=min(share.requests, part.requests), counts=share.counts
            )
        )
        if part.kind == "balance":
            loss_requests += min(requests, part.requests)
            loss_counts = Counts(*map(add, loss_counts, left))
    record.parts = parts
    if loss_requests or any(loss_counts):
        record.loss = [*record.loss, Loss("late", loss_requests, loss_counts)]
    record.flags = [*record.flags, "late"]


REFUSALS: Final = (psycopg.DataError, psycopg.IntegrityError, RecordRefused, msgspec.DecodeError)
"""What says that a record will never be taken as it is, as opposed to a database that does not answer."""


def _quarantine(connection: Connection, journal_id: UUID, settling: Settling, reason: str) -> str:
    """Keep a refused record, with its grants in doubt. Returns its name: the usage id, or its place in the journal."""
    seq, account_id, used, text = settling
    try:
        name = decode_record(text).usage_id
    except msgspec.DecodeError:
        name = f"{seq}:{zlib.crc32(text):08x}"
    connection.execute(
        """INSERT INTO quarantine (quarantine_id, journal_id, seq, account_id, usage_id, record, reason)
           VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING""",
        (
            uuid7(),
            journal_id,
            seq,
            UUID(account_id),
            name,
            text.decode(errors="backslashreplace").replace("\0", "\\0"),
            reason,
        ),
    )
    connection.execute(
        """UPDATE grants SET doubt = 'quarantine' WHERE account_id = %s AND grant_id = ANY(%s::uuid[])
           AND journal_id = %s AND state = 'open'""",
        (UUID(account_id), [part[1] for part in used], journal_id),
    )
    return name


def ensure_usage_months(connection: Connection, months: Collection[datetime]) -> None:
    """Partitions for these months; idempotent."""
    for month in sorted(months):
        connection.execute("SELECT ensure_usage_month(%s)", (month,))


def quarantined(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """Records held in quarantine, oldest first."""
    cursor = connection.execute(
        """SELECT quarantine_id, journal_id, seq, account_id, usage_id, reason, quarantined_at, record FROM quarantine
           WHERE state = 'held' ORDER BY quarantine_id LIMIT %s""",
        (limit,),
    )
    assert cursor.description is not None
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def decide_quarantine(
    connection: Connection, quarantine_id: UUID, state: str, rates: RateLookup, now: datetime
) -> None:
    """`released`: settle it after all; `dropped`: it is never charged. Either way its grant is no more in doubt for it."""
    with connection.transaction():
        row = connection.execute(
            """SELECT journal_id, seq, account_id, record FROM quarantine
               WHERE quarantine_id = %s AND state = 'held' FOR UPDATE""",
            (quarantine_id,),
        ).fetchone()
        if row is None:
            raise QuarantineNotFound(f"no record {quarantine_id} is held in quarantine")
        journal_id, seq, account_id, text = row
        record = decode_record(text.encode())
        if state == "released":
            ensure_usage_months(connection, {month_of(record.usage_id)})
            used = [(part.bucket_id, part.grant_id, part.amount) for part in record.parts]
            batch = [(seq, account_id.hex, used, text.encode())]
            _apply(connection, journal_id, batch, rates, seq - 1, f"{seq}", Counter())
        connection.execute(
            "UPDATE quarantine SET state = %s, decided_at = %s WHERE quarantine_id = %s",
            (state, now, quarantine_id),
        )
        connection.execute(
            """UPDATE grants g SET doubt = NULL WHERE account_id = %s AND journal_id = %s AND doubt = 'quarantine'
               AND NOT EXISTS (SELECT 1 FROM quarantine q WHERE q.account_id = g.account_id
                               AND q.journal_id = g.journal_id AND q.state = 'held')""",
            (account_id, journal_id),
        )


def months_of(batch: Sequence[Settling], limit: int) -> set[datetime]:
    """The months of a batch's records that can be read, at most so many."""
    months: set[datetime] = set()
    for settling in batch:
        with contextlib.suppress(msgspec.DecodeError, ValueError, OverflowError):
            months.add(month_of(decode_record(settling[3]).usage_id))
        if len(months) >= limit:
            break
    return months


def month_of(usage_id: str) -> datetime:
    """The month of a UUIDv7."""
    made = datetime.fromtimestamp(int(usage_id[:12], 16) / 1000, UTC)
    return made.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
