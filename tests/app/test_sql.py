"""SQL that a distributed PostgreSQL can run: a statement on a hot table names one account, sub-queries too.

Every text of our code is looked at, also those that no test runs. What is fleet-wide is on a list, each with its reason.
"""

import collections
from uuid import UUID

import psycopg
import pytest

from tests.support.purity import HOT, report
from tests.support.sql import Sql, statements
from tokenworks.charging import by_shard

# Fleet-wide on purpose, by function. Readers that stream or list, and what finds of whom a job is to be done next: what is done
# then is done account by account.
FLEET = {
    "app.verifier.ledger_counts": "counts all rows for an operator",
    "billing.bill_store._due": "finds who is to be billed next",
    "billing.bill_store.count_due": "the dry run of a bill run",
    "charging.ledger.chain_store.accounts_after": "finds the next accounts of a run",
    "charging.money.charge_store.accounts_with_open_charges": "finds the next accounts of a run",
    "charging.ledger.journal_store.reserved": "an operator's figures of a journal that is lost",
    "charging.ledger.closing_store.expire_due": "finds what is past its validity; each is expired by its account",
    "charging.ledger.grant_store.grants": "an operator's list of open grants",
    "charging.ledger.grant_store.grants_in_doubt_for": "finds what is to be written off; each is written off by its account",
    "charging.ledger.grant_store.in_doubt": "an operator's figure",
    "charging.ledger.grant_store.open_grants": "what a host had open, once when it starts",
    "charging.ledger.usage_store.delete_old_account_losses": "deletes days that nothing reads any more, in any order",
    "charging.ledger.usage_store.flagged": "an operator's list",
    "charging.ledger.usage_store.losses": "an operator's figures, where no account is named",
    "charging.ledger.usage_store.losses_of_today": "the few accounts that are over the loss budget",
    "charging.ledger.chain_store.entry_digests_of_all": "the auditor reads many accounts' entries",
    "charging.ledger.chain_store.usage_digests_of_all": "the auditor reads many accounts' usage",
    "charging.ledger.verify.chains._links": "the auditor reads all chains",
    "charging.ledger.verify.chains.remembered": "the auditor reads all heads",
    "charging.ledger.verify.rolling._ranges": "the auditor divides the accounts into ranges",
    "charging.ledger.verify.rolling._next_part": "the auditor finds the next accounts",
    "charging.ledger.verify.rolling._remember": "the auditor remembers all heads",
    "charging.ledger.verify.rolling._ranges_of_new_links": "the auditor divides the new links into ranges of accounts",
    "charging.ledger.verify.usage._rates": "the auditor reads which models were used",
    "charging.ledger.verify.usage.rerate": "the auditor reads everything",
    "charging.ledger.whose_store.of_bucket": "finds the account of what is named by its id alone",
    "charging.ledger.whose_store.of_grant": "finds the account of what is named by its id alone",
    "charging.ledger.whose_store.of_request": "finds the account of what is named by its id alone, within a time",
    "charging.ledger.whose_store.of_usage": "finds the account of what is named by its id alone",
    "charging.ledger.whose_store.of_transfer": "finds the account of what is named by its id alone",
    "subscriptions.orders.cycle_store.cycles": "the auditor reads everything",
    "subscriptions.orders.sold_store.sold": "the auditor reads everything",
    "trust.keys.store.ended_keys": "finds the accounts of keys",
    "trust.keys.store.find_keys": "finds the accounts of keys",
}
# Functions whose texts are put together at run time, and why none of them is a statement on a hot table that changes anything.
UNREAD = {
    "app.importing.foreign_store.read_sqlite": "reads a file of another system",
    "app.importing.foreign_store.read_postgresql": "reads the database of another system, in a read-only session",
    "app.database.roles._run": "rights, given by `init`",
    "app.database.roles.make_role": "the role, made by `init`",
    "app.database.schema._build": "indexes, built by a migration",
    "app.database.sealing._many": "tables of people (subscriber, member, phone_history, audit), which the function that calls it names",
    "charging.ledger.verify.__init__.check": "the auditor's statements, which read everything in a read-only transaction",
    "app.verify_worker._use_snapshot": "the snapshot and the settings of the auditor's transaction",
    "charging.ledger.verify.pieces._show_accounts": "the auditor's views over tables",
    "charging.ledger.verify.pieces._show_new_entries": "the auditor's temporary tables",
    "charging.ledger.verify.pieces._add_indexes": "the auditor's temporary tables",
    "charging.ledger.verify.pieces._copy_large_tables": "the auditor's temporary tables",
    "charging.ledger.verify.references.references": "the auditor, for each foreign key of the schema",
    "subscriptions.people.export_store._rows": "SELECT … WHERE account_id = or subscriber_id = of a table named by the catalogue",
    "subscriptions.hub.hub_store.deliveries": "hub_delivery",
    "subscriptions.people.people_store.add_subscriber": "subscriber",
    "subscriptions.people.people_store.set_subscriber": "subscriber",
    "subscriptions.orders.product_store.set_product": "product",
    "subscriptions.orders.work_store.add_work_order": "work_order",
    "charging.ledger.usage_store.usage_count": "SELECT … WHERE account_id = with conditions that the caller's filter adds",
    "charging.ledger.usage_store.usage_page": "SELECT … WHERE account_id = with conditions that the caller's filter adds",
}


