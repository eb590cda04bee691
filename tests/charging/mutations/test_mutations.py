"""The auditor against everything that a row can be corrupted to: whoever owns the tables and switches their triggers off.

What it need not name is declared with a reason (`tokenworks.app.coverage`); everything else it names, or the schema refuses it.
"""

import contextlib
import os
import random
from collections import Counter
from datetime import UTC, datetime

import psycopg
import pytest

from tests.charging.mutations.mutate import corrupting, forged_entries, mutations_of, tried
from tests.charging.mutations.world import World, start_clock
from tests.conftest import TEMPLATE
from tests.support.databases import new_database
from tests.support.rechain import rechain
from tokenworks.app.bootstrap import make_works
from tokenworks.app.coverage import COVERED, ROW_GONE, ROW_TWICE, UNCOVERED
from tokenworks.app.database.connections import connect
from tokenworks.app.settings import load_settings
from tokenworks.app.verifier import ACROSS, audit, audit_checks, audit_on
from tokenworks.charging.ledger.verify import rolling
from tokenworks.charging.ledger.verify.entries import KINDS

SEED = 20261127
SAMPLE = 50
CHAINED_SAMPLE = 8
MUTATIONS_MIN = 400


@pytest.fixture(scope="module")
def services(cluster, session_dir):
    """A works in which everything has happened once, on a connection that may corrupt it."""
    name = f"works_mutations_{os.getpid()}"
    with (
        new_database(cluster, name, f"TEMPLATE {TEMPLATE} STRATEGY FILE_COPY") as url,
        contextlib.closing(connect(url)) as connection,
    ):
        settings = load_settings({"data_dir": str(session_dir / "seed")}).settings
        clock = start_clock(datetime.now(UTC))
        services = make_works(settings, connection, clock)
        World(services, clock)
        assert audit(connection, services.offerings.rate_cards()) == []
        corrupting(connection)
        yield services


@pytest.fixture(scope="module")
def every(services):
    """Every mutation of every covered table."""
    found = [m for table in COVERED for m in mutations_of(services.connection, table)]
    return found + forged_entries(services.connection)


def hole(mutation):
    """What of its table a mutation corrupts, as `COVERED` calls it."""
    return {"delete": ROW_GONE, "double": ROW_TWICE}.get(mutation.what, mutation.column)


# What chains cover: as it is, none of it changes unseen.
CHAINED = {"entry", "posting", "usage"}
CHAINS = {"chain_head", "chain_link"}
# An entry that names heads has no other cause than the chain, and is made anew with it.
FORGED_HEADS = {"heads of its cause", "heads of no cause"}


def made_with_the_chain(mutation):
    return mutation.table == "entry" and (mutation.kind == "heads" or hole(mutation) in FORGED_HEADS)


def outcomes(services, mutations):
    """[(mutation, its outcome as it is, its outcome where the chain was made anew after it)].

    A chain that was made anew fits (`test_a_chain_that_is_made_anew_fits…`), so that what is named then is named by its cause.
    """
    causes, chains = [], []
    for one in audit_checks(services.offerings.rate_cards()):
        (chains if one[0].startswith("chain: ") else causes).append(one)
    found, hits, chain_hits = [], {}, {}
    for m in mutations:
        anew = "unseen" if m.table in CHAINS else tried(services.connection, m, causes, hits)
        # Refused, or named by its cause: as it is, it is that, too.
        asked = m.table in CHAINS | CHAINED and anew == "unseen"
        found.append((m, tried(services.connection, m, chains, chain_hits) if asked else anew, anew))
    return found


def undeclared(found):
    """What was neither refused nor named, and is not declared either: as it is, and where the chain was made anew."""
    return Counter(
        (m.table, m.what)
        for m, as_it_is, anew in found
        if (as_it_is == "unseen" if m.table in CHAINS | CHAINED else False)
        or (
            anew == "unseen"
            and m.table not in CHAINS
            and hole(m) not in COVERED[m.table]
            and not made_with_the_chain(m)
        )
    )


def test_the_world_has_every_kind_of_entry_and_a_row_of_every_covered_table(services):
    kinds = {row[0] for row in services.connection.execute("SELECT DISTINCT kind FROM entry")}
    assert kinds == set(KINDS)
    empty = [
        t for t in COVERED if services.connection.execute(f"SELECT 1 FROM {t} LIMIT 1").fetchone() is None
    ]
    assert empty == []


def test_every_table_is_covered_or_declared_with_its_reason(services):
    tables = {
        row[0]
        for row in services.connection.execute(
            """SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
               AND NOT relispartition"""
        )
    }
    assert tables == set(COVERED) | set(UNCOVERED)
    assert not set(COVERED) & set(UNCOVERED)
    for table, holes in COVERED.items():
        columns = {
            row[0]
            for row in services.connection.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0", (table,)
            )
        }
        assert set(holes) <= columns | {ROW_GONE, ROW_TWICE}, table
        assert all(len(reason) > 10 for reason in holes.values())


