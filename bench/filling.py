"""A ledger of many usage records of many subscribers, without hosts: settlement's own code makes the rows (`BatchRows`), and COPY puts
them in their tables, so that links, entries, postings and usage by day are what hosts would have left. `ledger verify` of it is clean.

A round is `per_entry` records of every account, in one entry each. Triggers are switched off meanwhile, by the database's owner.
"""

from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from bench.crowd import seed
from tokenworks.catalog import Counts, amount
from tokenworks.charging.ledger import chain, chain_store, day_store
from tokenworks.charging.ledger.settle_rows import POSTING_COLUMNS, USAGE_COLUMNS, BatchRows
from tokenworks.charging.messages import Part, UsageRecord
from tokenworks.kernel import uuid7
from tokenworks.subscriptions.model import add_months, month_start

MODEL = "deepseek-v3.2"
BATCH_RECORDS = 20_000
# What a record asks and gets, by its number.
SHAPES = [
    Counts(fresh_input=350 + at % 50, cached_input=at % 3 * 256, output=200 + at % 90) for at in range(90)
]
TABLES = ("usage", "entry", "posting", "chain_link", "chain_head", "usage_day")
KEYS = """INSERT INTO api_key (key_id, account_id, member_id, key_mac, pepper_version, hint, name, created_at)
    SELECT uuidv7(m.created_at - now()), m.account_id, m.member_id, sha256(uuid_send(m.account_id)), 1, 'bench', 'bench', m.created_at FROM member m
    WHERE NOT EXISTS (SELECT 1 FROM api_key k WHERE k.account_id = m.account_id)"""
# A grant of all that a plan's bucket has.
GRANTS = """WITH of AS (SELECT DISTINCT ON (account_id) account_id, bucket_id, remaining FROM bucket WHERE priority = 10
                        ORDER BY account_id, bucket_id),
    taken AS (UPDATE bucket b SET remaining = 0, granted = b.remaining FROM of
              WHERE b.account_id = of.account_id AND b.bucket_id = of.bucket_id)
    INSERT INTO grants (account_id, grant_id, bucket_id, journal_id, amount, spend_until)
    SELECT account_id, uuidv7(), bucket_id, %s, remaining, now() + interval '1 day' FROM of"""
SIZES = """SELECT p.relname, sum(pg_table_size(c.oid))::bigint, sum(pg_indexes_size(c.oid))::bigint FROM pg_class c
    JOIN LATERAL (SELECT coalesce(pg_partition_root(c.oid), c.oid) AS oid) r ON true JOIN pg_class p ON p.oid = r.oid
    WHERE c.relkind IN ('r', 'p') AND p.relname = ANY(%s) GROUP BY 1 ORDER BY 1"""


class Spender(NamedTuple):
    """An account, and with what it spends. Ids are 32 hex digits."""

    account: str
    bucket: str
    grant: str
    rate: str
    member: str
    key: str


