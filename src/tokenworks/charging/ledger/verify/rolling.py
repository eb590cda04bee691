"""A run of the auditor that reads what is new since the last one, and a part of the old.

New is what was chained since the last run that found nothing: its links from where that run left off, with their entries,
postings and usage, by the checks of `OF_AN_ENTRY`. The old is read account by account: the accounts of a thirtieth, the next one in
each run, whole, by all checks but those that compare accounts with each other, which a full run alone makes. A check is restricted by
temporary views in front of the tables, so that it is the same statement in both runs.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final, LiteralString, NamedTuple
from uuid import UUID

from psycopg import sql

from tokenworks.charging.ledger.store import Connection
from tokenworks.charging.ledger.verify import chains
from tokenworks.charging.ledger.verify.finding import Finding
from tokenworks.kernel import Conflict

PARTS: Final = 30
# Fewer accounts than that are read whole in every run.
PART_ACCOUNTS_MIN: Final = 10_000
_LOCK: Final = 7461003
_ZERO: Final = UUID(int=0)

OF_AN_ENTRY: Final = (
    "entry: its postings sum to zero per unit",
    "entry: every entry has postings or moved nothing, every posting has its entry",
    "entry: its kind is one of those that are, and it posts something, or nothing where it names heads",
    "entry: what issues, ends or goes on with a bucket moves that bucket, and posts to its accounts",
    "usage: its parts are of its account's buckets, at the bucket's rate version",
    "usage: the provider's total is the sum of its classes",
    "usage: its entry posts what its parts drew and what was lost, and nothing else",
    "usage: rated anew, it costs the same, and its parts and losses are its tokens, class by class",
    "grant: what is drawn from it is by its journal's usage, of its bucket",
)
"""Invariants that hold of a few entries alone, with their postings and usage."""

Check = tuple[str, Callable[[Connection], Iterable[Finding]]]


class Read(NamedTuple):
    """What a run read: links that are new, accounts whole (of so many), whether it was everything."""

    links: int
    accounts: int
    accounts_total: int
    full: bool


class _Part(NamedTuple):
    """Accounts above `after`, up to `upto` (None: to the end). `size` of `total`."""

    after: UUID
    upto: UUID | None
    size: int
    total: int


def run(
    connection: Connection,
    checks: Sequence[Check],
    across: Collection[str],
    progress: Callable[[str, int], None] | None = None,
    *,
    full: bool = False,
    findings_max: int,
) -> tuple[list[Finding], Read]:
    """What breaks an invariant, in one snapshot, at most `findings_max`; and what was read.

    `across` are the invariants that compare accounts. Where nothing was found, it remembers up to where the chains were read, and
    which accounts come next; nothing else is changed. Raises `Conflict` where another run goes on.
    """
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        row = connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,)).fetchone()
        if row is None or not row[0]:
            raise Conflict("another `ledger verify` runs: wait for its end")
        return look(connection, checks, across, progress, full=full, findings_max=findings_max)


def look(
    connection: Connection,
    checks: Sequence[Check],
    across: Collection[str],
    progress: Callable[[str, int], None] | None = None,
    *,
    full: bool = False,
    findings_max: int,
) -> tuple[list[Finding], Read]:
    """As `run`, in the caller's transaction."""
    part = _next_part(connection)
    full = full or part.size == part.total
    found: list[Finding] = []
    done = 0

    def ask(some: Iterable[Check]) -> None:
        nonlocal done
        for invariant, check in some:
            if len(found) < findings_max:
                found.extend(check(connection))
            done += 1
            if progress:
                progress(invariant, done)

    with _unprepared(connection):
        # What was read before is still there, and what came after it follows.
        with connection.transaction(force_rollback=True):
            links = _new(connection)
            ask([(chains.REMEMBERED, chains.remembered), (chains.INVARIANT, chains.fresh)])
            if not full:
                _in_front_of_entries(connection)
                ask(check for check in checks if check[0] in OF_AN_ENTRY)
        with connection.transaction(force_rollback=True):
            if not full:
                _in_front_of_accounts(connection, part)
            ask(check for check in checks if full or check[0] not in across)
    if not found:
        _remember(connection, part, full=full)
    return found[:findings_max], Read(links, part.total if full else part.size, part.total, full)


@contextlib.contextmanager
def _unprepared(connection: Connection) -> Iterator[None]:
    """A plan that is kept would go on reading the tables behind the views."""
    before = connection.prepare_threshold
    connection.prepare_threshold = None
    try:
        yield
    finally:
        connection.prepare_threshold = before


def steps(checks: Sequence[Check]) -> int:
    """At most how many steps `progress` counts to."""
    return 2 + len(OF_AN_ENTRY) + len(checks)


