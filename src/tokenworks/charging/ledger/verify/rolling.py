"""A rolling run of the auditor: it reads what is new since the last run, and a part of the older rows.

New rows are the links chained since the last run without findings, with their entries, postings and usage; the checks of `OF_AN_ENTRY`
read them. Of the older rows, each run reads the next thirtieth of the accounts completely, with all checks except those that compare
accounts with each other: only a full run makes those. Temporary views in front of the tables restrict a check to its rows, so a check is
the same statement in both kinds of run.

A run is divided into pieces (`pieces.py`), each for a range of accounts. Either one process reads all pieces, or several processes do,
each on its own connection, all in the snapshot that the leading process exports.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from psycopg import Connection

from tokenworks.charging.ledger.verify.finding import Finding
from tokenworks.charging.ledger.verify.pieces import (
    OF_AN_ENTRY,
    WORK_MEM,
    AccountRange,
    NamedCheck,
    Piece,
    PieceResult,
    check_piece,
    steps_of,
)
from tokenworks.kernel import Conflict

PARTS: Final = 30
# If there are at most this many accounts, every run reads all of them.
PART_ACCOUNTS_MIN: Final = 10_000
# The most accounts, or new links, of a piece.
PIECE_ACCOUNTS_MAX: Final = 5000
PIECE_LINKS_MAX: Final = 100_000
_PIECES_A_PROCESS: Final = 2
# With several processes, a piece may be this many times smaller than the largest allowed one.
_PIECE_MIN: Final = 5
_LOCK: Final = 7461003
_ZERO: Final = UUID(int=0)

Progress = Callable[[str, int, int], None]
"""Called with (invariant, steps done, steps in total)."""
Readers = Callable[[str, Sequence[Piece], Callable[[str], None]], list[PieceResult]]
"""Reads pieces in several processes, in the exported snapshot of the given name. Returns the results in the order of the pieces."""


class Coverage(NamedTuple):
    """What a run read: new links, accounts read completely, accounts in total, and whether it was a full run."""

    links: int
    accounts: int
    accounts_total: int
    full: bool


class _Kinds(NamedTuple):
    """The invariants by how they can be divided into pieces: see `run`."""

    across: Collection[str]
    pure: Collection[str]
    once: Collection[str]


class _Part(NamedTuple):
    """The accounts that a run reads completely: `size` of `total`."""

    accounts: AccountRange
    size: int
    total: int


def run(
    connection: Connection,
    checks: Sequence[NamedCheck],
    across: Collection[str],
    progress: Progress | None = None,
    *,
    full: bool = False,
    findings_max: int,
    pure: Collection[str] = (),
    once: Collection[str] = (),
    processes: int = 1,
    readers: Readers | None = None,
) -> tuple[list[Finding], Coverage]:
    """Run the checks in one snapshot. Returns (at most `findings_max` findings, what was read).

    `across`: the invariants that compare rows of several accounts; only a full run checks them. `pure`: the invariants that compare
    rows of one account; a full run may check them piece by piece. `once`: the invariants of rows that belong to no account.

    A run without findings stores the heads that it read and which accounts come next. It changes nothing else. `readers`: reads the
    pieces in `processes` processes, if there are several; this process waits for them. Raises `Conflict` if another run is active, and
    whatever `readers` raises if a process does not finish its piece.
    """
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        row = connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,)).fetchone()
        if row is None or not row[0]:
            raise Conflict("another `ledger verify` runs: wait for its end")
        return run_in_transaction(
            connection, checks, across, progress, full=full, findings_max=findings_max, pure=pure, once=once,
            processes=processes, readers=readers,
        )  # fmt: skip


def run_in_transaction(
    connection: Connection,
    checks: Sequence[NamedCheck],
    across: Collection[str],
    progress: Progress | None = None,
    *,
    full: bool = False,
    findings_max: int,
    pure: Collection[str] = (),
    once: Collection[str] = (),
    processes: int = 1,
    readers: Readers | None = None,
) -> tuple[list[Finding], Coverage]:
    """As `run`, in the caller's transaction. `readers` see only committed rows."""
    part = _next_part(connection)
    full = full or part.size == part.total
    kinds = _Kinds(across, pure, once)
    pieces = _pieces(connection, part, [name for name, _ in checks], kinds, full=full, processes=processes)
    steps, done = steps_of(pieces), 0

    def step(invariant: str) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(invariant, done, steps)

    if readers is None or len(pieces) <= _PIECES_A_PROCESS:
        connection.execute(f"SET LOCAL work_mem = '{WORK_MEM}'")
        by_name = dict(checks)
        results = [check_piece(connection, piece, by_name, step, findings_max) for piece in pieces]
    else:
        # The exported snapshot ends with this transaction, which is idle while the readers work.
        connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        row = connection.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        results = readers(row[0], pieces, step)
    # A row that belongs to no account is in every piece, so its finding can be there several times.
    found = list(dict.fromkeys(finding for result in results for finding in result.findings))
    if not found:
        _remember(connection, part, full=full)
    links = sum(result.links for result in results)
    return found[:findings_max], Coverage(links, part.total if full else part.size, part.total, full)


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
        return _Part(AccountRange(), total, total)
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
    return _Part(AccountRange(begin, upto if count == size else None), int(count), total)


