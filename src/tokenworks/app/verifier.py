"""The auditor with the checks of every room, for `tokenworks ledger verify`."""

from collections.abc import Callable
from typing import Final, NamedTuple

from psycopg import Connection

from tokenworks.app import verify_pool
from tokenworks.billing import verify_store as billing
from tokenworks.catalog import RateCard
from tokenworks.catalog import verify_store as catalog
from tokenworks.charging.ledger.verify import (
    CHAINED,
    FINDINGS_MAX,
    RERATED,
    CheckFunction,
    Finding,
    checks,
    rolling,
    steps,
    verify,
)
from tokenworks.charging.ledger.verify import CHECKS as CHARGING
from tokenworks.subscriptions import verify_store as subscriptions
from tokenworks.subscriptions.orders import cycle_store, sold_store
from tokenworks.trust import verify_store as trust

_COUNTED: Final = ("account", "bucket", "grants", "usage", "entry", "posting", "charge", "bill")


class _DatedTable(NamedTuple):
    """A table whose ids (UUIDv7) are made together with its rows, so they contain the row's time. `beside`: further columns that name
    the row in a finding.
    """

    table: str
    id: str
    at: str
    slack: str = "1 hour"
    beside: tuple[str, ...] = ("account_id",)


_DATED_TABLES: Final = (
    _DatedTable("account", "account_id", "created_at", beside=()),
    _DatedTable("adjustment", "adjustment_id", "asked_at"),
    _DatedTable("api_key", "key_id", "created_at"),
    _DatedTable("approval", "approval_id", "asked_at", beside=()),
    _DatedTable("audit", "audit_id", "at", beside=()),
    _DatedTable("bill", "bill_id", "issued_at"),
    _DatedTable("bucket", "bucket_id", "created_at"),
    _DatedTable("charge", "charge_id", "charged_at"),
    _DatedTable("charge_file", "charge_file_id", "made_at", beside=()),
    _DatedTable("consent", "consent_id", "at", beside=("subscriber_id",)),
    _DatedTable("credit_note", "credit_note_id", "issued_at"),
    _DatedTable("dispute", "dispute_id", "asked_at", beside=("subscriber_id",)),
    _DatedTable("entry", "entry_id", "posted_at"),
    _DatedTable("grants", "grant_id", "opened_at"),
    _DatedTable("member", "member_id", "created_at"),
    _DatedTable("payment", "payment_id", "paid_at"),
    _DatedTable("payment_reversal", "reversal_id", "reversed_at", beside=("account_id", "payment_id")),
    _DatedTable("payout", "payout_id", "paid_at"),
    _DatedTable("phone_history", "phone_history_id", "changed_at", beside=("subscriber_id",)),
    _DatedTable("product_order", "order_id", "ordered_at"),
    _DatedTable("quarantine", "quarantine_id", "quarantined_at"),
    _DatedTable("rate_limit", "limit_id", "created_at", beside=()),
    _DatedTable("real_name_check", "check_id", "asked_at", beside=("subscriber_id",)),
    _DatedTable("reconciliation_case", "case_id", "opened_at", beside=("subscriber_id",)),
    _DatedTable("refund", "refund_id", "asked_at"),
    _DatedTable("staff", "staff_id", "created_at", beside=()),
    _DatedTable("staff_token", "token_id", "created_at", beside=()),
    _DatedTable("subscriber", "subscriber_id", "created_at"),
    _DatedTable("suspension", "suspension_id", "began_at", beside=("subscriber_id",)),
    _DatedTable("top_up", "top_up_id", "made_at", beside=("subscriber_id",)),
    _DatedTable("transfer", "transfer_id", "made_at"),
    # A usage id is made when the request arrives; the record may be settled much later, by a host whose clock was off.
    _DatedTable("usage", "usage_id", "started_at", "1 day"),
    _DatedTable("work_order", "work_order_id", "created_at", beside=("subscriber_id",)),
)


def _check_of_dates(made: _DatedTable) -> str:
    beside = "".join(f" || ' of ' || {column}" for column in made.beside)
    at = f"to_timestamp(('x' || left(replace({made.id}::text, '-', ''), 12))::bit(48)::bigint / 1000.0)"
    # A row that a migration or a statement made has a random id, without a time.
    return f"""SELECT '{made.table} ' || {made.id}{beside}, format('%s %s, its id was made at %s', '{made.at}', {made.at}, {at})
        FROM {made.table} WHERE substr({made.id}::text, 15, 1) = '7'
            AND {made.at} NOT BETWEEN {at} - interval '{made.slack}' AND {at} + interval '{made.slack}'"""


