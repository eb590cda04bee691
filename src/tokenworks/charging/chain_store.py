"""The SQL of chains: their heads, links of what no journal settled, and the check of all of them."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import psycopg

from tokenworks.catalog import Counts
from tokenworks.charging import chain
from tokenworks.charging.chain import OWN, Head, Link
from tokenworks.charging.charge_store import lock_account
from tokenworks.charging.model import UsageRecord
from tokenworks.charging.settle_rows import USAGE_COLUMNS, link_line, usage_line
from tokenworks.charging.store import Connection, post

COPY_LINK: Final = "COPY chain_link (account_id, chain_id, link_no, entry_id, seq, rows, hash) FROM STDIN"
# Entries that one transaction chains, and links that the check holds at once.
LINKS_AT_ONCE: Final = 500
HEADS_NAMED_MAX: Final = 1000
Key = tuple[UUID, UUID]
"""(account, entry)"""


def read_heads(connection: Connection, chain_id: UUID, account_ids: Sequence[str]) -> dict[str, Head]:
    """Where this chain of each account ends, or would begin; in one round trip, an account a statement. Ids are hex."""
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


# What no journal settled.


def accounts_after(connection: Connection, after: UUID, limit: int) -> list[UUID]:
    """The next accounts of a run, ascending."""
    rows = connection.execute(
        "SELECT account_id FROM account WHERE account_id > %s ORDER BY account_id LIMIT %s", (after, limit)
    )
    return [row[0] for row in rows]


def chain_own(connection: Connection, account_id: UUID, until: datetime) -> int:
    """Chain an account's entries up to a time that no journal's chain has, under its lock: what is no settlement, and what is
    from before there were chains. When it is done with all of them, an entry names all heads of the account. Returns how many
    were chained; as many as `LINKS_AT_ONCE`: there may be more.
    """
    with connection.transaction():
        lock_account(connection, account_id)
        head = read_heads(connection, OWN, [account_id.hex])[account_id.hex]
        since = datetime.fromtimestamp(head.seq / 1000, UTC)
        found = connection.execute(
            """SELECT entry_id, posted_at FROM entry e WHERE account_id = %(account)s AND posted_at >= %(since)s
                   AND posted_at <= %(until)s AND NOT EXISTS (SELECT 1 FROM chain_link l WHERE l.account_id = %(account)s
                                                              AND l.entry_id = e.entry_id)
               ORDER BY posted_at, entry_id LIMIT %(most)s""",
            {"account": account_id, "since": since, "until": until, "most": LINKS_AT_ONCE},
        ).fetchall()
        if not found:
            return 0
        keys = [(account_id, row[0]) for row in found]
        entries = _entries(connection, account_id, keys)
        usage = _usage_of_entries(connection, account_id, [row[0] for row in found])
        lines, first = [], not head.link_no
        for (_, entry_id), (_, posted_at) in zip(keys, found, strict=True):
            seq = max(head.seq, _ms(posted_at))
            made = chain.link(
                head, seq, entry_id, entries[account_id, entry_id], chain.rows_of(usage[entry_id])
            )
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
        if len(found) < LINKS_AT_ONCE and any(row[0] for row in _kinds(connection, account_id, found)):
            _name_heads(connection, account_id)
    return len(found)


def _kinds(
    connection: Connection, account_id: UUID, found: Sequence[tuple[UUID, datetime]]
) -> list[tuple[bool]]:
    """Whether each is something else than what names heads: else every day would bring the next one."""
    return connection.execute(
        "SELECT kind <> 'heads' FROM entry WHERE account_id = %s AND entry_id = ANY(%s)",
        (account_id, [row[0] for row in found]),
    ).fetchall()


def _name_heads(connection: Connection, account_id: UUID) -> None:
    rows = connection.execute(
        "SELECT chain_id, link_no, hash FROM chain_head WHERE account_id = %s ORDER BY chain_id LIMIT %s",
        (account_id, HEADS_NAMED_MAX),
    )
    post(
        connection, account_id, "heads",
        " ".join(f"{chain_id.hex}:{no}:{bytes(hashed).hex()}" for chain_id, no, hashed in rows), [],
    )  # fmt: skip


# The bytes that are hashed, made again from rows.


def _ms(at: datetime) -> int:
    return _us(at) // 1000


def _us(at: datetime) -> int:
    utc = at.astimezone(UTC)
    return int(utc.replace(microsecond=0).timestamp()) * 1_000_000 + utc.microsecond


def _entries(connection: Connection, account_id: UUID, keys: Sequence[Key]) -> dict[Key, bytes]:
    """The digest of each of an account's entries that is there."""
    ids = [entry_id for _, entry_id in keys]
    postings: dict[UUID, list[chain.PostingLine]] = {}
    for entry_id, no, account, unit, bucket_id, amount in connection.execute(
        """SELECT entry_id, line_no, ledger_account, unit, bucket_id, amount FROM posting
           WHERE account_id = %s AND entry_id = ANY(%s) ORDER BY entry_id, line_no""",
        (account_id, ids),
    ):
        postings.setdefault(entry_id, []).append(
            (no, account, unit, None if bucket_id is None else bucket_id.hex, amount)
        )
    return {
        (account_id, entry_id): chain.entry_digest(
            entry_id.hex, kind, ref, _us(at), postings.get(entry_id, ())
        )
        for entry_id, kind, ref, at in connection.execute(
            "SELECT entry_id, kind, ref, posted_at FROM entry WHERE account_id = %s AND entry_id = ANY(%s)",
            (account_id, ids),
        )
    }


