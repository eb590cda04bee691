"""The SQL of late records, whose grants are written off: they draw on the buckets' free quantity, the rest is operator loss."""

from collections.abc import Collection, Sequence
from datetime import datetime
from operator import add
from uuid import UUID

from psycopg import Connection

from tokenworks.catalog import Counts, split
from tokenworks.charging.errors import RecordRefused
from tokenworks.charging.ledger.settle_rows import UnsettledRecord
from tokenworks.charging.ledger.unpaid_store import draw_unpaid, lock_buckets
from tokenworks.charging.messages import Loss, Part, UsageRecord
from tokenworks.charging.model import CAP_WEIGHTS, RateLookup


def prepare(
    connection: Connection,
    journal_id: UUID,
    batch: Sequence[UnsettledRecord],
    decoded: Sequence[UsageRecord],
    rates: RateLookup,
    now: datetime,
) -> frozenset[str]:
    """Charge the late and the unpaid parts of a batch and rewrite the records accordingly.

    Returns the grants that this has already charged. Raises `RecordRefused` if a grant is closed or belongs to another journal.
    """
    lock_buckets(connection, {record.account_id for record in decoded if record.unpaid is not None})
    # A part that costs nothing draws on no grant.
    named: dict[str, set[str]] = {}
    for _, account_id, used, _ in batch:
        named.setdefault(account_id, set()).update(part.grant_id for part in used if part.amount)
    written_off: set[str] = set()
    for account_id in sorted(named):
        # Grants are locked in ascending order of their key.
        states = connection.execute(
            """SELECT grant_id, state, journal_id FROM grants WHERE account_id = %s AND grant_id = ANY(%s::uuid[])
               ORDER BY grant_id FOR UPDATE""",
            (account_id, list(named[account_id])),
        ).fetchall()
        ours = {grant.hex: state for grant, state, journal in states if journal == journal_id}
        unknown = named[account_id] - {grant.hex for grant, _, _ in states}
        if unknown:
            _register_lost(connection, journal_id, account_id, batch, unknown, now)
            ours |= dict.fromkeys(unknown, "written_off")
        wrong = [grant for grant in named[account_id] if ours.get(grant) not in {"open", "written_off"}]
        if wrong:
            raise RecordRefused(f"grant {min(wrong)} is not open, or not of journal {journal_id}")
        written_off |= {grant for grant, state in ours.items() if state == "written_off"}
    closed: set[str] = set()
    for (_, _, used, _), record in zip(batch, decoded, strict=True):
        if not written_off.isdisjoint(part.grant_id for part in used):
            _charge_late(connection, record, written_off, rates)
        closed |= draw_unpaid(connection, journal_id, record, rates, now)
        assert record.unpaid is None, (
            "the unpaid part of a record is paid or lost before the record is written"
        )
    return frozenset(written_off | closed)


def _register_lost(
    connection: Connection,
    journal_id: UUID,
    account_id: str,
    batch: Sequence[UnsettledRecord],
    unknown: set[str],
    now: datetime,
) -> None:
    """Insert grants that the database lost when it was restored to an earlier state. They are inserted as written off, with amount 0:
    records of such grants are late, and draw on the bucket's free quantity.
    """
    buckets = {
        part.grant_id: part.bucket_id
        for _, account, used, _ in batch
        for part in used
        if account == account_id
    }
    for grant_id in sorted(unknown):
        made = connection.execute(
            """INSERT INTO grants (account_id, grant_id, bucket_id, journal_id, amount, state, spend_until, closed_at)
               SELECT account_id, %(grant)s, bucket_id, %(journal)s, 0, 'written_off', %(now)s, %(now)s FROM bucket
               WHERE account_id = %(account)s AND bucket_id = %(bucket)s""",
            {
                "grant": UUID(grant_id),
                "journal": journal_id,
                "account": UUID(account_id),
                "bucket": UUID(buckets[grant_id]),
                "now": now,
            },
        ).rowcount
        if not made:
            raise RecordRefused(f"grant {grant_id} is of a bucket that this account does not have")


def _charge_late(
    connection: Connection, record: UsageRecord, written_off: Collection[str], rates: RateLookup
) -> None:
    """Draw the parts of written-off grants on what their buckets have free; the rest becomes the loss `late`."""
    account_id = UUID(record.account_id)
    parts: list[Part] = []
    loss_requests, loss_counts = 0, Counts()
    for part in record.parts:
        if part.grant_id not in written_off:
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
