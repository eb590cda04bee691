"""A run of the auditor that reads what is new since the last one, and a part of the old.

New is what was chained since the last run that found nothing: its links from where that run left off, with their entries,
postings and usage, by the checks of `OF_AN_ENTRY`. The old is read account by account: the accounts of a thirtieth, the next one in
each run, whole, by all checks but those that compare accounts with each other, which a full run alone makes. A check is restricted by
temporary views in front of the tables, so that it is the same statement in both runs.

A run is divided into pieces (`pieces.py`), each of a range of accounts. One process reads them all, or several do, each on a
connection of its own, all in the snapshot of the one that leads them.
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
# Fewer accounts than that are read whole in every run.
PART_ACCOUNTS_MIN: Final = 10_000
# A piece has at most so many accounts, or new links.
PIECE_ACCOUNTS_MAX: Final = 5000
PIECE_LINKS_MAX: Final = 100_000
_PIECES_A_PROCESS: Final = 2
# Where several processes read, a piece may be so many times smaller than the largest.
_PIECE_MIN: Final = 5
_LOCK: Final = 7461003
_ZERO: Final = UUID(int=0)

Progress = Callable[[str, int, int], None]
"""(what was done, how much of it, of how much)"""
Readers = Callable[[str, Sequence[Piece], Callable[[str], None]], list[PieceResult]]
"""Processes that read pieces in a snapshot that was exported under this name: what was found, in the order of the pieces."""


class Coverage(NamedTuple):
    """What a run read: links that are new, accounts whole (of so many), whether it was everything."""

    links: int
    accounts: int
    accounts_total: int
    full: bool


class _Kinds(NamedTuple):
    """Invariants by what a piece can show of them: see `run`."""

    across: Collection[str]
    pure: Collection[str]
    once: Collection[str]


class _Part(NamedTuple):
    """The accounts that a run reads whole: `size` of `total`."""

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
    """What breaks an invariant, in one snapshot, at most `findings_max`; and what was read.

    `across` are the invariants that compare rows of several accounts: a run over a part does not look at them. `pure` are those that
    compare rows of one account, so that a full run may read them piece by piece; `once` are of no account at all.
    Where nothing was found, it remembers up to where the chains were read, and which accounts come next; nothing else is changed.
    `readers`: so many `processes` that read the pieces, where there are several; this one waits for them. Raises `Conflict` where
    another run goes on, and what `readers` raises where a process did not read its piece to the end.
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
    """As `run`, in the caller's transaction; `readers` see of it what is committed."""
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
        known = dict(checks)
        results = [check_piece(connection, piece, known, step, findings_max) for piece in pieces]
    else:
        # The snapshot lasts as long as this transaction, which has nothing to do meanwhile.
        connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        row = connection.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        results = readers(row[0], pieces, step)
    # A row of no account is in the pieces of all.
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
    """What a run reads, in the order in which its findings are said."""
    of_new = () if full else tuple(name for name in names if name in OF_AN_ENTRY)
    found = [Piece("new", accounts, of_new) for accounts in _with_news(connection, processes)]
    if not full:
        shown = tuple(name for name in names if name not in kinds.across)
        return found + _of_accounts(_divided(connection, part, processes), shown, kinds.once)
    ranges = _divided(connection, part._replace(accounts=AccountRange()), processes)
    if len(ranges) == 1:
        return [*found, Piece("old", AccountRange(), tuple(names))]
    pure = tuple(name for name in names if name in kinds.pure)
    # What takes longest is begun first.
    return [
        *found, *(Piece("old", AccountRange(), (name,)) for name in names if name not in kinds.pure), *_of_accounts(ranges, pure, ())
    ]  # fmt: skip


def _of_accounts(ranges: Sequence[AccountRange], names: Sequence[str], once: Collection[str]) -> list[Piece]:
    later = tuple(name for name in names if name not in once)
    return [Piece("old", accounts, later if at else tuple(names)) for at, accounts in enumerate(ranges)]


def _count(size: int, most: int, processes: int) -> int:
    """Into how many pieces something is divided of which a piece should have at most so much."""
    wanted = _PIECES_A_PROCESS * processes if processes > 1 else 1
    return max(1, -(-size // most), min(wanted, _PIECE_MIN * size // most))


def _divided(connection: Connection, part: _Part, processes: int) -> list[AccountRange]:
    """Ranges of about as many accounts each."""
    count = _count(part.size, PIECE_ACCOUNTS_MAX, processes)
    if count == 1:
        return [part.accounts]
    rows = connection.execute(
        """SELECT account_id FROM (SELECT account_id, row_number() OVER (ORDER BY account_id) AS no FROM account
               WHERE account_id > %(after)s AND (%(upto)s::uuid IS NULL OR account_id <= %(upto)s)) a
           WHERE no %% %(each)s = 0 ORDER BY account_id""",
        {**part.accounts._asdict(), "each": -(-part.size // count)},
    )
    return _between(part.accounts, [row[0] for row in rows])


def _with_news(connection: Connection, processes: int) -> list[AccountRange]:
    """Ranges of all accounts, with about as many new links each."""
    news = """SELECT account_id, sum(h.link_no - coalesce(v.link_no, 0)) AS links FROM chain_head h
              LEFT JOIN verify_head v USING (account_id, chain_id) WHERE h.link_no > coalesce(v.link_no, 0) GROUP BY 1"""
    row = connection.execute(f"SELECT coalesce(sum(links), 0)::bigint FROM ({news}) n").fetchone()
    assert row is not None
    count = _count(row[0], PIECE_LINKS_MAX, processes)
    if count == 1:
        return [AccountRange()]
    rows = connection.execute(
        f"""SELECT max(account_id::text)::uuid FROM (SELECT account_id, ceil(sum(links) OVER (ORDER BY account_id) / %s) AS piece
                FROM ({news}) n) p GROUP BY piece ORDER BY piece""",
        (-(-row[0] // count),),
    ).fetchall()
    return _between(AccountRange(), [upto for (upto,) in rows[:-1]])


def _between(accounts: AccountRange, cuts: Sequence[UUID]) -> list[AccountRange]:
    """The range, cut after each of these accounts."""
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
