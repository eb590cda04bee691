"""The SQL of many accounts' calls made together: a statement names one account, and they go in one round trip.

Nothing here waits for a lock: a row that somebody has is skipped, and its account is answered by itself (`store`). So one
account keeps no other waiting, and no deadlock can come of the order in which a turn takes its rows.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow

from tokenworks.charging.ledger.bucket_store import HAS_UNIT, TERMS, terms_of
from tokenworks.charging.ledger.model import GrantAnswer
from tokenworks.charging.ledger.recall_store import RECALL_WAIT_MAX_S, first_waiters
from tokenworks.charging.messages import BucketTerms
from tokenworks.kernel import uuid7


class GrantRequest(NamedTuple):
    """Up to `amount` of a bucket for a host, through a new grant (`grant_id` None) or an open one of its."""

    account_id: UUID
    bucket_id: UUID
    grant_id: UUID | None
    amount: int
    spend_for_s: float


class CloseRequest(NamedTuple):
    """A grant that its host has done with; everything up to `settled_seq` of its journal must be settled."""

    account_id: UUID
    grant_id: UUID
    settled_seq: int


_REFILLS: Final = """SELECT 1 FROM window_use u JOIN bucket b USING (account_id, bucket_id)
    WHERE u.account_id = %s AND b.closing IS NULL
      AND u.used_at <= %s::timestamptz - make_interval(secs => b.window_s) LIMIT 1"""

# What `store.grant` asks: may it be spent, what is left; then, who has waited longest for it.
_SPENDABLE: Final = """SELECT remaining, valid_until FROM bucket b JOIN account a USING (account_id)
    WHERE b.account_id = %(account)s AND bucket_id = %(bucket)s AND closing IS NULL AND NOT paused AND a.state = 'open'
      AND valid_from <= %(now)s AND (valid_until IS NULL OR valid_until > %(now)s) FOR UPDATE OF b SKIP LOCKED"""
_OURS: Final = """SELECT amount, used, doubt FROM grants
    WHERE account_id = %(account)s AND grant_id = %(grant)s AND journal_id = %(journal)s AND state = 'open' FOR UPDATE SKIP LOCKED"""
_TAKE: Final = """UPDATE bucket SET remaining = remaining - %(added)s, granted = granted + %(added)s
    WHERE account_id = %(account)s AND bucket_id = %(bucket)s"""
_OPEN: Final = f"""WITH taken AS ({_TAKE} RETURNING account_id)
    INSERT INTO grants (account_id, grant_id, bucket_id, journal_id, amount, spend_until)
    SELECT account_id, %(grant)s::uuid, %(bucket)s::uuid, %(journal)s::uuid, %(added)s::bigint,
           %(now)s::timestamptz + make_interval(secs => %(spend)s) FROM taken RETURNING 1"""
_EXTEND: Final = f"""WITH taken AS ({_TAKE})
    UPDATE grants SET amount = amount + %(added)s, spend_until = %(now)s::timestamptz + make_interval(secs => %(spend)s)
    WHERE account_id = %(account)s AND grant_id = %(grant)s AND state = 'open' AND journal_id = %(journal)s RETURNING 1"""

_BUCKET_OF: Final = """SELECT closing, valid_until FROM bucket WHERE account_id = %(account)s AND bucket_id = (
        SELECT bucket_id FROM grants WHERE account_id = %(account)s AND grant_id = %(grant)s) FOR UPDATE SKIP LOCKED"""
_CLOSE: Final = """WITH gone AS (
        UPDATE grants SET state = 'closed', closed_at = %(now)s WHERE account_id = %(account)s AND grant_id = %(grant)s
            AND state = 'open' AND amount = %(amount)s AND used = %(used)s RETURNING bucket_id)
    UPDATE bucket b SET granted = granted - %(amount)s, used = b.used + %(used)s, remaining = remaining + %(back)s
    FROM gone WHERE b.account_id = %(account)s AND b.bucket_id = gone.bucket_id RETURNING 1"""


Names = dict[str, object]
"""The values of a statement by their names."""


class LockedRowUnchanged(Exception):
    """A row that this transaction has locked did not change: the turn is undone, and each is answered by itself."""


def _each(
    connection: Connection, statement: str, names: Sequence[Names | tuple[object, ...]]
) -> list[TupleRow | None]:
    """The first row of one statement for each of `names`, in one round trip."""
    if not names:
        return []
    cursor = connection.cursor()
    cursor.executemany(statement.encode(), names, returning=True)
    return [result.fetchone() for result in cursor.results()]


def _change(connection: Connection, statement: str, names: Sequence[Names]) -> None:
    if None in _each(connection, statement, names):
        raise LockedRowUnchanged


def load_terms(
    connection: Connection, account_ids: Sequence[UUID], now: datetime
) -> list[list[tuple[BucketTerms, int]] | None]:
    """What `store.load_terms` says of each account; None where a window has to be refilled first."""
    if not account_ids:
        return []
    cursor = connection.cursor()
    names = [{"account": account_id, "now": now} for account_id in account_ids]
    cursor.executemany(TERMS.encode(), names, returning=True)
    found = [result.fetchall() for result in cursor.results()]
    terms: list[list[tuple[BucketTerms, int]] | None] = [
        terms_of(account_id, rows) for account_id, rows in zip(account_ids, found, strict=True)
    ]
    # A balance names its windows, what is left of them or not: where something can be spent and none is named, none has to be refilled.
    windowed = [
        at for at, of in enumerate(terms) if not of or any(t.windows or t.kind == "window" for t, _ in of)
    ]
    due = _each(connection, _REFILLS, [(account_ids[at], now) for at in windowed])
    for at, refill in zip(windowed, due, strict=True):
        if refill is not None:
            terms[at] = None
    return terms


def grant(
    connection: Connection, journal_id: UUID, asks: Sequence[GrantRequest], now: datetime
) -> list[GrantAnswer | None]:
    """What `store.grant` gives to each, as far as nothing has to be waited for; None for those to be asked by themselves. In
    the caller's transaction.
    """
    asked: list[Names] = [
        {"account": ask.account_id, "bucket": ask.bucket_id, "grant": ask.grant_id, "journal": journal_id, "now": now}
        for ask in asks
    ]  # fmt: skip
    buckets = _each(connection, _SPENDABLE, asked)
    spendable = [at for at, row in enumerate(buckets) if row is not None]
    # After the buckets are locked, as `store.grant` looks.
    firsts = first_waiters(connection, [asks[at].account_id for at in spendable], RECALL_WAIT_MAX_S)
    extended = [at for at, ask in enumerate(asks) if ask.grant_id is not None and buckets[at] is not None]
    ours = dict(zip(extended, _each(connection, _OURS, [asked[at] for at in extended]), strict=True))
    answers: list[GrantAnswer | None] = [None] * len(asks)
    opens: list[Names] = []
    extends: list[Names] = []
    for at, (ask, row) in enumerate(zip(asks, buckets, strict=True)):
        if row is None or (ask.grant_id is not None and ours[at] is None):
            continue
        remaining, valid_until = row
        added = min(remaining, ask.amount)
        behind = bool(added) and firsts.get(ask.account_id, journal_id) != journal_id
        if behind:
            added = 0
        if ask.grant_id is None and not added:
            continue
        spend_for_s = ask.spend_for_s
        if valid_until is not None:
            spend_for_s = min(spend_for_s, (valid_until - now).total_seconds())
        grant_id = ask.grant_id or uuid7()
        row_names = asked[at] | {"grant": grant_id, "added": added, "spend": spend_for_s}
        (opens if ask.grant_id is None else extends).append(row_names)
        answers[at] = GrantAnswer(grant_id.hex, added, remaining - added, spend_for_s, behind)
    _change(connection, _OPEN, opens)
    _change(connection, _EXTEND, extends)
    return answers


def close(
    connection: Connection, journal_id: UUID, asks: Sequence[CloseRequest], now: datetime
) -> list[bool]:
    """Which were closed as `store.close_grant` does; the others are to be closed by themselves. In the caller's transaction."""
    if not asks:
        return []
    row = connection.execute(
        "SELECT settled_seq FROM journal WHERE journal_id = %s", (journal_id,)
    ).fetchone()
    settled_seq = -1 if row is None else row[0]
    names: list[Names] = [
        {"account": ask.account_id, "grant": ask.grant_id, "journal": journal_id, "now": now} for ask in asks
    ]
    buckets = _each(connection, _BUCKET_OF, names)
    grants = _each(connection, _OURS, names)
    changes: list[Names] = []
    closed = [False] * len(asks)
    for at, (ask, bucket, found) in enumerate(zip(asks, buckets, grants, strict=True)):
        if ask.settled_seq > settled_seq or bucket is None or found is None:
            continue
        closing, valid_until = bucket
        amount, used, doubt = found
        if closing is not None or doubt is not None or (valid_until is not None and valid_until <= now):
            continue  # what is left goes somewhere else than back
        changes.append(names[at] | {"amount": amount, "used": used, "back": amount - used})
        closed[at] = True
    _change(connection, _CLOSE, changes)
    return closed


def has_unit(connection: Connection, account_ids: Sequence[UUID], unit: str, now: datetime) -> list[bool]:
    """`store.has_unit` of each."""
    rows = _each(connection, HAS_UNIT, [(account_id, unit, now) for account_id in account_ids])
    return [bool(row and row[0]) for row in rows]
