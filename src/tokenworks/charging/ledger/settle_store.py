"""The SQL of settlement: each usage record is applied exactly once, by its sequence; refused records go to quarantine."""

import contextlib
import zlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple
from uuid import UUID

import msgspec
import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow

from tokenworks.charging.errors import LedgerWentBack, RecordRefused
from tokenworks.charging.ledger import chain_store
from tokenworks.charging.ledger.chain import OWN, Head
from tokenworks.charging.ledger.late_store import prepare
from tokenworks.charging.ledger.settle_rows import (
    ALL_USAGE_COLUMNS,
    POSTING_COLUMNS,
    USAGE_COLUMNS,
    BatchRows,
    UnsettledRecord,
)
from tokenworks.charging.ledger.unpaid_store import UNPAID_MARK
from tokenworks.charging.messages import UsageRecord
from tokenworks.charging.model import (
    RateLookup,
    decode_record,
)
from tokenworks.charging.money.charge_store import lock_account
from tokenworks.kernel import uuid7

# Each statement names one shard (`shard_of`) and takes the rows of all accounts of the batch in that shard.
_NEW_HEADS: Final = """unnest(%(accounts)s::uuid[], %(seqs)s::bigint[], %(links)s::bigint[], %(hashes)s::bytea[],
    %(before_seqs)s::bigint[], %(before_hashes)s::bytea[]) AS d (account_id, seq, link_no, hash, before_seq, before_hash)"""
_BEGIN: Final = f"""INSERT INTO chain_head (account_id, chain_id, seq, link_no, hash)
    SELECT d.account_id, %(chain)s, d.seq, d.link_no, d.hash FROM {_NEW_HEADS}
    WHERE shard_of(d.account_id) = %(shard)s AND d.link_no = 1 ON CONFLICT DO NOTHING"""
# A head moves only if it is still where this settlement read it.
_MOVE: Final = f"""UPDATE chain_head h SET seq = d.seq, link_no = d.link_no, hash = d.hash FROM {_NEW_HEADS}
    WHERE shard_of(h.account_id) = %(shard)s AND h.account_id = d.account_id AND h.chain_id = %(chain)s
        AND h.seq = d.before_seq AND h.hash = d.before_hash AND d.link_no > 1"""
# The last condition has a form that no index serves. On tables without statistics, the index of a journal's open grants would look as
# good to the planner as the primary key.
_DRAW: Final = """UPDATE grants g SET used = used + d.amount
    FROM unnest(%(accounts)s::uuid[], %(grants)s::uuid[], %(amounts)s::bigint[]) AS d (account_id, grant_id, amount)
    WHERE shard_of(g.account_id) = %(shard)s AND g.account_id = d.account_id AND g.grant_id = d.grant_id
        AND CASE g.state WHEN 'open' THEN g.journal_id = %(journal)s ELSE false END"""
# One generic plan for all accounts, since planning costs more than running. Rows are found by key, in the order of the arrays.
_PLAN: Final = """SELECT set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_hashjoin', 'off', true),
    set_config('enable_mergejoin', 'off', true), set_config('enable_seqscan', 'off', true)"""


class _HeadMoved(LedgerWentBack):
    """A chain does not end at the head that was read or remembered."""


class _GrantNotOpen(Exception):
    """A grant of the batch is not open: its records are late, or the database was restored to an earlier state, or they are refused."""


def settle(
    connection: Connection,
    journal_id: UUID,
    up_to_seq: int,
    batch: Sequence[UnsettledRecord],
    rates: RateLookup,
    *,
    expected: int = 0,
    quarantine: dict[str, str] | None = None,
    lost_tokens: Counter[str] | None = None,
    heads: dict[str, Head] | None = None,
) -> int:
    """Settle a batch in one transaction: apply the records above each account's head, move the heads and the journal's settled sequence.

    Each statement names one shard, or is a COPY whose rows each name their account. The settled sequence is a low-water mark: all
    records up to it are settled, and replaying records above it does no harm.

    Records of a written-off grant are late: they draw on their buckets' free quantity. The unpaid part of a record is drawn from what
    its account has left.

    `heads`: the heads of this journal's chains that the caller remembers, by account; they are not read again, and this call keeps
    them up to date. `quarantine`: refused records are bisected out of the batch and put there (usage id -> reason); without it,
    they raise. `lost_tokens`: gets the tokens lost, by cause. Returns how many records were applied.

    Raises one of `REFUSALS` if the database will never take a record, and `LedgerWentBack` if the database has settled less than
    `expected`, or has less of a chain than is remembered.
    """
    known = {} if heads is None else heads
    try:
        settled = _settle(connection, journal_id, up_to_seq, batch, rates, expected, quarantine, known)
    except _HeadMoved:
        # Read the heads of all accounts of the batch again.
        remembered = {account: known.pop(account) for _, account, *_ in batch if account in known}
        check_heads(connection, journal_id, remembered)
        settled = _settle(connection, journal_id, up_to_seq, batch, rates, expected, quarantine, known)
    applied, lost, moved = settled
    known.update(moved)
    if lost_tokens is not None:
        lost_tokens.update(lost)
    return applied


