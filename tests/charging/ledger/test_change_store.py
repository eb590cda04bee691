"""News to hosts: kept for a time, read by each host from where it is; who was away for longer begins anew."""

from datetime import timedelta

import pytest

from tokenworks.charging.errors import ChangesMissed

WEEK = timedelta(days=7)


def old(services, hours):
    services.connection.execute("UPDATE change SET changed_at = now() - make_interval(hours => %s)", (hours,))


def refs(found):
    return [ref for _, _, ref in found]


def test_a_host_reads_what_was_said_since_it_looked_and_none_of_what_was_before(services):
    first, second = services.ledger.open_account(), services.ledger.open_account()
    services.ledger.notify_hosts(first)
    horizon, found = services.ledger.changes(None)
    assert found == []
    services.ledger.notify_hosts(second)
    after, found = services.ledger.changes(horizon)
    assert refs(found) == [second.hex]
    assert services.ledger.changes(after)[1] == []


def test_what_is_old_is_deleted_and_no_host_that_looks_misses_it(services):
    account_id = services.ledger.open_account()
    services.ledger.notify_hosts(account_id)
    horizon, _ = services.ledger.changes(None)
    old(services, 7 * 24 + 1)
    services.ledger.notify_hosts(account_id)
    assert services.ledger.forget_changes(WEEK) >= 1
    assert services.ledger.forget_changes(WEEK) == 0
    assert refs(services.ledger.changes(horizon)[1]) == [account_id.hex]


def test_a_host_that_was_away_for_longer_is_told_and_begins_anew(services):
    account_id = services.ledger.open_account()
    horizon, _ = services.ledger.changes(None)
    services.ledger.notify_hosts(account_id)
    old(services, 7 * 24 + 1)
    assert refs(services.ledger.changes(horizon)[1]) == [account_id.hex], "nothing is deleted yet"
    assert services.ledger.forget_changes(WEEK) >= 1
    with pytest.raises(ChangesMissed):
        services.ledger.changes(horizon)
    anew, found = services.ledger.changes(None)
    assert found == []
    services.ledger.notify_hosts(account_id)
    assert refs(services.ledger.changes(anew)[1]) == [account_id.hex]


def test_what_was_said_in_a_transaction_that_is_open_is_not_deleted(services, database_url):
    import contextlib

    from tokenworks.app.database.connections import connect

    account_id = services.ledger.open_account()
    services.ledger.forget_changes(timedelta())
    with contextlib.closing(connect(database_url)) as other:
        with other.transaction():
            other.execute("SELECT pg_current_xact_id()")
            horizon, _ = services.ledger.changes(None)
            services.ledger.notify_hosts(account_id)
            old(services, 1000)
            assert services.ledger.forget_changes(WEEK) == 0, "somebody who began before may still read it"
        assert services.ledger.forget_changes(WEEK) == 1
    with pytest.raises(ChangesMissed):
        services.ledger.changes(horizon)
