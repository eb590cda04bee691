"""The SQL of chains: heads, the links of an account's own chain, and the hashed bytes rebuilt from rows."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow

from tokenworks.catalog import Counts
from tokenworks.charging.ledger import chain
from tokenworks.charging.ledger.chain import OWN, Head
from tokenworks.charging.ledger.settle_rows import ALL_USAGE_COLUMNS, link_line, usage_line
from tokenworks.charging.ledger.store import post
from tokenworks.charging.messages import UsageRecord
from tokenworks.charging.money.charge_store import lock_account

COPY_LINK: Final = "COPY chain_link (account_id, chain_id, link_no, entry_id, seq, rows, hash) FROM STDIN"
# The most entries that one transaction chains.
LINKS_AT_ONCE: Final = 500
HEADS_NAMED_MAX: Final = 1000
# No transaction runs longer than this.
TRANSACTION_MAX: Final = timedelta(hours=1)
# One head in the reference of a `heads` entry: the chain's id, and the number and hash of its last link.
_NAMED: Final = re.compile(r"([0-9a-f]{32}):([0-9]{1,18}):[0-9a-f]{64}")
Key = tuple[UUID, UUID]
"""(account, entry)"""


def read_heads(connection: Connection, chain_id: UUID, account_ids: Sequence[str]) -> dict[str, Head]:
    """The head of this chain for each account; for an account without the chain, the head before its first link.

    One statement per account, all in one round trip. Account ids are hex.
    """
    heads = {account_id: chain.genesis(account_id, chain_id.hex) for account_id in account_ids}
    if not account_ids:
        return heads
    with connection.cursor() as cursor:
        cursor.executemany(
            "SELECT seq, link_no, hash FROM chain_head WHERE account_id = %s::uuid AND chain_id = %s",
            [(account_id, chain_id) for account_id in account_ids],
            returning=True,
        )
        for account_id, result in zip(account_ids, cursor.results(), strict=True):
            row = result.fetchone()
            if row is not None:
                heads[account_id] = Head(row[0], row[1], bytes(row[2]))
    return heads


# An account's own chain.


def accounts_after(connection: Connection, after: UUID, limit: int) -> list[UUID]:
    """The next accounts of a run, in ascending order."""
    rows = connection.execute(
        "SELECT account_id FROM account WHERE account_id > %s ORDER BY account_id LIMIT %s", (after, limit)
    )
    return [row[0] for row in rows]


def chain_own(connection: Connection, account_id: UUID, until: datetime) -> int:
    """Chain the entries of an account, posted until `until`, that no journal's chain covers. The account is locked.

    Such entries are no settlements, or are older than the chains. After the last of them, an entry of kind `heads` names all heads
    of the account. Returns how many entries were chained; if that is `LINKS_AT_ONCE`, more may be left.

    Only entries and links since the end of the account's own chain are read, not the whole history.
    """
    with connection.transaction():
        lock_account(connection, account_id)
        head = read_heads(connection, OWN, [account_id.hex])[account_id.hex]
        since = datetime.fromtimestamp(head.seq / 1000, UTC)
        links = _links_since(connection, account_id, since)
        found = connection.execute(
            """SELECT entry_id, posted_at FROM entry e WHERE account_id = %(account)s AND posted_at >= %(since)s
                   AND posted_at <= %(until)s AND NOT EXISTS (
                       SELECT 1 FROM unnest(%(chains)s::uuid[], %(links)s::bigint[]) c (chain_id, link_no)
                           JOIN chain_link l ON l.chain_id = c.chain_id AND l.link_no > c.link_no
                       WHERE l.account_id = %(account)s AND l.entry_id = e.entry_id)
               ORDER BY posted_at, entry_id LIMIT %(most)s""",
            {"account": account_id, "since": since, "until": until, "most": LINKS_AT_ONCE,
             "chains": list(links), "links": list(links.values())},
        ).fetchall()  # fmt: skip
        if found:
            _chain(connection, account_id, head, found)
        if len(found) < LINKS_AT_ONCE:
            _name_heads(connection, account_id)
    return len(found)


def _links_since(connection: Connection, account_id: UUID, since: datetime) -> dict[UUID, int]:
    """For each chain that grew since `since`: a link number below every link of an entry posted since then.

    The numbers come from the last `heads` entry before `since`, less `TRANSACTION_MAX`: an entry can become visible later than its
    `posted_at`, by the length of a transaction.
    """
    row = connection.execute(
        "SELECT ref FROM entry WHERE account_id = %s AND kind = 'heads' AND posted_at < %s ORDER BY entry_id DESC LIMIT 1",
        (account_id, since - TRANSACTION_MAX),
    ).fetchone()
    named = {UUID(chain_id): int(no) for chain_id, no in _NAMED.findall("" if row is None else row[0])}
    heads = connection.execute(
        "SELECT chain_id, link_no FROM chain_head WHERE account_id = %s", (account_id,)
    ).fetchall()
    return {chain_id: no for chain_id, last in heads if (no := named.get(chain_id, 0)) < last}


def _chain(
    connection: Connection, account_id: UUID, head: Head, found: Sequence[tuple[UUID, datetime]]
) -> None:
    """Append links for these entries to an account's own chain."""
    entries = entry_digests(connection, account_id, [row[0] for row in found])
    usage = usage_of_entries(connection, account_id, [row[0] for row in found])
    lines, first = [], not head.link_no
    for entry_id, posted_at in found:
        seq = max(head.seq, _ms(posted_at))
        made = chain.link(head, seq, entry_id, entries[account_id, entry_id], chain.rows_of(usage[entry_id]))
        lines.append(link_line(account_id.hex, OWN.hex, made))
        head = Head(seq, made.link_no, made.hash)
    with connection.cursor().copy(COPY_LINK) as copy:
        copy.write("".join(lines))
    values = (head.seq, head.link_no, head.hash, account_id, OWN)
    if first:
        connection.execute(
            "INSERT INTO chain_head (seq, link_no, hash, account_id, chain_id) VALUES (%s, %s, %s, %s, %s)",
            values,
        )
    else:
        connection.execute(
            "UPDATE chain_head SET seq = %s, link_no = %s, hash = %s WHERE account_id = %s AND chain_id = %s",
            values,
        )


