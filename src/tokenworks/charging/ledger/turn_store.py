"""The SQL of a turn: calls for many accounts in one round trip, each statement naming one account.

No statement here waits for a lock: a locked row is skipped, and the caller repeats that account's call alone (`grant_store`). So no
account waits for another, and the order in which a turn locks rows cannot cause a deadlock.
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
    """A host's request for up to `amount` of a bucket: a new grant if `grant_id` is None, else an extension of its open grant."""

    account_id: UUID
    bucket_id: UUID
    grant_id: UUID | None
    amount: int
    spend_for_s: float


class CloseRequest(NamedTuple):
    """A host's request to close a grant. All records up to `settled_seq` of its journal must be settled."""

    account_id: UUID
    grant_id: UUID
    settled_seq: int


_REFILLS: Final = """SELECT 1 FROM window_use u JOIN bucket b USING (account_id, bucket_id)
    WHERE u.account_id = %s AND b.closing IS NULL
      AND u.used_at <= %s::timestamptz - make_interval(secs => b.window_s) LIMIT 1"""

# The same conditions as in `grant_store.grant`: the bucket can be spent, and its remainder.
_SPENDABLE: Final = """SELECT remaining, valid_until FROM bucket b JOIN account a USING (account_id)
    WHERE b.account_id = %(account)s AND bucket_id = %(bucket)s AND closing IS NULL AND NOT paused AND a.state = 'open'
      AND valid_from <= %(now)s AND (valid_until IS NULL OR valid_until > %(now)s) FOR UPDATE OF b SKIP LOCKED"""
_OPEN_GRANT: Final = """SELECT amount, used, doubt FROM grants
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


Parameters = dict[str, object]
"""The parameters of a statement by name."""


class LockedRowUnchanged(Exception):
    """An update of a row that this transaction has locked changed nothing. The turn is rolled back, and each call is repeated alone."""


def _first_rows(
    connection: Connection, statement: str, parameters: Sequence[Parameters | tuple[object, ...]]
) -> list[TupleRow | None]:
    """The first row that a statement returns for each of `parameters`, in one round trip."""
    if not parameters:
        return []
    cursor = connection.cursor()
    cursor.executemany(statement.encode(), parameters, returning=True)
    return [result.fetchone() for result in cursor.results()]


def _update(connection: Connection, statement: str, parameters: Sequence[Parameters]) -> None:
    if None in _first_rows(connection, statement, parameters):
        raise LockedRowUnchanged


def load_terms(
    connection: Connection, account_ids: Sequence[UUID], now: datetime
) -> list[list[tuple[BucketTerms, int]] | None]:
    """`bucket_store.load_terms` for each account; None for an account of which a window must be refilled first."""
    if not account_ids:
        return []
    cursor = connection.cursor()
    parameters = [{"account": account_id, "now": now} for account_id in account_ids]
    cursor.executemany(TERMS.encode(), parameters, returning=True)
    results = [result.fetchall() for result in cursor.results()]
    terms: list[list[tuple[BucketTerms, int]] | None] = [
        terms_of(account_id, rows) for account_id, rows in zip(account_ids, results, strict=True)
    ]
    # A balance names its windows even when they are used up. So an account that can spend something and names no window has none.
    windowed = [
        index
        for index, of_account in enumerate(terms)
        if not of_account or any(t.windows or t.kind == "window" for t, _ in of_account)
    ]
    refills = _first_rows(connection, _REFILLS, [(account_ids[index], now) for index in windowed])
    for index, refill in zip(windowed, refills, strict=True):
        if refill is not None:
            terms[index] = None
    return terms


def grant(
    connection: Connection, journal_id: UUID, requests: Sequence[GrantRequest], now: datetime
) -> list[GrantAnswer | None]:
    """`grant_store.grant` for each request that waits for no lock; None for a request that the caller must repeat alone.

    Runs in the caller's transaction.
    """
    parameters: list[Parameters] = [
        {"account": request.account_id, "bucket": request.bucket_id, "grant": request.grant_id, "journal": journal_id, "now": now}
        for request in requests
    ]  # fmt: skip
    buckets = _first_rows(connection, _SPENDABLE, parameters)
    spendable = [index for index, row in enumerate(buckets) if row is not None]
    # Recalls are read after the buckets are locked, as in `grant_store.grant`.
    firsts = first_waiters(connection, [requests[index].account_id for index in spendable], RECALL_WAIT_MAX_S)
    extended = [
        index
        for index, request in enumerate(requests)
        if request.grant_id is not None and buckets[index] is not None
    ]
    open_rows = _first_rows(connection, _OPEN_GRANT, [parameters[index] for index in extended])
    open_grants = dict(zip(extended, open_rows, strict=True))
    answers: list[GrantAnswer | None] = [None] * len(requests)
    opens: list[Parameters] = []
    extends: list[Parameters] = []
    for index, (request, row) in enumerate(zip(requests, buckets, strict=True)):
        if row is None or (request.grant_id is not None and open_grants[index] is None):
            continue
        remaining, valid_until = row
        added = min(remaining, request.amount)
        behind = bool(added) and firsts.get(request.account_id, journal_id) != journal_id
        if behind:
            added = 0
        if request.grant_id is None and not added:
            continue
        spend_for_s = request.spend_for_s
        if valid_until is not None:
            spend_for_s = min(spend_for_s, (valid_until - now).total_seconds())
        grant_id = request.grant_id or uuid7()
        changed = parameters[index] | {"grant": grant_id, "added": added, "spend": spend_for_s}
        (opens if request.grant_id is None else extends).append(changed)
        answers[index] = GrantAnswer(grant_id.hex, added, remaining - added, spend_for_s, behind)
    _update(connection, _OPEN, opens)
    _update(connection, _EXTEND, extends)
    return answers


def close(
    connection: Connection, journal_id: UUID, requests: Sequence[CloseRequest], now: datetime
) -> list[bool]:
    """`grant_store.close_grant` for each request: True if the grant was closed, False if the caller must repeat the request alone.

    Runs in the caller's transaction.
    """
    if not requests:
        return []
    row = connection.execute(
        "SELECT settled_seq FROM journal WHERE journal_id = %s", (journal_id,)
    ).fetchone()
    settled_seq = -1 if row is None else row[0]
    parameters: list[Parameters] = [
        {"account": request.account_id, "grant": request.grant_id, "journal": journal_id, "now": now}
        for request in requests
    ]
    buckets = _first_rows(connection, _BUCKET_OF, parameters)
    grants = _first_rows(connection, _OPEN_GRANT, parameters)
    changes: list[Parameters] = []
    closed = [False] * len(requests)
    for index, (request, bucket, grant_row) in enumerate(zip(requests, buckets, grants, strict=True)):
        if request.settled_seq > settled_seq or bucket is None or grant_row is None:
            continue
        closing, valid_until = bucket
        amount, used, doubt = grant_row
        if closing is not None or doubt is not None or (valid_until is not None and valid_until <= now):
            continue  # the rest does not simply return to the bucket: `close_grant` decides where it goes
        changes.append(parameters[index] | {"amount": amount, "used": used, "back": amount - used})
        closed[index] = True
    _update(connection, _CLOSE, changes)
    return closed


def has_unit(connection: Connection, account_ids: Sequence[UUID], unit: str, now: datetime) -> list[bool]:
    """`bucket_store.has_unit` for each account."""
    rows = _first_rows(connection, HAS_UNIT, [(account_id, unit, now) for account_id in account_ids])
    return [bool(row and row[0]) for row in rows]