@pytest.fixture
def database_url(owner_url):
    """As the owner: what is tried here no service may do."""
    return owner_url


@pytest.fixture
def columns(services):
    found = collections.defaultdict(set)
    for table, column in services.connection.execute(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
    ):
        found[table].add(column)
    return found


def test_every_sql_text_can_be_told_from_the_code():
    texts, unread = statements()
    assert len(texts) > 500
    assert {where for where, _ in unread} == set(UNREAD), unread


def test_hot_tables_are_those_whose_key_is_led_by_the_account(services):
    rows = services.connection.execute(
        """SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_attribute a ON a.attrelid = c.oid
               AND a.attnum = i.indkey[0] WHERE i.indisprimary AND a.attname = 'account_id' AND NOT c.relispartition"""
    )
    assert {row[0] for row in rows} == HOT


def test_a_statement_on_a_hot_table_names_one_account(columns):
    broken = collections.defaultdict(set)
    for one in statements()[0]:
        for why in report(one.numbered, columns).broken:
            broken[one.where].add(why)
    allowed = set(FLEET)
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
        (
            "UPDATE grants g SET used = 1 FROM unnest(%(a)s::uuid[]) d (account_id) WHERE shard_of(g.account_id) = %(s)s "
            "AND g.account_id = d.account_id",
            (),
        ),
        (
            "UPDATE grants g SET used = 1 FROM unnest(%(a)s::uuid[]) d (account_id) WHERE g.account_id = d.account_id",
            ("grants is bound to no account",),
        ),
        ("SELECT 1 FROM bucket WHERE shard_of(account_id) = ANY(%s)", ("bucket is bound to no account",)),
        (
            "SELECT 1 FROM bucket b JOIN grants g USING (account_id) WHERE shard_of(b.account_id) = %s OR paused",
            ("bucket is bound to no account", "grants is bound to no account"),
        ),
        ("SELECT 1 FROM (SELECT * FROM bucket WHERE account_id = %s OFFSET 0) b", ("OFFSET 0 as a fence",)),
    ],
)  # fmt: skip
def test_what_is_not_account_pure_is_found(columns, text, broken):
    assert tuple(sorted(report(Sql("", 0, text).numbered, columns).broken)) == broken


# Planned on hot tables that are spread by the hash of the account, and by nothing else.

SHARDS = 16
ACCOUNT = "0190f3a2-7c11-7000-8000-00000000a11c"
_SAMPLES = {
    "uuid": f"'{ACCOUNT}'",
    "uuid[]": f"ARRAY['{ACCOUNT}'::uuid]",
    "text": "'x'",
    "text[]": "ARRAY['x']",
    "bigint": "1",
    "bigint[]": "ARRAY[1::bigint]",
    "integer": "1",
    "integer[]": "ARRAY[1]",
    "smallint": "1",
    "numeric": "1",
    "double precision": "1",
    "boolean": "true",
    "bytea": "'x'",
    "bytea[]": "ARRAY['x'::bytea]",
    "jsonb": "'[]'",
    "json": "'[]'",
    "date": "'2027-01-01'",
    "interval": "'1 day'",
    "timestamp with time zone": "'2027-01-01T00:00Z'",
    "timestamp with time zone[]": "ARRAY['2027-01-01T00:00Z'::timestamptz]",
}


def _spread(connection, schema, how, values):
    """The hot tables again, in partitions of their own, with their indexes where those can be had."""
    connection.execute(f"CREATE SCHEMA {schema}")
    for table in sorted(HOT):
        connection.execute(
            f"CREATE TABLE {schema}.{table} (LIKE public.{table} INCLUDING DEFAULTS) PARTITION BY {how}"
        )
        for shard in range(SHARDS):
            connection.execute(
                f"CREATE TABLE {schema}.{table}_{shard} PARTITION OF {schema}.{table} FOR VALUES {values.format(shard)}"
            )
        indexes = connection.execute(
            "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = %s::regclass", (table,)
        ).fetchall()
        for (definition,) in indexes:
            text = definition.replace(" ON ONLY public.", f" ON {schema}.").replace(
                " ON public.", f" ON {schema}."
            )
            connection.execute(text if how == BY_ACCOUNT else text.replace("CREATE UNIQUE", "CREATE"))