def _name_heads(connection: Connection, account_id: UUID) -> None:
    """Post an entry that names the heads of an account's chains, newest journals first, unless the last one names the same."""
    rows = connection.execute(
        """SELECT chain_id, link_no, hash FROM chain_head WHERE account_id = %s
           ORDER BY chain_id = %s DESC, chain_id DESC LIMIT %s""",
        (account_id, OWN, HEADS_NAMED_MAX),
    ).fetchall()
    last = connection.execute(
        "SELECT ref FROM entry WHERE account_id = %s AND kind = 'heads' ORDER BY entry_id DESC LIMIT 1",
        (account_id,),
    ).fetchone()
    named = [] if last is None else last[0].split(" ")
    heads = {chain_id: f"{chain_id.hex}:{no}:{bytes(link_hash).hex()}" for chain_id, no, link_hash in rows}
    own_no = next((no for chain_id, no, _ in rows if chain_id == OWN), 0)
    own_named_no = next((int(head.split(":")[1]) for head in named if head.startswith(OWN.hex)), 0)
    # The last `heads` entry is itself the next link of the own chain. That link alone is no reason for another entry, or each
    # daily run would post one.
    changed = [head for chain_id, head in heads.items() if chain_id != OWN and head not in named]
    if changed or own_no > own_named_no + (1 if named else 0):
        post(connection, account_id, "heads", " ".join(heads.values()), [])


# The hashed bytes, rebuilt from rows.


def _ms(at: datetime) -> int:
    return _us(at) // 1000


def _us(at: datetime) -> int:
    utc = at.astimezone(UTC)
    return int(utc.replace(microsecond=0).timestamp()) * 1_000_000 + utc.microsecond


def entry_digests(connection: Connection, account_id: UUID, entry_ids: Sequence[UUID]) -> dict[Key, bytes]:
    """The digests of those of these entries of an account that exist."""
    ids = list(entry_ids)
    postings = connection.execute(
        """SELECT account_id, entry_id, line_no, ledger_account, unit, bucket_id, amount FROM posting
           WHERE account_id = %s AND entry_id = ANY(%s) ORDER BY entry_id, line_no""",
        (account_id, ids),
    )
    lines = _lines(postings)
    return _digests(
        connection.execute(
            "SELECT account_id, entry_id, kind, ref, posted_at FROM entry WHERE account_id = %s AND entry_id = ANY(%s)",
            (account_id, ids),
        ),
        lines,
    )


