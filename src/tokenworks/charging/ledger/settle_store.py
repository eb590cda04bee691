"""The SQL of settlement: records applied exactly once by sequence, late ones, and quarantine."""

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
from tokenworks.charging.ledger.settle_rows import POSTING_COLUMNS, USAGE_COLUMNS, BatchRows, UnsettledRecord
from tokenworks.charging.ledger.unpaid_store import UNPAID_MARK
from tokenworks.charging.messages import UsageRecord
from tokenworks.charging.model import (
    RateLookup,
    decode_record,
)
from tokenworks.charging.money.charge_store import lock_account
from tokenworks.kernel import uuid7

# A statement names one shard (`shard_of`), and takes what all of the batch's accounts of that shard have.
_NEW_HEADS: Final = """unnest(%(accounts)s::uuid[], %(seqs)s::bigint[], %(links)s::bigint[], %(hashes)s::bytea[],
    %(before_seqs)s::bigint[], %(before_hashes)s::bytea[]) AS d (account_id, seq, link_no, hash, before_seq, before_hash)"""
_BEGIN: Final = f"""INSERT INTO chain_head (account_id, chain_id, seq, link_no, hash)
    SELECT d.account_id, %(chain)s, d.seq, d.link_no, d.hash FROM {_NEW_HEADS}
    WHERE shard_of(d.account_id) = %(shard)s AND d.link_no = 1 ON CONFLICT DO NOTHING"""
# The chain goes on from where it was: nothing is moved where another one moved it.
_MOVE: Final = f"""UPDATE chain_head h SET seq = d.seq, link_no = d.link_no, hash = d.hash FROM {_NEW_HEADS}
    WHERE shard_of(h.account_id) = %(shard)s AND h.account_id = d.account_id AND h.chain_id = %(chain)s
        AND h.seq = d.before_seq AND h.hash = d.before_hash AND d.link_no > 1"""
# The condition in a form that no index serves: before tables are analysed, that of a journal's open grants looks as good as the key.
_DRAW: Final = """UPDATE grants g SET used = used + d.amount
    FROM unnest(%(accounts)s::uuid[], %(grants)s::uuid[], %(amounts)s::bigint[]) AS d (account_id, grant_id, amount)
    WHERE shard_of(g.account_id) = %(shard)s AND g.account_id = d.account_id AND g.grant_id = d.grant_id
        AND CASE g.state WHEN 'open' THEN g.journal_id = %(journal)s ELSE false END"""
# Planned once, for whatever accounts: planning costs more than running. Row by row by their keys, in the order of what is given.
_PLAN: Final = """SELECT set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_hashjoin', 'off', true),
    set_config('enable_mergejoin', 'off', true), set_config('enable_seqscan', 'off', true)"""


class _HeadMoved(LedgerWentBack):
    """A chain does not end where it was remembered to."""


class _NotOpen(Exception):
    """Some grant is not open: its records are late, its journal's database went back, or it is refused."""


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
    """Apply records above each account's head, and move the heads and the journal's settled sequence: one transaction, exactly once.

    A statement names one account, or is a COPY, whose rows each name theirs. The settled sequence is a low-water mark: what is
    below it is settled of every account, and replaying what is above it is harmless.

    Records whose grant was written off are late: they draw on what their buckets have free. What a host could not pay of a
    record is drawn from what its account has left. Raises one of `REFUSALS` where the database will never take a record; with
    `quarantine` such records are bisected out instead, and usage id and reason are put there. Returns how many records were
    applied; their losses, in tokens by cause, are added to `lost_tokens`. `heads`: what the caller remembers of this journal's
    chains by account, kept up to date; what is there is not asked for. Raises `LedgerWentBack` where the database has settled
    less than `expected`, or has less of a chain than is remembered.
    """
    known = {} if heads is None else heads
    try:
        done = _settle(connection, journal_id, up_to_seq, batch, rates, expected, quarantine, known)
    except _HeadMoved:
        # Asked anew, of all of the batch.
        remembered = {account: known.pop(account) for _, account, *_ in batch if account in known}
        check_heads(connection, journal_id, remembered)
        done = _settle(connection, journal_id, up_to_seq, batch, rates, expected, quarantine, known)
    applied, lost, moved = done
    known.update(moved)
    if lost_tokens is not None:
        lost_tokens.update(lost)
    return applied