BY_ACCOUNT = "HASH (account_id)"
BY_SHARD = "LIST (shard_of(account_id))"


@pytest.fixture
def spread(services):
    """A connection on which the hot tables are partitioned by hash of `account_id` alone."""
    connection = services.connection
    _spread(connection, "spread", BY_ACCOUNT, f"WITH (MODULUS {SHARDS}, REMAINDER {{}})")
    connection.execute("SET search_path = spread, public")
    connection.execute("SET plan_cache_mode = force_custom_plan")
    return connection


@pytest.fixture
def sharded(services):
    """A connection on which the hot tables are partitioned by the declared shard key alone."""
    connection = services.connection
    _spread(connection, "sharded", BY_SHARD, "IN ({})")
    connection.execute("SET search_path = sharded, public")
    connection.execute("SET plan_cache_mode = force_custom_plan")
    return connection


def _shards(node):
    """The numbers of the shards that a plan reads or changes rows of; rows that are put in are sent to theirs one by one."""
    found = set()
    if isinstance(node, dict):
        table, _, shard = str(node.get("Relation Name", "")).rpartition("_")
        if table in HOT and shard.isdigit():
            found.add(int(shard))
        for one in node.values():
            found |= _shards(one)
    elif isinstance(node, list):
        for one in node:
            found |= _shards(one)
    return found


def shards_of(connection, text):
    """Where a statement goes, each of its parameters being the same account, or one of another type."""
    connection.execute(f"PREPARE one AS {text}".encode())
    try:
        (types,) = connection.execute(
            "SELECT parameter_types::text[] FROM pg_prepared_statements WHERE name = 'one'"
        ).fetchone()
        values = ", ".join(_SAMPLES[type_] for type_ in types)
        (plan,) = connection.execute(
            f"EXPLAIN (FORMAT JSON) EXECUTE one{f'({values})' if values else ''}".encode()
        ).fetchone()
    finally:
        connection.execute("DEALLOCATE one")
    return _shards(plan)


def _beyond_one(connection, columns, *, by_shard):
    """({function: shards, or why it can't be planned}, how many were planned) of statements that name an account, or a shard."""
    wrong, planned = {}, 0
    for one in statements()[0]:
        hot = report(one.numbered, columns).hot
        if not hot or one.where in FLEET or one.text.startswith("COPY"):
            continue
        if ("shard_of(" in one.text) is not by_shard:
            continue
        planned += 1
        try:
            shards = shards_of(connection, one.numbered)
        except (psycopg.Error, KeyError) as error:
            wrong[one.where] = f"{error!r}: a parameter needs a type"
            continue
        if len(shards) > 1:
            wrong[one.where] = len(shards)
    return wrong, planned


def test_a_statement_goes_to_one_shard(spread, columns):
    wrong, planned = _beyond_one(spread, columns, by_shard=False)
    assert not wrong, "\n".join(f"{where}: {what}" for where, what in wrong.items())
    assert planned > 80


def test_a_statement_that_names_a_shard_goes_there(sharded, columns):
    wrong, planned = _beyond_one(sharded, columns, by_shard=True)
    assert not wrong, "\n".join(f"{where}: {what}" for where, what in wrong.items())
    assert planned == 11
    many = "UPDATE grants g SET used = 1 FROM unnest($1::uuid[]) d (account_id) WHERE g.account_id = d.account_id"
    assert len(shards_of(sharded, many)) == SHARDS


def test_the_shard_of_an_account_is_its_last_digit(services):
    accounts = [UUID(f"{ACCOUNT[:-1]}{digit:x}") for digit in range(16)]
    for digit, account in enumerate(accounts):
        assert services.connection.execute("SELECT shard_of(%s)", (account,)).fetchone() == (digit,)
    assert by_shard(accounts[::-1]) == [(digit, [account]) for digit, account in enumerate(accounts)]


def test_the_plans_tell_one_shard_from_many(spread):
    assert shards_of(spread, "SELECT 1 FROM bucket WHERE bucket_id = $1") == set(range(SHARDS))
    assert len(shards_of(spread, "SELECT 1 FROM bucket WHERE account_id = $1")) == 1
    # A sub-query that does not say of which account it is looks everywhere, or where each row says.
    assert (
        len(
            shards_of(
                spread,
                "SELECT (SELECT sum(used) FROM grants g WHERE g.bucket_id = b.bucket_id) FROM bucket b WHERE account_id = $1",
            )
        )
        > 1
    )