def entry_digests_of_all(connection: Connection, keys: Sequence[Key]) -> dict[Key, bytes]:
    """As `entry_digests`, for entries of any accounts. Only the auditor calls this."""
    columns = ([account_id for account_id, _ in keys], [entry_id for _, entry_id in keys])
    postings = connection.execute(
        """SELECT account_id, entry_id, line_no, ledger_account, unit, bucket_id, amount
           FROM unnest(%s::uuid[], %s::uuid[]) k (account_id, entry_id) JOIN posting USING (account_id, entry_id)
           ORDER BY account_id, entry_id, line_no""",
        columns,
    )
    lines = _lines(postings)
    return _digests(
        connection.execute(
            """SELECT account_id, entry_id, kind, ref, posted_at FROM unnest(%s::uuid[], %s::uuid[]) k (account_id, entry_id)
               JOIN entry USING (account_id, entry_id)""",
            columns,
        ),
        lines,
    )


def _lines(rows: psycopg.Cursor[TupleRow]) -> dict[Key, list[chain.PostingLine]]:
    postings: dict[Key, list[chain.PostingLine]] = {}
    for account_id, entry_id, no, account, unit, bucket_id, amount in rows:
        postings.setdefault((account_id, entry_id), []).append(
            (no, account, unit, None if bucket_id is None else bucket_id.hex, amount)
        )
    return postings


def _digests(
    rows: psycopg.Cursor[TupleRow], postings: dict[Key, list[chain.PostingLine]]
) -> dict[Key, bytes]:
    return {
        (account_id, entry_id): chain.entry_digest(
            entry_id.hex, kind, ref, _us(at), postings.get((account_id, entry_id), ())
        )
        for account_id, entry_id, kind, ref, at in rows
    }


def digests_of_usage(rows: psycopg.Cursor[TupleRow]) -> Iterator[tuple[UUID, str, bytes]]:
    """(entry, usage id, digest) of each row; rows have the columns of `ALL_USAGE_COLUMNS`."""
    for row in rows:
        (account, usage, request, attempt, key, member, protocol, model, deployment, state, reason, counted_by, started, ended,
         first_byte_ms, latency_ms, *rest) = row  # fmt: skip
        counts = Counts(*rest[:8])
        (
            total,
            parts,
            loss,
            flags,
            upstream,
            prompt,
            asked,
            choice,
            journal_id,
            seq,
            entry_id,
            replay_of,
            percent,
        ) = rest[8:]
        record = UsageRecord(
            account.hex, usage.hex, request, attempt, key.hex, member.hex, protocol, model, deployment, state, reason, counted_by,
            0, 0, first_byte_ms, latency_ms, counts, total, parts, loss or [], flags, upstream, prompt, asked, choice,
            replay_of=None if replay_of is None else replay_of.hex, replay_percent=percent,
        )  # fmt: skip
        began, done = (at.astimezone(UTC).isoformat() for at in (started, ended))
        yield (
            entry_id,
            usage.hex,
            chain.usage_digest(usage_line(record, began, done, journal_id.hex, seq, entry_id.hex)),
        )


def usage_of_entries(
    connection: Connection, account_id: UUID, entry_ids: Sequence[UUID]
) -> dict[UUID, list[tuple[str, bytes]]]:
    """For each of these entries of an account: [(usage id, digest), …]."""
    found: dict[UUID, list[tuple[str, bytes]]] = {entry_id: [] for entry_id in entry_ids}
    rows = connection.execute(
        f"SELECT {ALL_USAGE_COLUMNS} FROM usage WHERE account_id = %s AND entry_id = ANY(%s)".encode(),
        (account_id, list(entry_ids)),
    )
    for entry_id, usage_id, digest in digests_of_usage(rows):
        found[entry_id].append((usage_id, digest))
    return found


def usage_digests_of_all(connection: Connection, keys: Sequence[Key]) -> Iterator[tuple[UUID, str, bytes]]:
    """(entry, usage id, digest) of those of these records, (account, usage id), that exist. Only the auditor calls this."""
    return digests_of_usage(
        connection.execute(
            f"""SELECT {ALL_USAGE_COLUMNS} FROM unnest(%s::uuid[], %s::uuid[]) k (account_id, usage_id)
                JOIN usage USING (account_id, usage_id)""".encode(),
            ([account_id for account_id, _ in keys], [usage_id for _, usage_id in keys]),
        )
    )
