"""Chains of hashes: what is settled goes on with them, and who changes history silently is found."""

import queue
from datetime import timedelta
from types import SimpleNamespace
from uuid import UUID

import pytest

from tests.charging.ledger.test_accounts import findings, grant, settle, settling, usage_record
from tests.support.rechain import rechain
from tokenworks.app.database.connections import connect
from tokenworks.catalog import Counts
from tokenworks.charging import chain_all
from tokenworks.charging.errors import LedgerWentBack
from tokenworks.charging.host import settlement
from tokenworks.charging.ledger import chain, settle_store
from tokenworks.charging.ledger.verify import checks
from tokenworks.kernel import uuid7


@pytest.fixture
def database_url(owner_url):
    """As the owner: what is tried here no service may do."""
    return owner_url


@pytest.fixture
def sold(services):
    """Two accounts with a trial of 10 000 tokens each, and a journal that has a grant of both."""
    journal_id = uuid7()
    services.ledger.register_journal(journal_id, "test")
    accounts, parts = [], []
    for number in (1, 2):
        subscriber = services.subscriptions.register(f"+861380000000{number}")
        services.orders.place(subscriber, "sample-trial")
        bucket = services.ledger.buckets(subscriber.account_id)[0]
        granted = grant(services, subscriber.account_id, bucket, journal_id, 5_000_000)
        accounts.append(subscriber.account_id)
        parts.append((bucket.bucket_id.hex, granted.grant_id, bucket.rate_version, 1_000))
    seqs = iter(range(1, 1000))

    def record(which, **more):
        return usage_record(next(seqs), accounts[which], parts[which], Counts(output=1), **more)

    return SimpleNamespace(services=services, connection=services.connection, journal=journal_id, accounts=accounts, record=record)  # fmt: skip


def verify_chains(connection):
    """What the auditor says of chains."""
    with connection.transaction():
        return [
            finding
            for name, check in checks({})
            if name.startswith("chain: ")
            for finding in check(connection)
        ]


def heads(sold, which=0):
    rows = sold.connection.execute(
        "SELECT chain_id, seq, link_no, hash FROM chain_head WHERE account_id = %s", (sold.accounts[which],)
    )
    return {row[0]: row[1:] for row in rows}


def some(sold, count=6):
    """So many records of both accounts in turns, settled in two batches. Returns them."""
    records = [sold.record(at % 2) for at in range(count)]
    half = count // 2
    for part in (records[:half], records[half:]):
        settle(sold.connection, sold.journal, part[-1][0], part)
    return [UUID(record.usage_id) for _, record in records]


def test_what_is_settled_goes_on_with_its_accounts_chain(sold):
    some(sold)
    assert heads(sold)[sold.journal][:2] == (5, 2)
    assert heads(sold, 1)[sold.journal][:2] == (6, 2)
    assert verify_chains(sold.connection) == []
    assert findings(sold.services) == []


def test_replaying_is_harmless_though_the_low_water_mark_is_far_behind(sold):
    records = [sold.record(at % 2) for at in range(6)]
    assert settle(sold.connection, sold.journal, 6, records) == 6
    before = heads(sold)
    # As where the mark follows later, or a shard was ahead of it.
    sold.connection.execute("UPDATE journal SET settled_seq = 0")
    assert settle(sold.connection, sold.journal, 6, records) == 0
    more = sold.record(0)
    sold.connection.execute("UPDATE journal SET settled_seq = 2")
    assert settle(sold.connection, sold.journal, 7, [*records, more]) == 1
    assert heads(sold)[sold.journal][1] == before[sold.journal][1] + 1
    assert verify_chains(sold.connection) == []
    assert findings(sold.services) == []


def test_an_account_that_went_back_is_told_from_one_that_moved_on(sold):
    known = {}
    first, second, third = sold.record(0), sold.record(0), sold.record(0)
    settle(sold.connection, sold.journal, 1, [first], heads=known)
    # Another connection of this journal was ahead: what is remembered is asked anew.
    settle(sold.connection, sold.journal, 2, [second])
    sold.connection.execute("UPDATE journal SET settled_seq = 1")
    assert settle(sold.connection, sold.journal, 3, [second, third], heads=known) == 1
    assert known[sold.accounts[0].hex].seq == 3
    # One shard was restored from before: its head is below what is remembered, whatever the mark says.
    sold.connection.execute("UPDATE chain_head SET seq = 2, hash = decode(repeat('00', 32), 'hex')")
    with pytest.raises(LedgerWentBack, match="account"):
        settle(sold.connection, sold.journal, 4, [sold.record(0)], heads=known)


