"""A piece of an auditor's run: a range of accounts and the checks that read it, through temporary views.

Any process can read a piece. It does so in a sub-transaction that is rolled back, so nothing stays behind.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, LiteralString, NamedTuple
from uuid import UUID

import msgspec
from psycopg import Connection, sql

from tokenworks.charging.ledger.verify import chains
from tokenworks.charging.ledger.verify.finding import Finding

OF_AN_ENTRY: Final = (
    "entry: its postings sum to zero per unit",
    "entry: every posting has an entry",
    "entry: its kind is known, and it has postings unless its kind needs none",
    "entry: an issue, an expiry, a withdrawal and a rollover post to their bucket and their ledger accounts",
    "usage: its parts draw on buckets of its account, at the bucket's rate version",
    "usage: the provider's total is the sum of its classes",
    "usage: its entry posts exactly what its parts drew and what was lost",
    "usage: rated again, it costs the same, and its parts and losses add up to its tokens, class by class",
    "grant: only usage of its journal draws on it, and for its bucket",
)
"""Invariants that can be checked on a few entries alone, with their postings and usage."""
# The most memory of one sort or hash before it goes to disk (PostgreSQL allows twice as much for a hash).
WORK_MEM: Final = "64MB"
TEMP_BUFFERS: Final = "64MB"

NamedCheck = tuple[str, Callable[[Connection], Iterable[Finding]]]


class AccountRange(NamedTuple):
    """The accounts with `after` < id <= `upto` (None: no upper bound)."""

    after: UUID = UUID(int=0)
    upto: UUID | None = None

    def are_all(self) -> bool:
        return self == AccountRange()


class Piece(msgspec.Struct, frozen=True):
    """A part of a run: the invariants `names`, over a range of accounts. `new`: only entries chained since the last run; `old`: all rows."""

    what: Literal["new", "old"]
    accounts: AccountRange
    names: tuple[str, ...]


class PieceResult(msgspec.Struct, frozen=True):
    """The findings of a piece, and how many of its links are new."""

    findings: list[Finding]
    links: int = 0


def check_piece(
    connection: Connection,
    piece: Piece,
    checks: Mapping[str, Callable[[Connection], Iterable[Finding]]],
    step: Callable[[str], None],
    findings_max: int,
) -> PieceResult:
    """Run the checks of a piece in the caller's transaction, which must keep one snapshot. `step(invariant)` is called after each."""
    found: list[Finding] = []
    links = 0
    with _unprepared(connection), connection.transaction(force_rollback=True):
        if not piece.accounts.are_all():
            _show_accounts(connection, piece.accounts)
            if piece.what == "old":
                _copy_large_tables(connection, piece.accounts)
        chosen: list[NamedCheck] = [(name, checks[name]) for name in piece.names]
        if piece.what == "new":
            # The remembered heads still exist, and the new links follow them.
            links = _copy_new_links(connection)
            _show_new_entries(connection)
            chosen = [(chains.REMEMBERED, chains.remembered), (chains.INVARIANT, chains.fresh), *chosen]
        connection.execute("SET TRANSACTION READ ONLY")
        for invariant, check in chosen:
            if len(found) < findings_max:
                found.extend(check(connection))
            step(invariant)
    return PieceResult(found[:findings_max], links)


def steps_of(pieces: Sequence[Piece]) -> int:
    """How many times `step` is called for these pieces."""
    return sum(len(piece.names) + (2 if piece.what == "new" else 0) for piece in pieces)


@contextlib.contextmanager
def _unprepared(connection: Connection) -> Iterator[None]:
    """Without prepared statements: a cached plan would read the tables instead of the temporary views."""
    before = connection.prepare_threshold
    connection.prepare_threshold = None
    try:
        yield
    finally:
        connection.prepare_threshold = before


