"""The auditor against everything that a row can be corrupted to: whoever owns the tables and switches their triggers off.

What it need not name is declared with a reason (`tokenworks.app.coverage`); everything else it names, or the schema refuses it.
"""

import contextlib
import random
from collections import Counter
from datetime import UTC, datetime

import psycopg
import pytest

from tests.charging.mutations.mutate import corrupting, forged_entries, mutations_of, tried
from tests.charging.mutations.world import World, start_clock
from tests.conftest import TEMPLATE
from tokenworks.app.bootstrap import make_works
from tokenworks.app.coverage import COVERED, ROW_GONE, ROW_TWICE, UNCOVERED
from tokenworks.app.database import connect
from tokenworks.app.settings import load_settings
from tokenworks.app.verifier import audit, audit_checks
from tokenworks.charging.verify.entries import KINDS

SEED = 20261127
SAMPLE = 50
MUTATIONS_MIN = 400


@pytest.fixture(scope="module")
def works(cluster, session_dir):
    """A works in which everything has happened once, on a connection that may corrupt it."""
    admin = cluster.replace("/tokenworks?", "/postgres?")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS works_mutations WITH (FORCE)")
        connection.execute(f"CREATE DATABASE works_mutations TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
    with contextlib.closing(connect(cluster.replace("/tokenworks?", "/works_mutations?"))) as connection:
        settings = load_settings({"data_dir": str(session_dir / "seed")}).settings
        clock = start_clock(datetime.now(UTC))
        works = make_works(settings, connection, clock)
        World(works, clock)
        assert audit(connection, works.offerings.rate_cards()) == []
        corrupting(connection)
        yield works
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("DROP DATABASE works_mutations WITH (FORCE)")


@pytest.fixture(scope="module")
def every(works):
    """Every mutation of every covered table."""
    found = [m for table in COVERED for m in mutations_of(works.connection, table)]
    return found + forged_entries(works.connection)


def hole(mutation):
    """What of its table a mutation corrupts, as `COVERED` calls it."""
    return {"delete": ROW_GONE, "double": ROW_TWICE}.get(mutation.what, mutation.column)


def outcomes(works, mutations):
    checks, hits = audit_checks(works.offerings.rate_cards()), {}
    return [(m, tried(works.connection, m, checks, hits)) for m in mutations]


def undeclared(found):
    """What was neither refused nor named, and is not declared either."""
    return Counter(
        (m.table, m.what) for m, outcome in found if outcome == "unseen" and hole(m) not in COVERED[m.table]
    )


def test_the_world_has_every_kind_of_entry_and_a_row_of_every_covered_table(works):
    kinds = {row[0] for row in works.connection.execute("SELECT DISTINCT kind FROM entry")}
    assert kinds == set(KINDS)
    empty = [t for t in COVERED if works.connection.execute(f"SELECT 1 FROM {t} LIMIT 1").fetchone() is None]
    assert empty == []


def test_every_table_is_covered_or_declared_with_its_reason(works):
    tables = {
        row[0]
        for row in works.connection.execute(
            """SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
               AND NOT relispartition"""
        )
    }
    assert tables == set(COVERED) | set(UNCOVERED)
    assert not set(COVERED) & set(UNCOVERED)
    for table, holes in COVERED.items():
        columns = {
            row[0]
            for row in works.connection.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0", (table,)
            )
        }
        assert set(holes) <= columns | {ROW_GONE, ROW_TWICE}, table
        assert all(len(reason) > 10 for reason in holes.values())


def test_a_forged_entry_is_named(works):
    found = outcomes(works, forged_entries(works.connection))
    assert len(found) == 2 * len(KINDS) + 1
    assert [m.what for m, outcome in found if outcome != "named"] == []


def test_a_sample_of_corrupted_rows_is_named(works, every):
    assert len(every) >= MUTATIONS_MIN
    found = outcomes(works, random.Random(SEED).sample(every, SAMPLE))
    assert undeclared(found) == Counter()
    assert Counter(outcome for _, outcome in found)["named"] > SAMPLE // 2


@pytest.mark.nightly
def test_every_corrupted_row_is_named_but_for_what_is_declared(works, every):
    found = outcomes(works, every)
    assert undeclared(found) == Counter()
    print(Counter(outcome for _, outcome in found))


def test_a_table_that_nobody_declared_is_noticed(works):
    with works.connection.transaction(force_rollback=True):
        works.connection.execute("CREATE TABLE purse (coins bigint)")
        with pytest.raises(AssertionError):
            test_every_table_is_covered_or_declared_with_its_reason(works)