def _pieces(
    connection: Connection, part: _Part, names: Sequence[str], kinds: _Kinds, *, full: bool, processes: int
) -> list[Piece]:
    """The pieces of a run, in the order in which their findings are reported."""
    of_new = () if full else tuple(name for name in names if name in OF_AN_ENTRY)
    pieces = [Piece("new", accounts, of_new) for accounts in _ranges_of_new_links(connection, processes)]
    if not full:
        of_part = tuple(name for name in names if name not in kinds.across)
        return pieces + _of_accounts(_ranges(connection, part, processes), of_part, kinds.once)
    ranges = _ranges(connection, part._replace(accounts=AccountRange()), processes)
    if len(ranges) == 1:
        return [*pieces, Piece("old", AccountRange(), tuple(names))]
    pure = tuple(name for name in names if name in kinds.pure)
    # The longest pieces start first.
    return [
        *pieces, *(Piece("old", AccountRange(), (name,)) for name in names if name not in kinds.pure), *_of_accounts(ranges, pure, ())
    ]  # fmt: skip


def _of_accounts(ranges: Sequence[AccountRange], names: Sequence[str], once: Collection[str]) -> list[Piece]:
    """A piece for each range. Only the first piece checks the invariants of `once`."""
    repeated = tuple(name for name in names if name not in once)
    return [
        Piece("old", accounts, repeated if index else tuple(names)) for index, accounts in enumerate(ranges)
    ]


def _count(size: int, most: int, processes: int) -> int:
    """The number of pieces for `size` accounts or links, if a piece has at most `most` of them."""
    wanted = _PIECES_A_PROCESS * processes if processes > 1 else 1
    return max(1, -(-size // most), min(wanted, _PIECE_MIN * size // most))


def _ranges(connection: Connection, part: _Part, processes: int) -> list[AccountRange]:
    """The accounts of a part, divided into ranges of about the same size."""
    count = _count(part.size, PIECE_ACCOUNTS_MAX, processes)
    if count == 1:
        return [part.accounts]
    rows = connection.execute(
        """SELECT account_id FROM (SELECT account_id, row_number() OVER (ORDER BY account_id) AS no FROM account
               WHERE account_id > %(after)s AND (%(upto)s::uuid IS NULL OR account_id <= %(upto)s)) a
           WHERE no %% %(each)s = 0 ORDER BY account_id""",
        {**part.accounts._asdict(), "each": -(-part.size // count)},
    )
    return _split(part.accounts, [row[0] for row in rows])


def _ranges_of_new_links(connection: Connection, processes: int) -> list[AccountRange]:
    """All accounts, divided into ranges with about the same number of new links."""
    new_links = """SELECT account_id, sum(h.link_no - coalesce(v.link_no, 0)) AS links FROM chain_head h
              LEFT JOIN verify_head v USING (account_id, chain_id) WHERE h.link_no > coalesce(v.link_no, 0) GROUP BY 1"""
    row = connection.execute(f"SELECT coalesce(sum(links), 0)::bigint FROM ({new_links}) n").fetchone()
    assert row is not None
    count = _count(row[0], PIECE_LINKS_MAX, processes)
    if count == 1:
        return [AccountRange()]
    rows = connection.execute(
        f"""SELECT max(account_id::text)::uuid FROM (SELECT account_id, ceil(sum(links) OVER (ORDER BY account_id) / %s) AS piece
                FROM ({new_links}) n) p GROUP BY piece ORDER BY piece""",
        (-(-row[0] // count),),
    ).fetchall()
    return _split(AccountRange(), [upto for (upto,) in rows[:-1]])


def _split(accounts: AccountRange, cuts: Sequence[UUID]) -> list[AccountRange]:
    """The range, split after each of these accounts."""
    inner = [cut for cut in cuts if accounts.upto is None or cut < accounts.upto]
    return [
        AccountRange(after, upto)
        for after, upto in zip([accounts.after, *inner], [*inner, accounts.upto], strict=True)
    ]


def _remember(connection: Connection, part: _Part, *, full: bool) -> None:
    connection.execute(
        """INSERT INTO verify_head (account_id, chain_id, link_no, hash)
           SELECT h.account_id, h.chain_id, h.link_no, h.hash FROM chain_head h LEFT JOIN verify_head v USING (account_id, chain_id)
           WHERE v.link_no IS DISTINCT FROM h.link_no
           ON CONFLICT (account_id, chain_id) DO UPDATE SET link_no = excluded.link_no, hash = excluded.hash"""
    )
    connection.execute("INSERT INTO verify_run (upto, whole) VALUES (%s, %s)", (part.accounts.upto, full))


__all__ = ["OF_AN_ENTRY", "Coverage", "Readers", "run", "run_in_transaction"]