def check_heads(connection: Connection, journal_id: UUID, remembered: Mapping[str, Head]) -> None:
    """Check that this journal's chains still reach the remembered heads, by account. Raises `LedgerWentBack` if one does not."""
    heads = chain_store.read_heads(connection, journal_id, sorted(remembered))
    for account_id, before in remembered.items():
        now = heads[account_id]
        if now.seq < before.seq or (now.seq == before.seq and now != before):
            raise LedgerWentBack(
                f"account {account_id} of shard {account_id[-1]} was settled up to {before.seq}, and now up to {now.seq}"
            )


def _settle(
    connection: Connection,
    journal_id: UUID,
    up_to_seq: int,
    batch: Sequence[UnsettledRecord],
    rates: RateLookup,
    expected: int,
    quarantine: dict[str, str] | None,
    known: Mapping[str, Head],
) -> tuple[int, Counter[str], dict[str, Head]]:
    """Returns (records applied, tokens lost by cause, new heads by account)."""
    lost: Counter[str] = Counter()
    with connection.transaction():
        row = connection.execute(
            "SELECT settled_seq, now() FROM journal WHERE journal_id = %s FOR UPDATE", (journal_id,)
        ).fetchone()
        assert row is not None, f"journal {journal_id} is not registered"
        settled, now = int(row[0]), row[1]
        if settled < expected:
            raise LedgerWentBack(f"the database had settled {expected}, and now says {settled}")
        if up_to_seq <= settled:
            return 0, lost, {}
        batch = [record for record in batch if record[0] > settled]
        heads = {account: known[account] for _, account, *_ in batch if account in known}
        unknown = sorted({account for _, account, *_ in batch} - heads.keys())
        heads |= chain_store.read_heads(connection, journal_id, unknown)
        batch = [record for record in batch if record[0] > heads[record[1]].seq]
        settlement = _Settlement(connection, journal_id, rates, now, lost, heads)
        if quarantine is None:
            applied = _apply(settlement, batch, f"{settled + 1}-{up_to_seq}")
        else:
            applied = _apply_bisecting(settlement, batch, (settled + 1, up_to_seq), quarantine)
        connection.execute(
            "UPDATE journal SET settled_seq = %s, settled_at = now() WHERE journal_id = %s",
            (up_to_seq, journal_id),
        )
    return applied, lost, heads


class _Settlement(NamedTuple):
    """The state of a settling transaction. Applying records updates `lost` (tokens by cause) and `heads` (by account)."""

    connection: Connection
    journal_id: UUID
    rates: RateLookup
    now: datetime
    lost: Counter[str]
    heads: dict[str, Head]
    chain_id: UUID | None = None
    """The chain that gets the links, if it is not the journal's."""


def _apply_bisecting(
    settlement: _Settlement,
    batch: Sequence[UnsettledRecord],
    range_: tuple[int, int],
    quarantine: dict[str, str],
) -> int:
    """Apply a batch; if it is refused, apply its halves, and so on down to single records, which go to quarantine.

    `range_`: the first and the last sequence that the batch settles.
    """
    if not batch:
        return 0
    try:
        with settlement.connection.transaction():
            return _apply(settlement, batch, f"{range_[0]}-{range_[1]}")
    except REFUSALS as error:
        if len(batch) == 1:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:500]
            quarantine[_quarantine(settlement.connection, settlement.journal_id, batch[0], reason)] = reason
            return 0
    half = len(batch) // 2
    # All records of a frame have the same sequence, which can be in both halves.
    parts = (
        (batch[:half], (range_[0], batch[half - 1][0])),
        (batch[half:], (batch[half][0], range_[1])),
    )
    return sum(_apply_bisecting(settlement, part, of_part, quarantine) for part, of_part in parts)


