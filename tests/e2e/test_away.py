"""A host that was away for longer than news are kept begins anew, and serves what there is now."""

import contextlib

import pytest

from tests.support.server import Server, until
from tokenworks.app.database.connections import connect


@pytest.fixture
def server(tmp_path, upstream):
    with Server(tmp_path) as made:
        made.add_deployment("stub", "stub", upstream.url)
        yield made


def recorder(server):
    return until(
        lambda: [pid for name, pid in server.processes() if name == "recorder"], what="the recorder"
    )[0]


def test_a_host_whose_news_are_gone_begins_anew_and_knows_what_changed(server):
    subscriber, key = server.subscriber()
    assert server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
    server.usage(subscriber, 1)
    before = recorder(server)
    # As if it had not looked for a week: what it was told meanwhile (that this account is frozen) is deleted.
    with (
        contextlib.closing(connect(server.services.connection.info.dsn)) as connection,
        connection.transaction(),
    ):
        server_freezes(connection, subscriber.account_id)
        connection.execute("DELETE FROM change WHERE kind = 'freeze'")
        connection.execute("UPDATE change_gone SET txid = pg_current_xact_id()")
    until(lambda: recorder(server) != before, what="another recorder")
    assert "ChangesMissed" in server.log_text()
    until(server.ready, what="service")
    until(lambda: server.chat(key, {"tokens": 5, "prompt": 11})[0] != 200, what="the freeze")
    server.services.ledger.set_frozen(subscriber.account_id, frozen=False)
    until(lambda: server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200, what="the end of the freeze")
    assert server.findings() == []


def server_freezes(connection, account_id):
    from tokenworks.charging import Ledger
    from tokenworks.kernel import SystemClock

    Ledger(connection, SystemClock()).set_frozen(account_id, frozen=True)