class Filling:
    """`subscribers` with a plan, a key and a grant, and a journal. `connection` is the owner's, in autocommit."""

    def __init__(self, connection, cards, subscribers):
        self.connection, self.journal_id, self.seq = connection, uuid7(), 0
        begin = month_start(datetime.now(UTC))
        seed(connection, subscribers, begin, add_months(begin, 1))
        connection.execute(
            "INSERT INTO journal (journal_id, host, created_at) VALUES (%s, 'bench', now())",
            (self.journal_id,),
        )
        connection.execute(KEYS)
        connection.execute(GRANTS, (self.journal_id,))
        connection.execute("ANALYZE")
        rows = connection.execute(
            """SELECT g.account_id, g.bucket_id, g.grant_id, b.rate_version, k.member_id, k.key_id FROM grants g
               JOIN bucket b USING (account_id, bucket_id) JOIN api_key k USING (account_id) WHERE g.journal_id = %s ORDER BY 1""",
            (self.journal_id,),
        )
        self.spenders = [Spender(a.hex, b.hex, g.hex, rate, m.hex, k.hex) for a, b, g, rate, m, k in rows]
        self.used = dict.fromkeys((one.account for one in self.spenders), 0)
        self.heads = {}
        weights = {
            rate: cards[rate].rate_for(MODEL).weights() for rate in {one.rate for one in self.spenders}
        }
        self.prices = {rate: [amount(each, counts) for counts in SHAPES] for rate, each in weights.items()}

    def rounds(self, count, per_entry, progress=None, *, accounts=None):
        """So many rounds. `progress(records)` is called after each batch."""
        self.connection.execute("SET session_replication_role = replica")
        done, spenders = 0, self.spenders[:accounts]
        at_once = max(1, BATCH_RECORDS // per_entry)
        for _ in range(count):
            for first in range(0, len(spenders), at_once):
                done += self._batch(spenders[first : first + at_once], per_entry)
                if progress is not None:
                    progress(done)
        self._finish()
        self.connection.execute("SET session_replication_role = origin")
        return done

    def _batch(self, some, per_entry):
        before = self.seq
        with self.connection.transaction():
            (now,) = self.connection.execute("SELECT now()").fetchone()
            rows = BatchRows(
                self.journal_id, now, f"{self.journal_id}:{before + 1}-{before + len(some) * per_entry}"
            )
            now_ms = int(now.timestamp() * 1000)
            for one in some:
                head = self.heads.get(one.account) or chain.genesis(one.account, self.journal_id.hex)
                rows.add(one.account, [self._record(one, now_ms) for _ in range(per_entry)], head, ())
                self.heads[one.account] = rows.accounts[one.account].after
                self.used[one.account] += rows.accounts[one.account].draws[one.grant]
            self._put(f"COPY usage ({USAGE_COLUMNS}) FROM STDIN", rows.usage)
            self._put("COPY entry (account_id, entry_id, kind, ref, posted_at) FROM STDIN", rows.entries)
            self._put(f"COPY posting ({POSTING_COLUMNS}) FROM STDIN", rows.postings)
            self._put(chain_store.COPY_LINK, rows.links)
        self.settled_at = now
        return len(some) * per_entry

    def _record(self, one, now_ms):
        self.seq += 1
        shape = self.seq % len(SHAPES)
        usage_id, counts, price = uuid7().hex, SHAPES[shape], self.prices[one.rate][shape]
        record = UsageRecord(
            one.account, usage_id, usage_id, 1, one.key, one.member, "chat", MODEL, "bench", "complete", "completed", "provider",
            now_ms - 500 - self.seq % 1000, now_ms - self.seq % 500, 100, 500, counts, counts.total,
            [Part(one.bucket, one.grant, one.rate, "token", "balance", price, 1, None)], [], [], f"chatcmpl-{UUID(usage_id)}",
        )  # fmt: skip
        return self.seq, record

    def _put(self, statement, lines):
        with self.connection.cursor().copy(statement) as copy:
            copy.write("".join(lines))

    def _finish(self):
        """What follows from the rows: heads, what grants used, usage by day, and up to where the journal is settled."""
        c = self.connection
        with c.transaction():
            c.execute(
                "CREATE TEMP TABLE filled (account_id uuid, used bigint, seq bigint, link_no bigint, hash bytea) ON COMMIT DROP"
            )
            self._put(
                "COPY filled FROM STDIN",
                [f"{account}\t{self.used[account]}\t{head.seq}\t{head.link_no}\t\\\\x{head.hash.hex()}\n" for account, head in self.heads.items()],
            )  # fmt: skip
            c.execute("ANALYZE filled")
            c.execute("DELETE FROM chain_head WHERE chain_id = %s", (self.journal_id,))
            c.execute(
                "INSERT INTO chain_head (account_id, chain_id, seq, link_no, hash) SELECT account_id, %s, seq, link_no, hash FROM filled",
                (self.journal_id,),
            )
            c.execute("UPDATE grants g SET used = f.used FROM filled f WHERE g.account_id = f.account_id")
            c.execute("DELETE FROM usage_day WHERE journal_id = %s", (self.journal_id,))
            c.execute(
                f"""INSERT INTO usage_day (account_id, member_id, journal_id, day, unit, records, input_tokens, output_tokens, amount)
                    SELECT account_id, member_id, %s, day, unit, records, input_tokens, output_tokens, amount FROM ({day_store.SUMS}) s""".encode(),
                (self.journal_id,),
            )
            c.execute(
                "UPDATE journal SET settled_seq = %s, settled_at = %s WHERE journal_id = %s",
                (self.seq, self.settled_at, self.journal_id),
            )
        c.execute("VACUUM ANALYZE")


def bytes_of(connection):
    """By table: bytes of its rows and of its indexes, of all that a settled record leaves."""
    return {name: (rows, indexes) for name, rows, indexes in connection.execute(SIZES, (list(TABLES),))}