def test_a_released_record_is_a_link_of_the_accounts_own_chain(sold):
    good, bad = sold.record(0), sold.record(0, usage_id=uuid7(1_700_000_000_000).hex)
    refused = {}
    assert settle(sold.connection, sold.journal, 2, [good, bad], quarantine=refused) == 1
    (held,) = sold.services.ledger.quarantined()
    sold.services.ledger.decide_quarantine(held["quarantine_id"], release=True, rates=lambda *_: None)
    assert set(heads(sold)) == {sold.journal, chain.OWN}
    assert verify_chains(sold.connection) == []
    assert settle(sold.connection, sold.journal, 3, [sold.record(0)]) == 1
    assert verify_chains(sold.connection) == []


def test_what_is_no_settlement_is_chained_by_the_run_and_heads_are_named(sold, clock):
    some(sold)
    connection = sold.connection
    later = connection.execute("SELECT now() + interval '2 hours'").fetchone()[0]
    made = chain_all(connection, later)
    unchained = connection.execute(
        """SELECT kind FROM entry e WHERE NOT EXISTS (SELECT 1 FROM chain_link l WHERE l.account_id = e.account_id
               AND l.entry_id = e.entry_id)"""
    ).fetchall()
    assert made > 0
    assert set(unchained) == {("heads",)}
    (ref,) = connection.execute(
        "SELECT ref FROM entry WHERE kind = 'heads' AND account_id = %s", (sold.accounts[0],)
    ).fetchone()
    assert f"{sold.journal.hex}:2:{heads(sold)[sold.journal][2].hex()}" in ref.split()
    assert verify_chains(connection) == []
    assert findings(sold.services) == []
    # What names heads is chained, and brings no other one: a run without news ends.
    assert chain_all(connection, later + timedelta(hours=1)) == 2
    assert chain_all(connection, later + timedelta(days=1)) == 0
    assert verify_chains(connection) == []


def test_rows_of_before_the_chains_are_chained_by_the_first_run(sold):
    some(sold)
    connection = sold.connection
    connection.execute("ALTER TABLE chain_link DISABLE TRIGGER chain_link_is_history")
    connection.execute("DELETE FROM chain_link")
    connection.execute("DELETE FROM chain_head")
    later = connection.execute("SELECT now() + interval '2 hours'").fetchone()[0]
    chain_all(connection, later)
    assert set(heads(sold)) == {chain.OWN}
    assert verify_chains(connection) == []
    connection.execute("ALTER TABLE usage DISABLE TRIGGER usage_is_history")
    connection.execute("UPDATE usage SET output = 0 WHERE account_id = %s", (sold.accounts[0],))
    assert {found.detail for found in verify_chains(connection)} == {"was changed"}


