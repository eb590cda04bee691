"""The checks of chains: entries are unchanged since they were chained, every entry is in a chain, and each head is its last link.

A link is rebuilt from the rows that it covers, from the same bytes that were hashed (`chain`, `chain_store`).
"""

from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow

from tokenworks.charging.ledger import chain, chain_store
from tokenworks.charging.ledger.chain import Head, Link
from tokenworks.charging.ledger.chain_store import Key
from tokenworks.charging.ledger.verify import digests
from tokenworks.charging.ledger.verify.finding import Finding

INVARIANT: Final = "chain: history is what it was when it was chained"
REMEMBERED: Final = "chain: it goes on from where the auditor saw it end"
# The most links in memory at once.
LINKS_AT_ONCE: Final = 500

CHECKS: Final[dict[str, str]] = {
    "chain: a usage record is in the link of its entry": """
        SELECT 'usage ' || usage_id, 'is not in the link of its entry' FROM usage u JOIN chain_link l USING (account_id, entry_id)
        WHERE position(uuid_send(u.usage_id) IN l.rows) = 0""",
    "chain: an entry is in one link": """
        SELECT 'entry ' || entry_id, 'is in two links' FROM chain_link GROUP BY account_id, entry_id HAVING count(*) > 1""",
    "chain: an entry older than the last link of the account's own chain is in a chain": """
        SELECT 'entry ' || e.entry_id, 'is in no chain, though later ones are' FROM entry e JOIN chain_head h ON h.account_id = e.account_id
            AND h.chain_id = '00000000-0000-0000-0000-000000000000' AND e.posted_at < to_timestamp(h.seq / 1000.0)
        WHERE NOT EXISTS (SELECT 1 FROM chain_link l WHERE l.account_id = e.account_id AND l.entry_id = e.entry_id)""",
    "chain: its head is its last link": """
        SELECT 'chain ' || coalesce(h.account_id, l.account_id) || '/' || coalesce(h.chain_id, l.chain_id),
            'is the head of a chain without links, or of other ones'
        FROM chain_head h FULL JOIN (SELECT DISTINCT ON (account_id, chain_id) account_id, chain_id, link_no, seq, hash FROM chain_link
                                     ORDER BY account_id, chain_id, link_no DESC) l USING (account_id, chain_id)
        WHERE (h.link_no, h.seq, h.hash) IS DISTINCT FROM (l.link_no, l.seq, l.hash)""",
    "chain: an entry of heads names existing links, and no two entries name the same": """
        SELECT 'entry ' || e.entry_id || ' of account ' || e.account_id, format('says %s, and the link is %s', h, encode(l.hash, 'hex'))
        FROM entry e CROSS JOIN LATERAL regexp_split_to_table(e.ref, ' ') h
            LEFT JOIN chain_link l ON l.account_id = e.account_id AND h ~ '^[0-9a-f]{32}:[0-9]{1,18}:[0-9a-f]{64}$'
                AND CASE WHEN h ~ '^[0-9a-f]{32}:[0-9]{1,18}:[0-9a-f]{64}$' THEN l.chain_id = split_part(h, ':', 1)::uuid
                    AND l.link_no = split_part(h, ':', 2)::bigint END
        WHERE e.kind = 'heads' AND encode(l.hash, 'hex') IS DISTINCT FROM split_part(h, ':', 3)
        UNION ALL
        SELECT 'entry ' || string_agg(entry_id::text, ' ') || ' of account ' || account_id, 'name the same heads'
        FROM entry WHERE kind = 'heads' GROUP BY account_id, ref HAVING count(*) > 1""",
}  # fmt: skip


def history(connection: Connection) -> Iterator[Finding]:
    """Findings of all chains: rows that do not match their links.

    Runs in the caller's transaction, which must keep one snapshot. At most `LINKS_AT_ONCE` links are in memory.
    """
    yield from _links(connection, digests.differing_links("chain_link"))


def fresh(connection: Connection) -> Iterator[Finding]:
    """As `history`, for the links in `fresh_link`: the links after the heads that the auditor remembers."""
    yield from _links(connection, digests.differing_links("fresh_link", "seen_no", "seen_hash"))


def remembered(connection: Connection) -> Iterator[Finding]:
    """Findings of chains that are shorter than at the last run, or have another link where they ended then."""
    for account_id, chain_id, link_no, now_no in connection.execute(
        """SELECT v.account_id, v.chain_id, v.link_no, h.link_no FROM verify_head v
           LEFT JOIN chain_head h USING (account_id, chain_id)
           LEFT JOIN chain_link l ON h.link_no > v.link_no AND l.account_id = v.account_id AND l.chain_id = v.chain_id
               AND l.link_no = v.link_no
           WHERE CASE WHEN h.link_no = v.link_no THEN h.hash ELSE l.hash END IS DISTINCT FROM v.hash"""
    ):
        detail = f"was seen to end at link {link_no}, and that is " + (
            "another one" if now_no is not None and now_no >= link_no else "gone"
        )
        yield Finding(REMEMBERED, f"chain {account_id}/{chain_id}", detail)


def _links(connection: Connection, differing: str) -> Iterator[Finding]:
    """Findings of the links that the statement `differing` returns. Each is rebuilt from its rows by the code that settles."""
    with connection.cursor("chains") as cursor:
        cursor.itersize = LINKS_AT_ONCE
        cursor.execute(differing.encode())
        while batch := cursor.fetchmany(LINKS_AT_ONCE):
            entries, usage = _rows_of(connection, batch)
            for account_id, _, link_no, entry_id, seq, rows, link_hash, before_no, before_hash in batch:
                link = Link(link_no, entry_id, seq, bytes(rows), bytes(link_hash))
                before = Head(0, before_no, bytes(before_hash))
                for where, detail in _check(link, before, entries.get((account_id, entry_id)), usage):
                    yield Finding(INVARIANT, f"{where} of account {account_id}", detail)


def _rows_of(
    connection: Connection, batch: Sequence[TupleRow]
) -> tuple[dict[Key, bytes], dict[tuple[UUID, str], bytes]]:
    """The digests of a batch of links: of entries by (account, entry), and of usage records by (entry, usage id)."""
    entries = chain_store.entry_digests_of_all(connection, [(row[0], row[3]) for row in batch])
    ids = [(row[0], UUID(usage_id)) for row in batch for usage_id in chain.digests_of(bytes(row[5]))]
    usage = {
        (entry_id, usage_id): digest
        for entry_id, usage_id, digest in chain_store.usage_digests_of_all(connection, ids)
    }
    return entries, usage


def _check(
    link: Link, before: Head, entry: bytes | None, usage: dict[tuple[UUID, str], bytes]
) -> Iterator[tuple[str, str]]:
    """(where, detail) of what differs from a stored link. `entry`: the entry's digest now; None if the entry is gone."""
    if link.link_no != before.link_no + 1:
        yield f"link {link.link_no} of entry {link.entry_id}", f"follows link {before.link_no}"
        return
    if entry is None:
        yield f"entry {link.entry_id}", "is in a chain, and gone"
        return
    wrong = False
    for usage_id, digest in chain.digests_of(link.rows).items():
        now = usage.get((link.entry_id, usage_id))
        if now != digest:
            wrong = True
            yield f"usage {UUID(usage_id)}", "is in a chain, and gone" if now is None else "was changed"
    rebuilt = chain.link(before, link.seq, link.entry_id, entry, link.rows)
    if not wrong and rebuilt.hash != link.hash:
        yield f"entry {link.entry_id}", "was changed, or its postings or its place"
