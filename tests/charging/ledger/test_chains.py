"""The daily run of chains reads what is new of an account, however long its history is, and misses nothing of a long one."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tokenworks.charging import chain_all
from tokenworks.charging.ledger import chain_store, store
from tokenworks.charging.ledger.chain import OWN
from tokenworks.kernel import uuid7, uuid7_floor

# Entries of long ago, each in a link of a journal's chain, as settlement leaves them.
HISTORY = """
WITH made AS (
    INSERT INTO entry (account_id, entry_id, kind, ref, posted_at)
    SELECT %(account)s, (lpad(to_hex(ms), 12, '0') || '7000' || '8' || lpad(to_hex(n), 15, '0'))::uuid, 'usage', n::text, to_timestamp(ms / 1000.0)
    FROM (SELECT n, %(began_ms)s::bigint + n * 60000::bigint AS ms FROM generate_series(%(first)s::int, %(last)s::int) n) t RETURNING entry_id)
INSERT INTO chain_link (account_id, chain_id, link_no, entry_id, seq, rows, hash)
SELECT %(account)s, %(chain)s, %(first)s + row_number() OVER (ORDER BY entry_id) - 1, entry_id, %(first)s + row_number() OVER (ORDER BY entry_id), '',
    sha256(uuid_send(entry_id)) FROM made
"""
READ = """SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables
    WHERE relname ~ '^(entry|chain_link|chain_head)_h'"""
DAY = timedelta(days=1)


@pytest.fixture
def account(services, owner):
    """It has an entry of its own a day, each in a link, and its heads were named every day."""
    account_id = services.ledger.open_account()
    for day in range(4, 0, -1):
        at = datetime.now(UTC) - day * DAY
        entry(services, account_id, at)
        run(services, owner, account_id, at + DAY / 2)
    return account_id


def run(services, owner, account_id, at):
    """The daily run, as at that time: what it posts is of then."""
    count = chain_store.chain_own(services.connection, account_id, at)
    owner.execute("ALTER TABLE entry DISABLE TRIGGER USER")
    owner.execute(
        "UPDATE entry SET posted_at = %s WHERE account_id = %s AND kind = 'heads' AND posted_at > %s",
        (at + timedelta(hours=1), account_id, at + timedelta(hours=1)),
    )
    owner.execute("ALTER TABLE entry ENABLE TRIGGER USER")
    return count


def entry(services, account_id, at, kind="issue"):
    entry_id = UUID(int=uuid7_floor(int(at.timestamp() * 1000)).int | (uuid7().int & ((1 << 62) - 1)))
    services.connection.execute(
        "INSERT INTO entry (account_id, entry_id, kind, ref, posted_at) VALUES (%s, %s, %s, 'x', %s)",
        (account_id, entry_id, kind, at),
    )
    return entry_id


def settled(services, account_id, chain_id, first, last, began):
    """Entries `first` to `last` of a journal, one a minute."""
    names = {
        "account": account_id,
        "chain": chain_id,
        "first": first,
        "last": last,
        "began_ms": int(began.timestamp() * 1000),
    }
    services.connection.execute(HISTORY, names)
    services.connection.execute(
        """INSERT INTO chain_head (account_id, chain_id, seq, link_no, hash)
           SELECT account_id, chain_id, seq, link_no, hash FROM chain_link WHERE account_id = %(account)s AND chain_id = %(chain)s
               AND link_no = %(last)s
           ON CONFLICT (account_id, chain_id) DO UPDATE SET seq = excluded.seq, link_no = excluded.link_no, hash = excluded.hash""",
        names,
    )


def rows_read(services, account_id, until):
    """Of entries, links and heads, by the run of one account."""
    with services.connection.transaction():
        before = services.connection.execute(READ).fetchone()[0] or 0
        found = chain_store.chain_own(services.connection, account_id, until)
        return found, services.connection.execute(READ).fetchone()[0] - before


def test_a_run_reads_what_is_new_and_not_the_history(services, owner, account):
    journal = uuid7()
    began = datetime.now(UTC) - timedelta(days=20)
    read = []
    for first, last in ((1, 2000), (2001, 16_000)):
        settled(services, account, journal, first, last, began)
        for hours in (40, 30, 20, 10):
            # Named in between, as every day.
            run(services, owner, account, datetime.now(UTC) - timedelta(hours=hours))
        own = entry(services, account, datetime.now(UTC))
        for table in ("entry", "chain_link", "chain_head"):
            owner.execute(f"VACUUM ANALYZE {table}")
        found, rows = rows_read(services, account, datetime.now(UTC) + timedelta(hours=1))
        assert found
        read.append(rows)
        assert own in links_of(services, account)
    assert read[1] < read[0] + 100, read
    assert max(read) < 500


def links_of(services, account_id):
    return [
        row[0]
        for row in services.connection.execute(
            "SELECT entry_id FROM chain_link WHERE account_id = %s AND chain_id = %s ORDER BY link_no",
            (account_id, OWN),
        )
    ]


def test_a_long_history_that_nobody_chained_is_chained_once(services, monkeypatch):
    """Sorted by a few at a time: ids and times are not in one order, and journals have chained what is between."""
    monkeypatch.setattr(chain_store, "LINKS_AT_ONCE", 20)
    account_id = services.ledger.open_account()
    now = datetime.now(UTC)
    began = now - timedelta(days=30)
    journal = uuid7()
    own = []
    for number in range(120):
        at = began + number * timedelta(hours=3)
        own.append(entry(services, account_id, at))
        # As of a transaction that was long open: its id is older than its time.
        services.connection.execute(
            "INSERT INTO entry (account_id, entry_id, kind, ref, posted_at) VALUES (%s, %s, 'issue', 'x', %s)",
            (account_id, late := uuid7_floor(int(at.timestamp() * 1000) - 1_800_000), at + timedelta(minutes=20)),
        )  # fmt: skip
        own.append(late)
    settled(services, account_id, journal, 1, 300, began + timedelta(days=8))
    assert chain_all(services.connection, now + timedelta(hours=2)) >= len(own)
    linked = links_of(services, account_id)
    assert set(own) <= set(linked)
    assert len(linked) == len(set(linked))
    times = services.connection.execute(
        """SELECT posted_at FROM chain_link l JOIN entry e USING (account_id, entry_id)
           WHERE account_id = %s AND chain_id = %s ORDER BY link_no""",
        (account_id, OWN),
    ).fetchall()
    assert times == sorted(times), "whatever is in no link is later than what is"
    both = services.connection.execute(
        "SELECT entry_id FROM chain_link WHERE account_id = %s GROUP BY entry_id HAVING count(*) > 1",
        (account_id,),
    ).fetchall()
    assert both == []
    store.post(services.connection, account_id, "heads", "none", [])
    assert chain_all(services.connection, now + timedelta(hours=2)) >= 1
