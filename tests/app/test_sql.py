"""SQL that a distributed PostgreSQL can run: a statement on a hot table names one account, sub-queries too.

Every text of our code is looked at, also those that no test runs. What is fleet-wide is on a list, each with its reason.
"""

import collections

import pytest

from tests.support.purity import HOT, report
from tests.support.sql import Sql, statements

# Fleet-wide on purpose, by function. Readers that stream or list, and what finds of whom a job is to be done next: what is done
# then is done account by account.
FLEET = {
    "app.views.ledger_counts": "counts all rows for an operator",
    "charging.verify._rerate": "the auditor reads everything",
    "charging.verify.verify": "the auditor reads everything",
}
# Not account-pure yet.
NOT_YET = {
    "billing.open_store.lines_left",
    "billing.open_store.settlements",
    "billing.store._due",
    "billing.store.count_due",
    "charging.adjustment_store.balance",
    "charging.cap_store._found",
    "charging.charge_store._charges",
    "charging.charge_store.lock_accounts",
    "charging.charge_store.put_on_bills",
    "charging.charge_store.quantities",
    "charging.charge_store.recognise",
    "charging.charge_store.settle_credits",
    "charging.recall_store.recalls_for",
    "charging.settle_store._apply",
    "charging.settle_store._register_lost",
    "charging.settle_store.decide_quarantine",
    "charging.store.account_of_bucket",
    "charging.store.ask_grant_back",
    "charging.store.expire_due",
    "charging.store.find_grant",
    "charging.store.grants",
    "charging.store.grants_in_doubt_for",
    "charging.store.in_doubt",
    "charging.store.open_grants",
    "charging.store.write_off",
    "charging.usage_store.delete_old_account_losses",
    "charging.usage_store.flagged",
    "charging.usage_store.losses",
    "charging.usage_store.losses_of_today",
    "charging.usage_store.usage_record",
    "trust.store.find_keys",
}
# Functions whose texts are put together at run time, and why none of them is a statement on a hot table that changes anything.
UNREAD = {
    "app.sealing._batch": "tables of people: subscriber, member, work_order",
    "app.sealing._many": "tables of people, as `_batch` names them",
    "subscriptions.export_store._rows": "SELECT … WHERE account_id = or subscriber_id = of a table named by the catalogue",
    "subscriptions.hub_store.deliveries": "hub_delivery",
    "subscriptions.people_store.add_subscriber": "subscriber",
    "subscriptions.people_store.set_subscriber": "subscriber",
    "subscriptions.store.set_product": "product",
    "subscriptions.work_store.add_work_order": "work_order",
}


@pytest.fixture
def columns(works):
    found = collections.defaultdict(set)
    for table, column in works.connection.execute(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
    ):
        found[table].add(column)
    return found


def test_every_sql_text_can_be_told_from_the_code():
    texts, unread = statements()
    assert len(texts) > 500
    assert {where for where, _ in unread} == set(UNREAD), unread


def test_hot_tables_are_those_whose_key_is_led_by_the_account(works):
    rows = works.connection.execute(
        """SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_attribute a ON a.attrelid = c.oid
               AND a.attnum = i.indkey[0] WHERE i.indisprimary AND a.attname = 'account_id' AND NOT c.relispartition"""
    )
    assert {row[0] for row in rows} == HOT


def test_a_statement_on_a_hot_table_names_one_account(columns):
    broken = collections.defaultdict(set)
    for one in statements()[0]:
        for why in report(one.numbered, columns).broken:
            broken[one.where].add(why)
    allowed = set(FLEET) | NOT_YET
    unexpected = {where: sorted(why) for where, why in broken.items() if where not in allowed}
    assert unexpected == {}
    # Nothing stays on a list that need not be there.
    assert allowed - set(broken) == set()


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("SELECT 1 FROM bucket WHERE account_id = %s", ()),
        ("SELECT 1 FROM bucket WHERE bucket_id = %s", ("bucket is bound to no account",)),
        ("SELECT 1 FROM bucket WHERE account_id = ANY(%s)", ("bucket is bound to no account",)),
        ("SELECT 1 FROM bucket WHERE account_id = %s OR paused", ("bucket is bound to no account",)),
        ("SELECT 1 FROM bucket b JOIN grants g USING (account_id) WHERE b.account_id = %s", ()),
        (
            "SELECT 1 FROM bucket b JOIN grants g ON g.bucket_id = b.bucket_id WHERE b.account_id = %s",
            ("grants is bound to no account",),
        ),
        (
            "SELECT (SELECT sum(used) FROM grants g WHERE g.bucket_id = b.bucket_id) FROM bucket b WHERE account_id = %s",
            ("grants is bound to no account",),
        ),
        (
            "SELECT (SELECT sum(used) FROM grants g WHERE g.account_id = b.account_id) FROM bucket b WHERE account_id = %s",
            (),
        ),
        (
            "SELECT 1 FROM bucket b, grants g WHERE b.account_id = %s AND g.account_id = %s",
            ("it names several accounts: bucket, grants",),
        ),
        ("INSERT INTO entry (account_id, entry_id) VALUES (%s, %s)", ()),
        ("INSERT INTO entry (account_id, entry_id) SELECT account_id, grant_id FROM grants WHERE account_id = %s", ()),
        (
            "INSERT INTO entry (account_id, entry_id) SELECT account_id, grant_id FROM grants WHERE grant_id = %s",
            ("entry is bound to no account", "grants is bound to no account"),
        ),
        (
            "WITH a AS (DELETE FROM window_use WHERE account_id = %(a)s RETURNING account_id, bucket_id) "
            "UPDATE bucket b SET paused = true FROM a WHERE b.account_id = a.account_id",
            (),
        ),
        (
            "SELECT 1 FROM bucket JOIN quarantine USING (account_id) WHERE account_id = %s FOR UPDATE",
            ("it locks or changes rows and joins quarantine",),
        ),
        (
            "UPDATE bucket SET valid_until = now() WHERE account_id = %s",
            ("now() in a statement that locks or changes rows",),
        ),
        ("SELECT 1 FROM (SELECT * FROM bucket WHERE account_id = %s OFFSET 0) b", ("OFFSET 0 as a fence",)),
    ],
)  # fmt: skip
def test_what_is_not_account_pure_is_found(columns, text, broken):
    assert tuple(sorted(report(Sql("", 0, text).numbered, columns).broken)) == broken