def _usage(rows: psycopg.Cursor[tuple[Any, ...]]) -> Iterator[tuple[UUID, str, bytes]]:
    """(entry, usage id, digest) of rows with `USAGE_COLUMNS`."""
    for row in rows:
        (account, usage, request, attempt, key, member, protocol, model, deployment, state, reason, counted_by, started, ended,
         first_byte_ms, latency_ms, *rest) = row  # fmt: skip
        counts = Counts(*rest[:8])
        total, parts, loss, flags, upstream, prompt, asked, choice, journal_id, seq, entry_id = rest[8:]
        record = UsageRecord(
            account.hex, usage.hex, request, attempt, key.hex, member.hex, protocol, model, deployment, state, reason, counted_by,
            0, 0, first_byte_ms, latency_ms, counts, total, parts, loss or [], flags, upstream, prompt, asked, choice,
        )  # fmt: skip
        began, done = (at.astimezone(UTC).isoformat() for at in (started, ended))
        yield (
            entry_id,
            usage.hex,
            chain.usage_digest(usage_line(record, began, done, journal_id.hex, seq, entry_id.hex)),
        )


def _usage_of_entries(
    connection: Connection, account_id: UUID, entry_ids: Sequence[UUID]
) -> dict[UUID, list[tuple[str, bytes]]]:
    found: dict[UUID, list[tuple[str, bytes]]] = {entry_id: [] for entry_id in entry_ids}
    rows = connection.execute(
        f"SELECT {USAGE_COLUMNS} FROM usage WHERE account_id = %s AND entry_id = ANY(%s)".encode(),
        (account_id, list(entry_ids)),
    )
    for entry_id, usage_id, digest in _usage(rows):
        found[entry_id].append((usage_id, digest))
    return found


# The check.


def one_snapshot(connection: Connection) -> None:
    """What the caller's transaction reads does not change while it lasts; it writes nothing."""
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")


def check_chains(connection: Connection) -> Iterator[tuple[str, str]]:
    """(where, what) of what does not fit its chain, of all accounts, a bounded part of them in memory at a time. In the caller's
    transaction, whose snapshot should not change meanwhile.
    """
    yield from _links(connection)
    for where, rows in (
        ("is not in the link of its entry", connection.execute(_BESIDE)),
        ("is in two links", connection.execute(_TWICE)),
        ("is in no chain, though later ones are", connection.execute(_UNCHAINED)),
        ("is the head of a chain without links, or of other ones", connection.execute(_HEADLESS)),
    ):
        for what, id_ in rows:
            yield f"{what} {id_}", where


# Rows that say that they are of an entry, and were not when it was chained.
_BESIDE: Final = """SELECT 'usage', usage_id FROM usage u JOIN chain_link l USING (account_id, entry_id)
    WHERE position(uuid_send(u.usage_id) IN l.rows) = 0 LIMIT 1000"""