def check_heads(connection: Connection, journal_id: UUID, remembered: Mapping[str, Head]) -> None:
    """Whether the chains of this journal still reach what is remembered of them, by account. Raises `LedgerWentBack`."""
    found = chain_store.read_heads(connection, journal_id, sorted(remembered))
    for account_id, head in remembered.items():
        now = found[account_id]
        if now.seq < head.seq or (now.seq == head.seq and now != head):
            raise LedgerWentBack(
                f"account {account_id} of shard {account_id[-1]} was settled up to {head.seq}, and now up to {now.seq}"
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
    """(records, losses, heads by account)."""
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
        batch = [settling for settling in batch if settling[0] > settled]
        heads = {account: known[account] for _, account, *_ in batch if account in known}
        unknown = sorted({account for _, account, *_ in batch} - heads.keys())
        heads |= chain_store.read_heads(connection, journal_id, unknown)
        batch = [settling for settling in batch if settling[0] > heads[settling[1]].seq]
        run = _Run(connection, journal_id, rates, now, lost, heads)
        if quarantine is None:
            applied = _apply(run, batch, f"{settled + 1}-{up_to_seq}")
        else:
            applied = _apply_apart(run, batch, (settled + 1, up_to_seq), quarantine)
        connection.execute(
            "UPDATE journal SET settled_seq = %s, settled_at = now() WHERE journal_id = %s",
            (up_to_seq, journal_id),
        )
    return applied, lost, heads


class _Run(NamedTuple):
    """What a settling transaction has: `lost` and `heads` (by account) grow with what is applied."""

    connection: Connection
    journal_id: UUID
    rates: RateLookup
    now: datetime
    lost: Counter[str]
    heads: dict[str, Head]
    chain_id: UUID | None = None
    """Where it is not the journal's."""


def _apply_apart(
    run: _Run, batch: Sequence[UnsettledRecord], range_: tuple[int, int], quarantine: dict[str, str]
) -> int:
    """Halve what is refused until single records are left; those go to quarantine. `range_`: the sequences that this settles."""
    if not batch:
        return 0
    try:
        with run.connection.transaction():
            return _apply(run, batch, f"{range_[0]}-{range_[1]}")
    except REFUSALS as error:
        if len(batch) == 1:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:500]
            quarantine[_quarantine(run.connection, run.journal_id, batch[0], reason)] = reason
            return 0
    half = len(batch) // 2
    # A frame's records have one sequence: both halves may have some of it.
    parts = (
        (batch[:half], (range_[0], batch[half - 1][0])),
        (batch[half:], (batch[half][0], range_[1])),
    )
    return sum(_apply_apart(run, part, of_part, quarantine) for part, of_part in parts)


def _apply(run: _Run, batch: Sequence[UnsettledRecord], ref: str) -> int:
    """Put records there, draw on their grants, and go on with their chains. `run` is changed where all of it is done."""
    if not batch:
        return 0
    ref = f"{run.journal_id}:{ref}"
    if not any(UNPAID_MARK in text for *_, text in batch):
        with contextlib.suppress(_NotOpen), run.connection.transaction():
            return _write(run, _rows(run, batch, None, ref, frozenset()))
    decoded = [decode_record(text) for *_, text in batch]
    paid = prepare(run.connection, run.journal_id, batch, decoded, run.rates, run.now)
    try:
        return _write(run, _rows(run, batch, decoded, ref, paid))
    except _NotOpen as error:
        raise RecordRefused(str(error)) from None


def _rows(
    run: _Run,
    batch: Sequence[UnsettledRecord],
    decoded: Sequence[UsageRecord] | None,
    ref: str,
    paid: Collection[str],
) -> BatchRows:
    """`decoded` where the records are not as they were written; else each is read in its turn, and gone after it."""
    found: dict[str, list[tuple[int, UsageRecord | bytes]]] = {}
    records: Sequence[UsageRecord | bytes] = [one[3] for one in batch] if decoded is None else decoded
    for settling, record in zip(batch, records, strict=True):
        found.setdefault(settling[1], []).append((settling[0], record))
    rows = BatchRows(run.journal_id, run.now, ref)
    for account_id in sorted(found):
        head = run.heads[account_id]
        own = run.chain_id is not None
        rows.add(
            account_id, found[account_id], head, paid,
            chain_id=run.chain_id.hex if run.chain_id is not None else None, seq=head.seq if own else None,
        )  # fmt: skip
    return rows


def _write(run: _Run, rows: BatchRows) -> int:
    connection = run.connection
    with connection.cursor() as cursor:
        cursor.execute(_PLAN)
        _move(run, cursor, rows)
        _put(cursor, _COPY_USAGE, rows.usage)
        _put(cursor, _COPY_ENTRY, rows.entries)
        _put(cursor, _COPY_POSTING, rows.postings)
        _put(cursor, _COPY_WINDOW_USE, rows.windows)
        _put(cursor, chain_store.COPY_LINK, rows.links)
        if rows.risks:
            cursor.executemany(
                """INSERT INTO account_loss (account_id, day, risk_tokens) VALUES (%s, %s, %s) ON CONFLICT (account_id, day)
                   DO UPDATE SET risk_tokens = account_loss.risk_tokens + excluded.risk_tokens""",
                [(account_id, day, tokens) for (account_id, day), tokens in sorted(rows.risks.items())],
            )
    run.lost.update(rows.lost)
    run.heads.update({account_id: account.after for account_id, account in rows.accounts.items()})
    return rows.records