def _next_part(connection: Connection) -> _Part:
    row = connection.execute(
        "SELECT upto FROM verify_run WHERE NOT whole ORDER BY run_no DESC LIMIT 1"
    ).fetchone()
    after = _ZERO if row is None or row[0] is None else row[0]
    counted = connection.execute("SELECT count(*) FROM account").fetchone()
    assert counted is not None
    total = int(counted[0])
    size = max(PART_ACCOUNTS_MIN, -(-total // PARTS))
    if size >= total:
        return _Part(_ZERO, None, total, total)
    for begin in (after, _ZERO):
        found = connection.execute(
            """SELECT max(account_id::text)::uuid, count(*) FROM
               (SELECT account_id FROM account WHERE account_id > %s ORDER BY account_id LIMIT %s) a""",
            (begin, size),
        ).fetchone()
        assert found is not None
        upto, count = found
        if count:
            break
    return _Part(begin, upto if count == size else None, int(count), total)


def _new(connection: Connection) -> int:
    """The links since the last run, and their entries and usage, as temporary tables. Returns how many links."""
    connection.execute(
        """CREATE TEMP TABLE fresh_link ON COMMIT DROP AS
           SELECT l.account_id, l.chain_id, l.link_no, l.entry_id, l.seq, l.rows, l.hash FROM chain_head h
           LEFT JOIN verify_head v USING (account_id, chain_id)
           JOIN chain_link l ON l.account_id = h.account_id AND l.chain_id = h.chain_id AND l.link_no > coalesce(v.link_no, 0)
           WHERE h.link_no > coalesce(v.link_no, 0)"""
    )
    connection.execute(
        """CREATE TEMP TABLE fresh_usage ON COMMIT DROP AS
           SELECT account_id, encode(substr(rows, 48 * at + 1, 16), 'hex')::uuid AS usage_id
           FROM fresh_link, generate_series(0, length(rows) / 48 - 1) at"""
    )
    connection.execute("ANALYZE fresh_link, fresh_usage")
    row = connection.execute("SELECT count(*) FROM fresh_link").fetchone()
    assert row is not None
    return int(row[0])


def _in_front_of_entries(connection: Connection) -> None:
    of_entry = "(account_id, entry_id) IN (SELECT account_id, entry_id FROM fresh_link)"
    for table, condition in (
        ("entry", of_entry),
        ("posting", of_entry),
        ("usage", "(account_id, usage_id) IN (SELECT account_id, usage_id FROM fresh_usage)"),
    ):
        connection.execute(
            f"CREATE TEMP VIEW {table} AS SELECT * FROM public.{table} WHERE {condition}".encode()
        )


# Tables of an account or of a subscriber, and those that name a row of such a table: (table, column, what it names, its column).
_TABLES: Final = """
    SELECT c.relname, a.attname, a.attnotnull FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
        AND a.attname IN ('account_id', 'subscriber_id') ORDER BY 1, 2"""
_NAMING: Final = """
    SELECT t.relname, o.attname, r.relname, p.attname FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid
        JOIN pg_class r ON r.oid = k.confrelid JOIN pg_attribute o ON o.attrelid = t.oid AND o.attnum = k.conkey[1] AND o.attnotnull
        JOIN pg_attribute p ON p.attrelid = r.oid AND p.attnum = k.confkey[1]
    WHERE k.contype = 'f' AND cardinality(k.conkey) = 1 AND NOT t.relispartition AND t.relnamespace = 'public'::regnamespace
    ORDER BY 1, 2"""


def _in_front_of_accounts(connection: Connection, part: _Part) -> None:
    """Every table that says whose its rows are shows those of the part alone."""
    accounts = sql.SQL("account_id > {}").format(sql.Literal(part.after))
    if part.upto is not None:
        accounts += sql.SQL(" AND account_id <= {}").format(sql.Literal(part.upto))
    owned: dict[str, tuple[str, bool]] = {}
    for table, column, required in connection.execute(_TABLES):
        owned.setdefault(table, (column, required))
    shown: dict[str, sql.Composable] = {}
    subscribers = sql.SQL("(SELECT subscriber_id FROM public.subscriber WHERE {})").format(accounts)
    for table, (column, required) in owned.items():
        shown[table] = (
            accounts if column == "account_id" else sql.SQL("subscriber_id IN {}").format(subscribers)
        )
        if not required:
            shown[table] = sql.SQL("(({}) OR {} IS NULL)").format(shown[table], sql.Identifier(column))
    for table, column, other, key in connection.execute(_NAMING):
        if table not in shown and other in owned:
            shown[table] = sql.SQL("{} IN (SELECT {} FROM public.{} WHERE {})").format(
                sql.Identifier(column), sql.Identifier(key), sql.Identifier(other), shown[other]
            )
    view: LiteralString = "CREATE TEMP VIEW {table} AS SELECT * FROM public.{table} WHERE {shown}"
    for table, condition in shown.items():
        connection.execute(sql.SQL(view).format(table=sql.Identifier(table), shown=condition))


def _remember(connection: Connection, part: _Part, *, full: bool) -> None:
    connection.execute(
        """INSERT INTO verify_head (account_id, chain_id, link_no, hash)
           SELECT h.account_id, h.chain_id, h.link_no, h.hash FROM chain_head h LEFT JOIN verify_head v USING (account_id, chain_id)
           WHERE v.link_no IS DISTINCT FROM h.link_no
           ON CONFLICT (account_id, chain_id) DO UPDATE SET link_no = excluded.link_no, hash = excluded.hash"""
    )
    connection.execute("INSERT INTO verify_run (upto, whole) VALUES (%s, %s)", (part.upto, full))