_TWICE: Final = (
    "SELECT 'entry', entry_id FROM chain_link GROUP BY account_id, entry_id HAVING count(*) > 1 LIMIT 1000"
)
_UNCHAINED: Final = """SELECT 'entry', e.entry_id FROM entry e JOIN chain_head h ON h.account_id = e.account_id
        AND h.chain_id = '00000000-0000-0000-0000-000000000000' AND e.posted_at < to_timestamp(h.seq / 1000.0)
    WHERE NOT EXISTS (SELECT 1 FROM chain_link l WHERE l.account_id = e.account_id AND l.entry_id = e.entry_id) LIMIT 1000"""
_HEADLESS: Final = """SELECT 'chain', coalesce(h.account_id, l.account_id) || '/' || coalesce(h.chain_id, l.chain_id)
    FROM chain_head h FULL JOIN (SELECT DISTINCT ON (account_id, chain_id) account_id, chain_id, link_no, hash FROM chain_link
                                 ORDER BY account_id, chain_id, link_no DESC) l USING (account_id, chain_id)
    WHERE (h.link_no, h.hash) IS DISTINCT FROM (l.link_no, l.hash) LIMIT 1000"""


def _links(connection: Connection) -> Iterator[tuple[str, str]]:
    place: Key | None = None
    before = Head(0, 0, b"")
    with connection.cursor("chains") as cursor:
        cursor.itersize = LINKS_AT_ONCE
        cursor.execute(
            """SELECT account_id, chain_id, link_no, entry_id, seq, rows, hash FROM chain_link
               ORDER BY account_id, chain_id, link_no"""
        )
        while batch := cursor.fetchmany(LINKS_AT_ONCE):
            entries, usage = _rows_of(connection, batch)
            for account_id, chain_id, link_no, entry_id, seq, rows, hashed in batch:
                if place != (account_id, chain_id):
                    place = (account_id, chain_id)
                    before = chain.genesis(account_id.hex, chain_id.hex)
                kept = Link(link_no, entry_id, seq, bytes(rows), bytes(hashed))
                yield from _check(kept, before, entries.get((account_id, entry_id)), usage)
                before = Head(seq, link_no, kept.hash)


def _rows_of(
    connection: Connection, batch: Sequence[tuple[Any, ...]]
) -> tuple[dict[Key, bytes], dict[tuple[UUID, str], bytes]]:
    """Of a batch of links: the entries' digests, and those of usage by (entry, id)."""
    entries: dict[Key, bytes] = {}
    usage: dict[tuple[UUID, str], bytes] = {}
    by_account: dict[UUID, list[tuple[Any, ...]]] = {}
    for row in batch:
        by_account.setdefault(row[0], []).append(row)
    for account_id, links in by_account.items():
        entries |= _entries(connection, account_id, [(account_id, row[3]) for row in links])
        ids = [UUID(usage_id) for row in links for usage_id in chain.digests_of(bytes(row[5]))]
        found = connection.execute(
            f"SELECT {USAGE_COLUMNS} FROM usage WHERE account_id = %s AND usage_id = ANY(%s)".encode(),
            (account_id, ids),
        )
        usage |= {(entry_id, usage_id): digest for entry_id, usage_id, digest in _usage(found)}
    return entries, usage


def _check(
    kept: Link, before: Head, entry: bytes | None, usage: dict[tuple[UUID, str], bytes]
) -> Iterator[tuple[str, str]]:
    if kept.link_no != before.link_no + 1:
        yield f"link {kept.link_no} of entry {kept.entry_id}", f"follows link {before.link_no}"
        return
    if entry is None:
        yield f"entry {kept.entry_id}", "is in a chain, and gone"
        return
    wrong = False
    for usage_id, digest in chain.digests_of(kept.rows).items():
        now = usage.get((kept.entry_id, usage_id))
        if now != digest:
            wrong = True
            yield f"usage {UUID(usage_id)}", "is in a chain, and gone" if now is None else "was changed"
    made = chain.link(before, kept.seq, kept.entry_id, entry, kept.rows)
    if not wrong and made.hash != kept.hash:
        yield f"entry {kept.entry_id}", "was changed, or its postings or its place"
