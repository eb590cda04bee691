"""Hosts say which release they run; one of a release that does not say so is not taken for the one that it was."""

from uuid import uuid4

import pytest

from tokenworks.app.install import older_hosts
from tokenworks.charging import Release

OLD, NEW = Release("0.1.0", "0030"), Release("0.2.0", "0031")


@pytest.fixture
def host(services):
    journal_id = uuid4()
    services.ledger.register_journal(journal_id, "a")
    return journal_id


def only(services):
    (host,) = services.ledger.hosts()
    return host


def test_a_host_says_what_it_runs_and_since_when(services, host):
    assert services.ledger.hosts() == [], "it was not heard yet"
    services.ledger.report_release(host, OLD)
    services.ledger.hosts_alive(host)
    found = only(services)
    assert (found.host, found.release, found.alive) == ("a", OLD, True)
    # Its recorder is another one, the release the same.
    services.ledger.report_release(host, OLD)
    services.ledger.hosts_alive(host)
    assert only(services).since == found.since
    services.ledger.report_release(host, NEW)
    services.ledger.hosts_alive(host)
    assert only(services).release == NEW and only(services).since > found.since
    services.ledger.host_leaves(host)
    assert services.ledger.hosts() == []


def test_a_host_that_went_back_to_a_release_that_says_nothing_is_known_as_such(services, host):
    services.ledger.report_release(host, NEW)
    services.ledger.hosts_alive(host)
    # As releases before schema 0030 have it.
    services.connection.execute(
        "UPDATE journal SET seen_at = clock_timestamp() WHERE journal_id = %s", (host,)
    )
    found = only(services)
    assert found.alive and found.release is None and found.since is None
    assert older_hosts([found], "0030", "0029") == ["a"]
    assert older_hosts([found], "0026", "0029") == []


def test_a_plan_names_the_hosts_that_a_step_leaves_behind(services, host):
    services.ledger.report_release(host, OLD)
    services.ledger.hosts_alive(host)
    assert older_hosts(services.ledger.hosts(), "0031", "0031") == ["a"]
    assert older_hosts(services.ledger.hosts(), "0030", "0031") == []
    services.connection.execute(
        "UPDATE journal SET seen_at = t.at, release_seen_at = t.at FROM (SELECT clock_timestamp() - interval '1 day' AS at) t"
    )
    assert not only(services).alive and only(services).release == OLD
    assert older_hosts(services.ledger.hosts(), "0031", "0031") == [], "what does not run need not be stopped"