CHECKS: Final[dict[str, str]] = {
    **billing.CHECKS, **subscriptions.CHECKS, **catalog.CHECKS, **trust.CHECKS,
}  # fmt: skip
"""Checks of the rooms other than charging: invariant -> statement."""
TIMED: Final[dict[str, str]] = {
    **subscriptions.TIMED,
    "id: what is dated was made at that time, as its id says": " UNION ALL ".join(
        map(_check_of_dates, _DATED_TABLES)
    ),
}
"""Checks that hold only where all processes use the same clock, and not where a test has moved one."""
PASSES: Final[tuple[tuple[str, CheckFunction], ...]] = (
    (sold_store.INVARIANT, sold_store.sold),
    (cycle_store.INVARIANT, cycle_store.cycles),
)


ACROSS: Final = frozenset(
    {
        "charge file: its lines are what it says, and what was accepted is a payment",
        "consent: it is to a text that was shown, of its purpose",
        "journal: it has settled what its records say",
        "usage: an id is of one record",
        "numbers: every one up to the last is a document's, or its gap is accounted for",
    }
)
"""Invariants that compare rows of several accounts: a run over a part of the accounts leaves them out."""
PURE: Final = frozenset(
    {*CHARGING, RERATED, CHAINED, "usage: it is of a key of its member, of its account"} - ACROSS
)
"""Invariants over the large tables that compare rows of one account: a run over a part of the accounts finds all violations in it."""
ONCE: Final = frozenset({*catalog.CHECKS, *trust.CHECKS})
"""Invariants of tables without accounts: one piece of a run checks them."""


def audit(
    connection: Connection,
    cards: dict[str, RateCard],
    progress: Callable[[str, int], None] | None = None,
    *,
    timed: bool = True,
) -> list[Finding]:
    """Every broken invariant of every room, in one snapshot. Changes nothing. `timed`: with the checks of `TIMED`."""
    return verify(connection, cards, progress, _checks_beside_charging(timed=timed), PASSES)


def audit_checks(cards: dict[str, RateCard], *, timed: bool = True) -> list[tuple[str, CheckFunction]]:
    """(invariant, check) of all checks. The caller runs each in a transaction of its own."""
    return list(checks(cards, _checks_beside_charging(timed=timed), PASSES))


def audit_on(
    connection: Connection,
    cards: dict[str, RateCard],
    progress: rolling.Progress | None = None,
    *,
    full: bool = False,
    timed: bool = True,
    processes: int = 1,
) -> tuple[list[Finding], rolling.Coverage]:
    """Broken invariants among the rows since the last run and a part of the older rows; among all rows where `full`. The database
    remembers how far the run came. `progress(what, steps done, of how many)`.

    Where many rows are to be read, `processes` read them in one snapshot; they do not see uncommitted rows of this connection. Raises
    `Unavailable` where one of them ends early.
    """
    readers = None if processes == 1 else verify_pool.readers(connection, processes, timed=timed)
    return rolling.run(
        connection, audit_checks(cards, timed=timed), ACROSS, progress, full=full, findings_max=FINDINGS_MAX, pure=PURE, once=ONCE,
        processes=processes, readers=readers,
    )  # fmt: skip


class Verified(NamedTuple):
    """The result of a run. `counts`: the number of rows by table, where all rows were read; else empty."""

    findings: list[Finding]
    read: rolling.Coverage
    counts: dict[str, int]


def verify_books(
    connection: Connection,
    cards: dict[str, RateCard],
    progress: rolling.Progress,
    *,
    full: bool,
    processes: int | None = None,
) -> Verified:
    """`audit_on` for `tokenworks ledger verify`, with one process per core where `processes` is None."""
    processes = processes or verify_pool.default_processes()
    findings, read = audit_on(connection, cards, progress, full=full, processes=processes)
    return Verified(findings, read, ledger_counts(connection) if read.full else {})


def ledger_counts(connection: Connection) -> dict[str, int]:
    """The number of rows by table of the books."""
    return {
        table: int(connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()[0])  # type: ignore[index]
        for table in _COUNTED
    }


def audit_steps() -> int:
    """The number of steps that `audit` reports to `progress`."""
    return steps(_checks_beside_charging(timed=True), PASSES)


def _checks_beside_charging(*, timed: bool) -> dict[str, str]:
    return CHECKS | (TIMED if timed else {})
