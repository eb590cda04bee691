"""A run of the auditor reads what is new since the last one, and a part of the old; and remembers where chains ended."""

import contextlib

import pytest

from tests.charging.ledger.test_accounts import settle
from tests.charging.ledger.test_chain import database_url, sold, some  # noqa: F401  # fixtures
from tests.support.rechain import rechain
from tokenworks.app.database.connections import connect
from tokenworks.app.verifier import ACROSS, audit_checks
from tokenworks.charging import chain_all
from tokenworks.charging.ledger.verify import chains, rolling
from tokenworks.kernel import Conflict


@pytest.fixture
def audited(sold, monkeypatch):  # noqa: F811
    """Two accounts with some history that a run has read; the next run reads the second account whole, the one after it the first."""
    monkeypatch.setattr(rolling, "PART_ACCOUNTS_MIN", 1)
    sold.usage = some(sold)
    connection = sold.connection
    chain_all(connection, connection.execute("SELECT now() + interval '2 hours'").fetchone()[0])
    assert run(sold)[0] == []
    connection.execute("SET session_replication_role = replica")
    return sold


def settled(sold, seq, records):  # noqa: F811
    """As hosts settle: with the triggers that the corruption leaves out."""
    sold.connection.execute("SET session_replication_role = origin")
    settle(sold.connection, sold.journal, seq, records)
    sold.connection.execute("SET session_replication_role = replica")


def checks_of(sold):  # noqa: F811
    """All but the one of keys: those of the records here are made up."""
    checks = audit_checks(sold.services.offerings.rate_cards(), timed=False)
    return [one for one in checks if not one[0].startswith("usage: it is of a key")]


def run(sold, **more):  # noqa: F811
    return rolling.run(sold.connection, checks_of(sold), ACROSS, findings_max=100, **more)


def test_what_is_new_is_read_of_every_account_and_the_old_in_turns(audited):
    found, read = run(audited)
    assert found == [] and read == rolling.Coverage(0, 1, 2, full=False)
    settled(audited, 8, [audited.record(0), audited.record(1)])
    found, read = run(audited)
    assert found == [] and read == rolling.Coverage(2, 1, 2, full=False)
    assert run(audited, full=True)[1] == rolling.Coverage(0, 2, 2, full=True)
    # A full run leaves whose turn it is.
    assert run(audited)[1] == rolling.Coverage(0, 1, 2, full=False)


def test_new_history_that_is_changed_is_named_whosever_turn_it_is(audited):
    record = audited.record(0)
    settled(audited, 7, [record])
    for statement in (
        "UPDATE usage SET model = 'cheaper' WHERE usage_id = %s",
        "DELETE FROM usage WHERE usage_id = %s",
        """UPDATE posting SET amount = 2 * amount WHERE entry_id = (SELECT entry_id FROM usage WHERE usage_id = %s)
           AND ledger_account = 'used'""",
    ):
        with audited.connection.transaction(force_rollback=True):
            audited.connection.execute(statement, (record[1].usage_id,))
            found, _ = rolling.run_in_transaction(
                audited.connection, checks_of(audited), ACROSS, findings_max=100
            )
            assert str(audited.accounts[0]) in " ".join(f.where for f in found), statement


def test_old_history_that_is_changed_is_named_in_its_turn(audited):
    audited.connection.execute(
        "UPDATE usage SET model = 'cheaper' WHERE usage_id = %s", (audited.usage[0],)
    )  # of the first account; the second has its turn
    assert run(audited)[0] == []
    found, _ = run(audited)
    assert str(audited.usage[0]) in " ".join(finding.where for finding in found)
    # What found something remembers nothing: it is found again.
    assert run(audited)[0] == found
    assert run(audited, full=True)[0] != []


def test_a_chain_that_is_made_anew_does_not_go_on_from_where_it_was_seen(audited):
    audited.connection.execute("UPDATE usage SET model = 'cheaper' WHERE usage_id = %s", (audited.usage[0],))
    rechain(audited.connection)
    found, _ = run(audited)
    assert {f.invariant for f in found} == {chains.REMEMBERED}
    assert f"chain {audited.accounts[0]}/{audited.journal}" in {f.where for f in found}


@pytest.mark.parametrize("what", ["chain_head", "chain_link"])
def test_a_chain_that_is_gone_or_shorter_is_named(audited, what):
    audited.connection.execute(
        f"DELETE FROM {what} WHERE account_id = %s AND chain_id = %s", (audited.accounts[0], audited.journal)
    )
    found, _ = run(audited)
    if what == "chain_head":
        assert chains.REMEMBERED in {f.invariant for f in found}
    else:
        # The head says where it ended; its links are read in the account's turn.
        assert str(audited.accounts[0]) in " ".join(f.where for f in [*found, *run(audited)[0]])


def test_few_accounts_are_read_whole_in_every_run(sold):  # noqa: F811
    some(sold)
    for _ in range(2):
        found, read = run(sold)
        assert found == [] and read.full and read.accounts == 2


def test_another_run_is_waited_for(sold, database_url):  # noqa: F811
    with contextlib.closing(connect(database_url)) as other, other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(%s)", (rolling._LOCK,))
        with pytest.raises(Conflict):
            run(sold)
    assert run(sold)[0] == []


def test_views_are_gone_after_a_run(audited):
    run(audited)
    rows = audited.connection.execute(
        "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()"
    ).fetchone()
    assert rows == (0,)