def _apply(settlement: _Settlement, batch: Sequence[UnsettledRecord], ref: str) -> int:
    """Write the records, draw on their grants, and extend their chains. `settlement` is updated once all of that has succeeded."""
    if not batch:
        return 0
    ref = f"{settlement.journal_id}:{ref}"
    if not any(UNPAID_MARK in text for *_, text in batch):
        with contextlib.suppress(_GrantNotOpen), settlement.connection.transaction():
            return _write(settlement, _rows(settlement, batch, None, ref, frozenset()))
    decoded = [decode_record(text) for *_, text in batch]
    paid = prepare(
        settlement.connection, settlement.journal_id, batch, decoded, settlement.rates, settlement.now
    )
    try:
        return _write(settlement, _rows(settlement, batch, decoded, ref, paid))
    except _GrantNotOpen as error:
        raise RecordRefused(str(error)) from None


def _rows(
    settlement: _Settlement,
    batch: Sequence[UnsettledRecord],
    decoded: Sequence[UsageRecord] | None,
    ref: str,
    paid: Collection[str],
) -> BatchRows:
    """The rows of a batch. `decoded`: the records, if `prepare` has changed them; otherwise each record is decoded when it is added,
    so that only one is in memory.
    """
    by_account: dict[str, list[tuple[int, UsageRecord | bytes]]] = {}
    records: Sequence[UsageRecord | bytes] = (
        [unsettled[3] for unsettled in batch] if decoded is None else decoded
    )
    for unsettled, record in zip(batch, records, strict=True):
        by_account.setdefault(unsettled[1], []).append((unsettled[0], record))
    rows = BatchRows(settlement.journal_id, settlement.now, ref)
    chain_id = settlement.chain_id
    for account_id in sorted(by_account):
        head = settlement.heads[account_id]
        rows.add(
            account_id, by_account[account_id], head, paid,
            chain_id=None if chain_id is None else chain_id.hex, seq=None if chain_id is None else head.seq,
        )  # fmt: skip
    return rows


def _write(settlement: _Settlement, rows: BatchRows) -> int:
    with settlement.connection.cursor() as cursor:
        cursor.execute(_PLAN)
        _move_heads_and_draw(settlement, cursor, rows)
        _copy(cursor, _COPY_USAGE, rows.usage)
        _copy(cursor, _COPY_REPLAYS, rows.replays)
        _copy(cursor, _COPY_ENTRY, rows.entries)
        _copy(cursor, _COPY_POSTING, rows.postings)
        _copy(cursor, _COPY_WINDOW_USE, rows.windows)
        _copy(cursor, chain_store.COPY_LINK, rows.links)
        if rows.risks:
            cursor.executemany(
                """INSERT INTO account_loss (account_id, day, risk_tokens) VALUES (%s, %s, %s) ON CONFLICT (account_id, day)
                   DO UPDATE SET risk_tokens = account_loss.risk_tokens + excluded.risk_tokens""",
                [(account_id, day, tokens) for (account_id, day), tokens in sorted(rows.risks.items())],
            )
    settlement.lost.update(rows.lost)
    settlement.heads.update({account_id: account.after for account_id, account in rows.accounts.items()})
    return rows.records


def _move_heads_and_draw(settlement: _Settlement, cursor: psycopg.Cursor[TupleRow], rows: BatchRows) -> None:
    """Move the heads and draw on the grants: one statement per shard, one round trip per kind. Raises `_HeadMoved`, `_GrantNotOpen`."""
    chain_id = settlement.chain_id or settlement.journal_id
    shards: dict[str, list[str]] = {}
    for account_id in rows.accounts:
        shards.setdefault(account_id[-1], []).append(account_id)
    begun: list[dict[str, object]] = []
    moved: list[dict[str, object]] = []
    drawn: list[dict[str, object]] = []
    new = further = draws = 0
    for digit in sorted(shards):
        shard, accounts = int(digit, 16), shards[digit]
        before = [settlement.heads[account_id] for account_id in accounts]
        after = [rows.accounts[account_id].after for account_id in accounts]
        heads: dict[str, object] = {
            "shard": shard, "chain": chain_id, "accounts": _array(accounts), "seqs": _array([head.seq for head in after]),
            "links": _array([head.link_no for head in after]), "hashes": _bytes_array([head.hash for head in after]),
            "before_seqs": _array([head.seq for head in before]), "before_hashes": _bytes_array([head.hash for head in before]),
        }  # fmt: skip
        first = sum(head.link_no == 1 for head in after)
        new, further = new + first, further + len(after) - first
        if first:
            begun.append(heads)
        if first < len(after):
            moved.append(heads)
        owners, grants, amounts = [], [], []
        for account_id in accounts:
            for grant_id, amount in sorted(rows.accounts[account_id].draws.items()):
                owners.append(account_id)
                grants.append(grant_id)
                amounts.append(amount)
        if owners:
            draws += len(owners)
            drawn.append(
                {
                    "shard": shard, "accounts": _array(owners), "grants": _array(grants), "amounts": _array(amounts),
                    "journal": settlement.journal_id,
                }
            )  # fmt: skip
    if not _changes(cursor, _BEGIN, begun, new) or not _changes(cursor, _MOVE, moved, further):
        raise _HeadMoved("a chain does not end where it was read to end")
    if not _changes(cursor, _DRAW, drawn, draws):
        raise _GrantNotOpen("a grant is not open")