def _move(run: _Run, cursor: psycopg.Cursor[TupleRow], rows: BatchRows) -> None:
    """Move the heads and draw on the grants, shard by shard, all in one round trip. Raises `_HeadMoved`, `_NotOpen`."""
    chain_id = run.chain_id or run.journal_id
    shards: dict[str, list[str]] = {}
    for account_id in rows.accounts:
        shards.setdefault(account_id[-1], []).append(account_id)
    begun: list[dict[str, object]] = []
    moved: list[dict[str, object]] = []
    drawn: list[dict[str, object]] = []
    new = further = draws = 0
    for digit in sorted(shards):
        shard, accounts = int(digit, 16), shards[digit]
        before = [run.heads[account_id] for account_id in accounts]
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
                    "journal": run.journal_id,
                }
            )  # fmt: skip
    if not _all(cursor, _BEGIN, begun, new) or not _all(cursor, _MOVE, moved, further):
        raise _HeadMoved("a chain does not end where it was read to end")
    if not _all(cursor, _DRAW, drawn, draws):
        raise _NotOpen("a grant is not open")


def _array(values: Sequence[object]) -> str:
    """Of numbers or ids in hex, as PostgreSQL writes an array: the driver takes ten times as long for each."""
    return "{" + ",".join(map(str, values)) + "}"


def _bytes_array(values: Sequence[bytes]) -> str:
    return "{" + ",".join([f'"\\\\x{value.hex()}"' for value in values]) + "}"


def _all(
    cursor: psycopg.Cursor[TupleRow], statement: str, values: Sequence[dict[str, object]], count: int
) -> bool:
    """A shard a statement, all in one round trip. Whether they changed so many rows."""
    if values:
        cursor.executemany(statement, values)
    return not values or cursor.rowcount == count


def _put(cursor: psycopg.Cursor[TupleRow], statement: str, lines: Sequence[str]) -> None:
    if lines:
        with cursor.copy(statement) as copy:
            copy.write("".join(lines))


_COPY_USAGE: Final = f"COPY usage ({USAGE_COLUMNS}) FROM STDIN"
_COPY_ENTRY: Final = "COPY entry (account_id, entry_id, kind, ref, posted_at) FROM STDIN"
_COPY_POSTING: Final = f"COPY posting ({POSTING_COLUMNS}) FROM STDIN"
_COPY_WINDOW_USE: Final = "COPY window_use (account_id, bucket_id, usage_id, used_at, amount) FROM STDIN"

REFUSALS: Final = (psycopg.DataError, psycopg.IntegrityError, RecordRefused, msgspec.DecodeError)
"""What says that a record will never be taken as it is, as opposed to a database that does not answer."""


def _quarantine(connection: Connection, journal_id: UUID, settling: UnsettledRecord, reason: str) -> str:
    """Keep a refused record, with its grants in doubt. Returns its name: the usage id, or its place in the journal."""
    seq, account_id, used, text = settling
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
    settling: UnsettledRecord,
    rates: RateLookup,
    settled_at: datetime,
) -> None:
    """Settle one record that comes after others of its journal, as a link of the account's own chain. In the caller's transaction.
    Raises one of `REFUSALS`.
    """
    lock_account(connection, account_id)
    heads = chain_store.read_heads(connection, OWN, [account_id.hex])
    run = _Run(connection, journal_id, rates, settled_at, Counter(), heads, OWN)
    _apply(run, [settling], f"{settling[0]}")


def ensure_usage_months(connection: Connection, months: Collection[datetime]) -> None:
    """Partitions for these months; idempotent."""
    for month in sorted(months):
        connection.execute("SELECT ensure_usage_month(%s)", (month,))


def months_of(batch: Sequence[UnsettledRecord], limit: int) -> set[datetime]:
    """The months of a batch's records that can be read, at most so many."""
    months: set[datetime] = set()
    for settling in batch:
        with contextlib.suppress(msgspec.DecodeError, ValueError, OverflowError):
            months.add(month_of(decode_record(settling[3]).usage_id))
        if len(months) >= limit:
            break
    return months


def month_of(usage_id: str) -> datetime:
    """The month of a UUIDv7."""
    made = datetime.fromtimestamp(int(usage_id[:12], 16) / 1000, UTC)
    return made.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