def _copy_new_links(connection: Connection) -> int:
    """Copy the links since the last run, and the ids of their usage, to temporary tables. Returns how many links."""
    connection.execute(
        """CREATE TEMP TABLE fresh_link ON COMMIT DROP AS
           SELECT l.account_id, l.chain_id, l.link_no, l.entry_id, l.seq, l.rows, l.hash, coalesce(v.link_no, 0) AS seen_no,
               v.hash AS seen_hash FROM chain_head h
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


def _show_new_entries(connection: Connection) -> None:
    """Put temporary tables in front of entries, postings and usage, with the rows of the new links alone."""
    for table, key, fresh in (
        ("entry", "entry_id", "fresh_link"),
        ("posting", "entry_id", "fresh_link"),
        ("usage", "usage_id", "fresh_usage"),
    ):
        names = {"table": sql.Identifier(table), "key": sql.Identifier(key), "fresh": sql.Identifier(fresh)}
        connection.execute(sql.SQL("DROP VIEW IF EXISTS pg_temp.{table}").format(**names))
        connection.execute(
            sql.SQL(
                """CREATE TEMP TABLE {table} ON COMMIT DROP AS SELECT t.* FROM public.{table} t
                   WHERE (t.account_id, t.{key}) IN (SELECT account_id, {key} FROM {fresh})"""
            ).format(**names)
        )
        _add_indexes(connection, table)


# The large tables, and the columns that checks join on. A piece's rows are scattered over their pages, and a dozen checks read them.
_LARGE: Final = {
    "usage": "usage_id, entry_id",
    "entry": "entry_id",
    "posting": "entry_id",
    "chain_link": "entry_id",
}


def _copy_large_tables(connection: Connection, accounts: AccountRange) -> None:
    """Copy a range's rows of the large tables to temporary tables, ordered by account."""
    for table in _LARGE:
        connection.execute(sql.SQL("DROP VIEW pg_temp.{}").format(sql.Identifier(table)))
        connection.execute(
            sql.SQL(
                "CREATE TEMP TABLE {table} ON COMMIT DROP AS SELECT * FROM public.{table} WHERE {shown} ORDER BY account_id"
            ).format(table=sql.Identifier(table), shown=_condition(accounts))
        )
        _add_indexes(connection, table)


def _add_indexes(connection: Connection, table: str) -> None:
    for column in _LARGE[table].split(", "):
        connection.execute(
            sql.SQL("CREATE INDEX ON pg_temp.{} (account_id, {})").format(
                sql.Identifier(table), sql.Identifier(column)
            )
        )
    connection.execute(
        sql.SQL("ANALYZE pg_temp.{} (account_id, {})").format(sql.Identifier(table), sql.SQL(_LARGE[table]))
    )


def _condition(accounts: AccountRange) -> sql.Composed:
    condition = sql.SQL("account_id > {}").format(sql.Literal(accounts.after))
    if accounts.upto is not None:
        condition += sql.SQL(" AND account_id <= {}").format(sql.Literal(accounts.upto))
    return condition


# The tables with an account or a subscriber in each row: (table, that column, whether the column is required).
_TABLES: Final = """
    SELECT c.relname, a.attname, a.attnotnull FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
        AND a.attname IN ('account_id', 'subscriber_id') ORDER BY 1, 2"""
# The foreign keys of one required column: (table, column, the table that it refers to, that table's column).
_FOREIGN_KEYS: Final = """
    SELECT t.relname, o.attname, r.relname, p.attname FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid
        JOIN pg_class r ON r.oid = k.confrelid JOIN pg_attribute o ON o.attrelid = t.oid AND o.attnum = k.conkey[1] AND o.attnotnull
        JOIN pg_attribute p ON p.attrelid = r.oid AND p.attnum = k.confkey[1]
    WHERE k.contype = 'f' AND cardinality(k.conkey) = 1 AND NOT t.relispartition AND t.relnamespace = 'public'::regnamespace
    ORDER BY 1, 2"""


def _show_accounts(connection: Connection, accounts: AccountRange) -> None:
    """Put a temporary view in front of every table whose rows belong to an account, with the rows of these accounts alone."""
    in_range = _condition(accounts)
    owned: dict[str, tuple[str, bool]] = {}
    for table, column, required in connection.execute(_TABLES):
        owned.setdefault(table, (column, required))
    conditions: dict[str, sql.Composable] = {}
    subscribers = sql.SQL("(SELECT subscriber_id FROM public.subscriber WHERE {})").format(in_range)
    for table, (column, required) in owned.items():
        condition: sql.Composable = (
            in_range if column == "account_id" else sql.SQL("subscriber_id IN {}").format(subscribers)
        )
        if not required:
            condition = sql.SQL("(({}) OR {} IS NULL)").format(condition, sql.Identifier(column))
        conditions[table] = condition
    for table, column, other, key in connection.execute(_FOREIGN_KEYS):
        if table not in conditions and other in owned:
            conditions[table] = sql.SQL("{} IN (SELECT {} FROM public.{} WHERE {})").format(
                sql.Identifier(column), sql.Identifier(key), sql.Identifier(other), conditions[other]
            )
    view: LiteralString = "CREATE TEMP VIEW {table} AS SELECT * FROM public.{table} WHERE {shown}"
    for table, condition in conditions.items():
        connection.execute(sql.SQL(view).format(table=sql.Identifier(table), shown=condition))