def _array(values: Sequence[object]) -> str:
    """The text of a PostgreSQL array of numbers or hex ids. The driver would take ten times as long for each value."""
    return "{" + ",".join(map(str, values)) + "}"


def _bytes_array(values: Sequence[bytes]) -> str:
    return "{" + ",".join([f'"\\\\x{value.hex()}"' for value in values]) + "}"


def _changes(
    cursor: psycopg.Cursor[TupleRow], statement: str, values: Sequence[dict[str, object]], count: int
) -> bool:
    """Run a statement once per shard, in one round trip. Returns True if `count` rows changed in total."""
    if values:
        cursor.executemany(statement, values)
    return not values or cursor.rowcount == count


def _copy(cursor: psycopg.Cursor[TupleRow], statement: str, lines: Sequence[str]) -> None:
    if lines:
        with cursor.copy(statement) as copy:
            copy.write("".join(lines))


_COPY_USAGE: Final = f"COPY usage ({USAGE_COLUMNS}) FROM STDIN"
_COPY_REPLAYS: Final = f"COPY usage ({ALL_USAGE_COLUMNS}) FROM STDIN"
_COPY_ENTRY: Final = "COPY entry (account_id, entry_id, kind, ref, posted_at) FROM STDIN"
_COPY_POSTING: Final = f"COPY posting ({POSTING_COLUMNS}) FROM STDIN"
_COPY_WINDOW_USE: Final = "COPY window_use (account_id, bucket_id, usage_id, used_at, amount) FROM STDIN"

REFUSALS: Final = (psycopg.DataError, psycopg.IntegrityError, RecordRefused, msgspec.DecodeError)
"""Errors which mean that the database will never take a record as it is; other errors mean that the database does not answer."""


def _quarantine(connection: Connection, journal_id: UUID, unsettled: UnsettledRecord, reason: str) -> str:
    """Store a refused record, and mark its grants as in doubt. Returns the record's usage id, or its place in the journal if it
    cannot be read.
    """
    seq, account_id, used, text = unsettled
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
        (UUID(account_id), [part.grant_id for part in used], journal_id),
    )
    return name


def settle_alone(
    connection: Connection,
    journal_id: UUID,
    account_id: UUID,
    unsettled: UnsettledRecord,
    rates: RateLookup,
    settled_at: datetime,
) -> None:
    """Settle one record after later records of its journal, as a link of the account's own chain. Runs in the caller's transaction.

    Raises one of `REFUSALS`.
    """
    lock_account(connection, account_id)
    heads = chain_store.read_heads(connection, OWN, [account_id.hex])
    settlement = _Settlement(connection, journal_id, rates, settled_at, Counter(), heads, OWN)
    _apply(settlement, [unsettled], f"{unsettled[0]}")


def ensure_usage_months(connection: Connection, months: Collection[datetime]) -> None:
    """Make the partitions of `usage` for these months, if they are missing."""
    for month in sorted(months):
        connection.execute("SELECT ensure_usage_month(%s)", (month,))


def months_of(batch: Sequence[UnsettledRecord], limit: int) -> set[datetime]:
    """The months of a batch's readable records, at most `limit`."""
    months: set[datetime] = set()
    for unsettled in batch:
        with contextlib.suppress(msgspec.DecodeError, ValueError, OverflowError):
            months.add(month_of(decode_record(unsettled[3]).usage_id))
        if len(months) >= limit:
            break
    return months


def month_of(usage_id: str) -> datetime:
    """The first instant of the month of a UUIDv7, given as hex."""
    made = datetime.fromtimestamp(int(usage_id[:12], 16) / 1000, UTC)
    return made.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