TAMPERED = {
    "a record is changed": ("usage", "UPDATE usage SET model = 'cheaper' WHERE usage_id = %(usage)s", "usage {usage}", "was changed"),
    "a record's tokens are changed by one": ("usage", "UPDATE usage SET output = output + 1 WHERE usage_id = %(usage)s", "usage {usage}", "was changed"),
    "a record's time is changed": (
        "usage", "UPDATE usage SET started_at = started_at + interval '1 microsecond' WHERE usage_id = %(usage)s", "usage {usage}", "was changed",
    ),
    "a record is removed": ("usage", "DELETE FROM usage WHERE usage_id = %(usage)s", "usage {usage}", "is in a chain, and gone"),
    "a record is doubled": (
        "usage",
        """CREATE TEMP TABLE one AS SELECT * FROM usage WHERE usage_id = %(usage)s; UPDATE one SET usage_id = %(other)s;
           INSERT INTO usage SELECT * FROM one""",
        "usage {other}", "is not in the link of its entry",
    ),
    "records change places": (
        "usage", "UPDATE usage SET seq = CASE seq WHEN 1 THEN 3 ELSE 1 END WHERE account_id = %(account)s AND seq IN (1, 3)",
        "usage {usage}", "was changed",
    ),
    "an entry is changed": ("entry", "UPDATE entry SET ref = 'x' WHERE entry_id = %(entry)s", "entry {entry}", "was changed, or its postings or its place"),
    "an entry's time is changed": (
        "entry", "UPDATE entry SET posted_at = posted_at - interval '1 day' WHERE entry_id = %(entry)s", "entry {entry}",
        "was changed, or its postings or its place",
    ),
    "an entry is removed": ("entry", "DELETE FROM entry WHERE entry_id = %(entry)s", "entry {entry}", "is in a chain, and gone"),
    "a posting is changed": (
        "posting", "UPDATE posting SET amount = 2 * amount WHERE entry_id = %(entry)s", "entry {entry}", "was changed, or its postings or its place",
    ),
    "a link is removed": ("chain_link", "DELETE FROM chain_link WHERE account_id = %(account)s AND link_no = 1", "link 2 of entry {later}", "follows link 0"),
    "links change places": (
        "chain_link",
        """UPDATE chain_link SET link_no = -link_no WHERE account_id = %(account)s;
           UPDATE chain_link SET link_no = 3 + link_no WHERE account_id = %(account)s""",
        "entry {entry}", "was changed, or its postings or its place",
    ),
    "the last link and its head are taken away, but what it was of stays": (
        "chain_link", "DELETE FROM chain_link WHERE account_id = %(account)s AND link_no = 2", "chain {account}/{journal}",
        "is the head of a chain without links, or of other ones",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_history_that_is_changed_silently_is_named(sold, name):
    table, statements, where, what = TAMPERED[name]
    usage = some(sold)
    connection = sold.connection
    entry, later = (
        row[0] for row in connection.execute(
            "SELECT entry_id FROM chain_link WHERE account_id = %s ORDER BY link_no", (sold.accounts[0],)
        )
    )  # fmt: skip
    names = {
        "usage": usage[0],
        "other": uuid7(),
        "entry": entry,
        "later": later,
        "account": sold.accounts[0],
        "journal": sold.journal,
    }
    assert verify_chains(connection) == []
    connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER {table}_is_history")
    for statement in statements.split(";"):
        connection.execute(statement, names)
    found = verify_chains(connection)
    assert (where.format(**names), what) in [(f.where.split(" of account ")[0], f.detail) for f in found]
    # Nothing is said of the other account.
    assert not any(str(sold.accounts[1]) in finding.where for finding in found)


def test_a_chain_covers_records_as_they_are_settled(sold):
    """Text that COPY, JSON or an array would read differently, and a loss: what is read back is what was hashed."""
    record = sold.record(0)
    strange = "a\\b\tc\nd\"e,{}'é中\u2028"
    record[1].model, record[1].upstream_id, record[1].flags = strange, strange, [strange, "late"]
    record[1].asked = record[1].choice = ""
    settle(sold.connection, sold.journal, 1, [record])
    (row,) = sold.services.ledger.usage(sold.accounts[0])
    assert (row["model"], row["upstream_id"], row["flags"]) == (strange, strange, [strange, "late"])
    assert verify_chains(sold.connection) == []


def test_a_record_that_would_break_out_of_its_line_is_refused(sold):
    record = sold.record(0)
    record[1].member_id = "x\ty\nz"
    with pytest.raises(settle_store.REFUSALS):
        settle(sold.connection, sold.journal, 1, [record])
    other = sold.record(0)
    other[1].request_id = "nul\0"
    with pytest.raises(settle_store.REFUSALS):
        settle(sold.connection, sold.journal, 2, [other])
    assert sold.services.ledger.usage(sold.accounts[0]) == []


def test_a_link_follows_from_what_it_says(sold):
    head = chain.genesis("a" * 32, "b" * 32)
    entry = chain.entry_digest("e" * 32, "usage", "r", 1, [(1, "used", "token", None, 1)])
    rows = chain.rows_of([("2" * 32, bytes(32)), ("1" * 32, bytes([1] * 32))])
    made = chain.link(head, 7, UUID("e" * 32), entry, rows)
    assert list(chain.digests_of(rows)) == ["1" * 32, "2" * 32]
    # The bytes are fixed: chains of today are checked by later releases.
    assert made.hash.hex() == "3f82f181b11e310e081ddc6c408b788fd7815c6653227ff8c7927d69e7d77c1a"
    with pytest.raises(ValueError):
        chain.rows_of([("short", bytes(32))])


def named_heads(sold, which=0):
    return [
        row[0].split() for row in sold.connection.execute(
            "SELECT ref FROM entry WHERE kind = 'heads' AND account_id = %s ORDER BY entry_id", (sold.accounts[which],)
        )
    ]  # fmt: skip


def test_a_day_on_which_there_was_settlement_alone_names_heads_too(sold):
    some(sold)
    now = sold.connection.execute("SELECT now()").fetchone()[0]
    chain_all(sold.connection, now + timedelta(hours=2))
    chain_all(sold.connection, now + timedelta(hours=3))
    settle(sold.connection, sold.journal, 7, [sold.record(0)])
    assert chain_all(sold.connection, now + timedelta(hours=4)) == 0
    first, second = named_heads(sold)
    moved = f"{sold.journal.hex}:3:{heads(sold)[sold.journal][2].hex()}"
    assert moved in second and moved not in first
    # Nothing moved in the other account, nor in this one afterwards.
    assert len(named_heads(sold, 1)) == 1
    chain_all(sold.connection, now + timedelta(hours=5))
    chain_all(sold.connection, now + timedelta(hours=6))
    assert len(named_heads(sold)) == 2
    assert verify_chains(sold.connection) == []
    assert findings(sold.services) == []


def test_heads_that_are_named_are_heads_that_were(sold):
    some(sold)
    connection = sold.connection
    chain_all(connection, connection.execute("SELECT now() + interval '2 hours'").fetchone()[0])
    (entry_id,) = connection.execute(
        "SELECT entry_id FROM entry WHERE kind = 'heads' AND account_id = %s", (sold.accounts[0],)
    ).fetchone()
    connection.execute("ALTER TABLE entry DISABLE TRIGGER entry_is_history")
    for changed in ("replace(ref, ':2:', ':1:')", "'x'", "''", "ref || ' 1:1:1'"):
        with connection.transaction(force_rollback=True):
            connection.execute(f"UPDATE entry SET ref = {changed} WHERE entry_id = %s", (entry_id,))
            assert any(str(entry_id) in finding.where for finding in verify_chains(connection)), changed
    # Twice the same is a forgery.
    connection.execute(
        "INSERT INTO entry (account_id, entry_id, kind, ref) SELECT account_id, %s, kind, ref FROM entry WHERE entry_id = %s",
        (uuid7(), entry_id),
    )
    assert any(str(entry_id) in finding.where for finding in verify_chains(connection))


def test_history_that_an_operator_chains_anew_fits(sold):
    """What the chain alone cannot show: that is for heads that were given out."""
    usage = some(sold)
    connection = sold.connection
    chain_all(connection, connection.execute("SELECT now() + interval '2 hours'").fetchone()[0])
    connection.execute("SET session_replication_role = replica")
    connection.execute("UPDATE usage SET model = 'cheaper' WHERE usage_id = %s", (usage[0],))
    connection.execute("DELETE FROM entry WHERE kind = 'issue'")
    assert verify_chains(connection) != []
    rechain(connection)
    assert verify_chains(connection) == []


def test_a_shard_that_went_back_is_noticed_without_a_record_of_it(sold, database_url, monkeypatch):
    """A node that was restored to an hour ago has less than the recorder remembers, whatever the journal's mark says."""
    monkeypatch.setattr(settlement, "LOOK_BACK_EVERY_S", 0.0)
    fatal, settled = queue.SimpleQueue(), queue.SimpleQueue()
    settler = settlement.Settler(
        lambda: connect(database_url), sold.journal, 0, settled.put, lambda *_: None, fatal.put
    )
    settler.start()
    settler.put([settling(*sold.record(0)), settling(*sold.record(1))])
    settler.advance(2)
    assert settled.get(timeout=60) == 2
    settler.hurry()
    sold.connection.execute(
        "DELETE FROM chain_head WHERE account_id = %s AND chain_id = %s", (sold.accounts[1], sold.journal)
    )
    settler.hurry()
    error = fatal.get(timeout=60)
    assert isinstance(error, LedgerWentBack) and sold.accounts[1].hex in str(error)
    settler.stop(60)