def test_a_forged_entry_is_named(services):
    found = outcomes(services, forged_entries(services.connection))
    assert len(found) == 2 * len(KINDS) + 1
    assert undeclared(found) == Counter()
    assert {hole(m) for m, _, anew in found if anew != "named"} <= FORGED_HEADS
    assert [m.what for m, as_it_is, _ in found if as_it_is != "named"] == []


def test_a_sample_of_corrupted_rows_is_named(services, every):
    assert len(every) >= MUTATIONS_MIN
    found = outcomes(services, random.Random(SEED).sample(every, SAMPLE))
    assert undeclared(found) == Counter()
    assert Counter(as_it_is for _, as_it_is, _ in found)["named"] > SAMPLE // 2


def test_a_chain_that_is_made_anew_fits_what_was_corrupted(services, every):
    """So the chain is no evidence against whoever can do that: a cause is, or a head that was given out."""
    connection = services.connection
    checks = [one for one in audit_checks(services.offerings.rate_cards()) if one[0].startswith("chain: ")]
    mutations = [m for m in every if m.table in CHAINED and m.what not in {"double", "delete"}]
    for mutation in random.Random(SEED).sample(mutations, CHAINED_SAMPLE):
        with connection.transaction(force_rollback=True):
            try:
                with connection.transaction():
                    connection.execute(mutation.statement, mutation.params)
            except (psycopg.IntegrityError, psycopg.DataError):
                continue
            rechain(connection)
            assert [finding for _, check in checks for finding in check(connection)] == [], mutation.what


@pytest.mark.nightly
def test_every_corrupted_row_is_named_but_for_what_is_declared(services, every):
    found = outcomes(services, every)
    assert undeclared(found) == Counter()
    print(Counter((m.table in CHAINED, as_it_is, anew) for m, as_it_is, anew in found))


def test_a_table_that_nobody_declared_is_noticed(services):
    with services.connection.transaction(force_rollback=True):
        services.connection.execute("CREATE TABLE purse (coins bigint)")
        with pytest.raises(AssertionError):
            test_every_table_is_covered_or_declared_with_its_reason(services)


def forgotten(connection):
    connection.execute("TRUNCATE verify_head, verify_run")


def runs(services, monkeypatch, count=None):
    """What runs over one account each find, until all had their turn."""
    monkeypatch.setattr(rolling, "PART_ACCOUNTS_MIN", 1)
    monkeypatch.setattr(rolling, "PARTS", 1000)
    cards, found = services.offerings.rate_cards(), []
    for _ in range(count or services.connection.execute("SELECT count(*) FROM account").fetchone()[0]):
        findings, read = audit_on(services.connection, cards)
        assert not read.full and read.accounts <= 1
        found += findings
    return found


def test_runs_over_a_part_of_the_accounts_find_nothing_in_what_is_right(services, monkeypatch):
    forgotten(services.connection)
    assert {finding.invariant for finding in runs(services, monkeypatch)} == set()
    assert {name for name, _ in audit_checks({})} >= ACROSS | set(rolling.OF_AN_ENTRY)


def test_runs_over_parts_name_what_a_full_run_names(services, every, monkeypatch):
    connection, cards = services.connection, services.offerings.rate_cards()
    causes = [one for one in audit_checks(cards) if one[0] not in ACROSS and not one[0].startswith("chain: ")]
    monkeypatch.setattr(rolling, "PART_ACCOUNTS_MIN", 1)
    monkeypatch.setattr(rolling, "PARTS", 2)
    compared = 0
    for mutation in random.Random(SEED).sample(
        [m for m in every if m.table not in CHAINS], 4 * CHAINED_SAMPLE
    ):
        if compared == CHAINED_SAMPLE or tried(connection, mutation, causes, {}) != "named":
            continue
        compared += 1
        with connection.transaction(force_rollback=True):
            forgotten(connection)
            connection.execute(mutation.statement, mutation.params)
            cut = connection.execute("SELECT count(*) / 2 FROM account").fetchone()[0]
            (middle,) = connection.execute(
                "SELECT account_id FROM account ORDER BY account_id OFFSET %s LIMIT 1", (cut,)
            ).fetchone()
            found = []
            for upto in (None, middle):
                connection.execute("INSERT INTO verify_run (upto, whole) VALUES (%s, false)", (upto,))
                found += rolling.run_in_transaction(
                    connection, audit_checks(cards), ACROSS, findings_max=1000
                )[0]
        assert any(value in finding.where for finding in found for value in mutation.values), mutation
    assert compared == CHAINED_SAMPLE
