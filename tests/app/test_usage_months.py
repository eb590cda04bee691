"""Usage by month in one level: what an installation of before becomes, while hosts of both releases write."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest

from tests.app.database.test_schema import fill_usage
from tests.app.test_migrations import empty_url, migrate_to  # noqa: F401  # a fixture
from tests.charging.ledger.test_day_store import unequal_days
from tests.charging.test_flat_reads import SEED
from tokenworks.app.database import schema
from tokenworks.app.database.connections import connect
from tokenworks.charging.ledger import settle_store
from tokenworks.kernel import uuid7

TREE = """SELECT relid::regclass::text, parentrelid::regclass::text, level FROM pg_partition_tree('usage') ORDER BY 1"""
INDEXES = """SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE indrelid = %s::regclass AND indisvalid ORDER BY 1"""


@pytest.fixture
def reader(empty_url):  # noqa: F811
    """A role of somebody else, who may read usage."""
    name = f"reader_{uuid7().hex}"
    with contextlib.closing(connect(empty_url)) as owner:
        owner.execute(f"CREATE ROLE {name}")
        yield name
        owner.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def month_after(months):
    at = datetime.now(UTC).replace(day=1)
    for _ in range(months):
        at = (at + timedelta(days=32)).replace(day=1)
    return at


def insert(connection, at, salt, count=20):
    span = {"begin": at, "end": at + timedelta(hours=1)}
    connection.execute(SEED, {"count": count, "account": None, "accounts": 10, "salt": salt, **span})


def test_a_new_installation_has_one_level(services):
    connection = services.connection
    tree = connection.execute(TREE).fetchall()
    assert {(parent, level) for _, parent, level in tree} == {(None, 0), ("usage", 1)}
    key = connection.execute(
        """SELECT pg_get_partkeydef('usage'::regclass), pg_get_constraintdef(oid) FROM pg_constraint
           WHERE conrelid = 'usage'::regclass AND contype = 'p'"""
    ).fetchone()
    assert key == ("RANGE (usage_id)", "PRIMARY KEY (account_id, usage_id)")


def test_months_of_before_are_one_partition_beside_writers_of_both_releases(empty_url, reader):  # noqa: F811
    migrate_to(empty_url, "0029")
    fill_usage(empty_url, "0029")
    with contextlib.closing(connect(empty_url)) as old, contextlib.closing(connect(empty_url)) as owner:
        owner.execute(f"GRANT SELECT ON usage TO {reader}")
        # As a recorder of the release before has it: a statement that is planned already, for good.
        old.execute("SET plan_cache_mode = force_generic_plan")
        old.execute(
            "PREPARE own AS SELECT count(*) FROM usage WHERE account_id = md5('3')::uuid AND usage_id > $1"
        )
        own = "EXECUTE own('00000000-0000-0000-0000-000000000000')"
        assert old.execute(own).fetchone() == (30,)
        # Later releases add columns, which are empty in these rows.
        rows = "SELECT sum(hashtextextended(jsonb_strip_nulls(to_jsonb(usage))::text, 0)) FROM usage"
        before = old.execute(rows).fetchone()

        assert schema.migrate(empty_url) == schema.SCHEMA

        assert old.execute(rows).fetchone() == before
        tree = {name: (parent, level) for name, parent, level in owner.execute(TREE)}
        assert tree["usage_two_levels"] == ("usage", 1)
        assert {name for name, (parent, _) in tree.items() if parent == "usage_two_levels"} == {
            f"usage_h{h}" for h in range(4)
        }
        assert owner.execute(
            "SELECT count(*) FROM pg_constraint WHERE conname = 'usage_ends_before'"
        ).fetchone() == (0,)
        names = ["usage_flagged", "usage_member", "usage_pkey", "usage_response"]
        assert [row[0] for row in owner.execute(INDEXES, ("usage",))] == names
        # Whoever could read it still may, by the table's name alone.
        rights = "SELECT has_table_privilege(%s, 'usage', 'SELECT'), has_table_privilege(%s, 'usage_two_levels', 'SELECT')"
        assert owner.execute(rights, (reader, reader)).fetchone() == (True, False)

        # What is of a month that is there goes where it was, and so does one of long ago; months to come are of one level.
        late, long_ago, to_come = month_after(0), datetime(2021, 3, 1, tzinfo=UTC), month_after(7)
        settle_store.ensure_usage_months(old, {late, long_ago, to_come})
        for at, parents in ((late, r"usage_h\d"), (long_ago, r"usage_h\d"), (to_come, "usage")):
            insert(old, at, f"{at:%Y%m}")
            placed = owner.execute(
                """SELECT DISTINCT parentrelid::regclass::text ~ ('^' || %s || '$') FROM usage u
                   JOIN pg_partition_tree('usage') t ON t.relid = u.tableoid WHERE started_at >= %s AND started_at < %s""",
                (parents, at, at + timedelta(hours=2)),
            ).fetchall()
            assert placed == [(True,)], at
        assert old.execute(own).fetchone() == (36,)
        name = f"usage_{to_come:%Y%m}"
        found = owner.execute(
            "SELECT count(*) FROM pg_index WHERE indrelid = %s::regclass AND indisvalid", (name,)
        )
        assert found.fetchone() == (len(names),)
        # Every record is counted in its day, and history is history on every level.
        assert unequal_days(owner) == []
        for part in [*owner.execute("SELECT relid::regclass::text FROM pg_partition_tree('usage')")]:
            with pytest.raises(Exception, match="is history"):
                owner.execute(f"TRUNCATE {part[0]} CASCADE")
        for part in ("usage", "usage_two_levels", "usage_h0", name):
            with pytest.raises(Exception, match="is history"):
                owner.execute(f"DELETE FROM {part}")
        # `init` again has nothing to do.
        assert schema.plan_steps(owner) == []
        assert schema.migrate(empty_url) == schema.SCHEMA


def test_a_month_is_made_beside_readers_and_settlement(services, owner):
    """Each holds its lock to its end."""
    month = month_after(9)
    with owner.transaction():
        owner.execute("SELECT count(*) FROM usage")
        insert(owner, services.clock.now(), "held")
        services.connection.execute("SET lock_timeout = '100ms'")
        settle_store.ensure_usage_months(services.connection, {month})
    assert services.connection.execute("SELECT to_regclass(%s)", (f"usage_{month:%Y%m}",)).fetchone() != (
        None,
    )
