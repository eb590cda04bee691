"""The auditor with the checks of every room: what `tokenworks ledger verify` runs."""

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


class _Made(NamedTuple):
    """A table whose ids are made with their rows: UUIDv7, which begin with the instant. `beside`: columns that name the row, too."""

    table: str
    id: str
    at: str
    slack: str = "1 hour"
    beside: tuple[str, ...] = ("account_id",)


_MADE: Final = (
    _Made("account", "account_id", "created_at", beside=()),
    _Made("adjustment", "adjustment_id", "asked_at"),
    _Made("api_key", "key_id", "created_at"),
    _Made("approval", "approval_id", "asked_at", beside=()),
    _Made("audit", "audit_id", "at", beside=()),
    _Made("bill", "bill_id", "issued_at"),
    _Made("bucket", "bucket_id", "created_at"),
    _Made("charge", "charge_id", "charged_at"),
    _Made("charge_file", "charge_file_id", "made_at", beside=()),
    _Made("consent", "consent_id", "at", beside=("subscriber_id",)),
    _Made("credit_note", "credit_note_id", "issued_at"),
    _Made("dispute", "dispute_id", "asked_at", beside=("subscriber_id",)),
    _Made("entry", "entry_id", "posted_at"),
    _Made("grants", "grant_id", "opened_at"),
    _Made("member", "member_id", "created_at"),
    _Made("payment", "payment_id", "paid_at"),
    _Made("payment_reversal", "reversal_id", "reversed_at", beside=("account_id", "payment_id")),
    _Made("payout", "payout_id", "paid_at"),
    _Made("phone_history", "phone_history_id", "changed_at", beside=("subscriber_id",)),
    _Made("product_order", "order_id", "ordered_at"),
    _Made("quarantine", "quarantine_id", "quarantined_at"),
    _Made("rate_limit", "limit_id", "created_at", beside=()),
    _Made("real_name_check", "check_id", "asked_at", beside=("subscriber_id",)),
    _Made("reconciliation_case", "case_id", "opened_at", beside=("subscriber_id",)),
    _Made("refund", "refund_id", "asked_at"),
    _Made("staff", "staff_id", "created_at", beside=()),
    _Made("staff_token", "token_id", "created_at", beside=()),
    _Made("subscriber", "subscriber_id", "created_at"),
    _Made("suspension", "suspension_id", "began_at", beside=("subscriber_id",)),
    _Made("top_up", "top_up_id", "made_at", beside=("subscriber_id",)),
    _Made("transfer", "transfer_id", "made_at"),
    # An id is made when a request arrives; it may wait, run, and be settled by a host whose clock was off.
    _Made("usage", "usage_id", "started_at", "1 day"),
    _Made("work_order", "work_order_id", "created_at", beside=("subscriber_id",)),
)


def _made_at(made: _Made) -> str:
    beside = "".join(f" || ' of ' || {column}" for column in made.beside)
    at = f"to_timestamp(('x' || left(replace({made.id}::text, '-', ''), 12))::bit(48)::bigint / 1000.0)"
    # What a migration or a statement made has a random id, which says no time.
    return f"""SELECT '{made.table} ' || {made.id}{beside}, format('%s %s, its id was made at %s', '{made.at}', {made.at}, {at})
        FROM {made.table} WHERE substr({made.id}::text, 15, 1) = '7'
            AND {made.at} NOT BETWEEN {at} - interval '{made.slack}' AND {at} + interval '{made.slack}'"""


CHECKS: Final[dict[str, str]] = {
    **billing.CHECKS, **subscriptions.CHECKS, **catalog.CHECKS, **trust.CHECKS,
}  # fmt: skip
"""Of the rooms beside charging: invariant -> statement."""
TIMED: Final[dict[str, str]] = {
    **subscriptions.TIMED,
    "id: what is dated was made at that time, as its id says": " UNION ALL ".join(map(_made_at, _MADE)),
}
"""What holds where all clocks are one: of a works whose clock a test has moved it says nothing."""
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
"""Invariants that compare rows of several accounts: a run over a part of them does not look at these."""
PURE: Final = frozenset(
    {*CHARGING, RERATED, CHAINED, "usage: it is of a key of its member, of its account"} - ACROSS
)
"""Invariants over the large tables that compare rows of one account: what a part of the accounts shows of them is all that there is."""
ONCE: Final = frozenset({*catalog.CHECKS, *trust.CHECKS})
"""Invariants of what belongs to no account: one part of a run looks at these."""


def audit(
    connection: Connection,
    cards: dict[str, RateCard],
    progress: Callable[[str, int], None] | None = None,
    *,
    timed: bool = True,
) -> list[Finding]:
    """Every broken invariant of every room, in one snapshot. Changes nothing. `timed`: whether the clocks of all are one."""
    return verify(connection, cards, progress, _more(timed=timed), PASSES)


def audit_checks(cards: dict[str, RateCard], *, timed: bool = True) -> list[tuple[str, CheckFunction]]:
    """(invariant, check) of all of them; each is for a transaction of the caller's."""
    return list(checks(cards, _more(timed=timed), PASSES))


def audit_on(
    connection: Connection,
    cards: dict[str, RateCard],
    progress: rolling.Progress | None = None,
    *,
    full: bool = False,
    timed: bool = True,
    processes: int = 1,
) -> tuple[list[Finding], rolling.Coverage]:
    """What breaks an invariant of what is new since the last run, and of a part of the old; of everything where `full`. It
    remembers how far it came. `progress(what, steps done, of how many)`.

    Where there is much, `processes` read it, in one snapshot; of what is not committed on this connection they see nothing. Raises
    `Unavailable` where one of them ends before its time.
    """
    readers = None if processes == 1 else verify_pool.readers(connection, processes, timed=timed)
    return rolling.run(
        connection, audit_checks(cards, timed=timed), ACROSS, progress, full=full, findings_max=FINDINGS_MAX, pure=PURE, once=ONCE,
        processes=processes, readers=readers,
    )  # fmt: skip


class Verified(NamedTuple):
    """`counts`: how many rows of each table the books have, where everything was read."""

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
    """`audit_on`, as `tokenworks ledger verify` says it: by a process for each core where no number is given."""
    processes = processes or verify_pool.processes_at_most()
    findings, read = audit_on(connection, cards, progress, full=full, processes=processes)
    return Verified(findings, read, ledger_counts(connection) if read.full else {})


def ledger_counts(connection: Connection) -> dict[str, int]:
    """How many rows of each table the books have."""
    return {
        table: int(connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()[0])  # type: ignore[index]
        for table in _COUNTED
    }


def audit_steps() -> int:
    """How many steps `progress` of `audit` counts to."""
    return steps(_more(timed=True), PASSES)


def _more(*, timed: bool) -> dict[str, str]:
    return CHECKS | (TIMED if timed else {})
