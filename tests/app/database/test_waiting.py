"""Whoever waits for the database waits for so long, and says whom it waits for: tried with the other side stopped."""

import contextlib
import os
import re
import signal
import threading

import psycopg
import pytest

from tests.support.server import FAST, Server, in_process, until
from tokenworks.app.database.connections import connect, second_connection
from tokenworks.app.database.embedded import Embedded
from tokenworks.app.database.waiting import KEEPALIVES, BoundedConnection, watched
from tokenworks.kernel import Unavailable
from tokenworks.trust import ensure_pepper

OFFERINGS = "/tmf-api/productCatalogManagement/v4/productOffering"


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory):
    """(URL, the server's process) of a cluster that a test may stop."""
    embedded = Embedded(tmp_path_factory.mktemp("cluster"), {"fsync": "off"})
    with embedded.use():
        yield embedded.owner_url, embedded._server_pid()
    embedded.destroy()


@contextlib.contextmanager
def stopped(pid):
    """The server and all that it forked: no socket is closed, nobody is answered."""
    pids = [pid, *map(int, open(f"/proc/{pid}/task/{pid}/children").read().split())]
    for each in pids:
        os.kill(each, signal.SIGSTOP)
    try:
        yield
    finally:
        for each in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGCONT)


def test_a_command_gives_up_a_database_that_answers_nobody(own_cluster):
    url, pid = own_cluster
    with contextlib.closing(connect(url)) as connection, stopped(pid):
        with (
            pytest.raises(Unavailable, match=r"answered nobody for 1 s.*is not known"),
            watched(connection, url, pytest.fail, 1),
        ):
            connection.execute("SELECT 1")
        assert connection.closed


def test_a_statement_that_is_only_long_is_not_cut(own_cluster):
    url, _ = own_cluster
    said = []
    with contextlib.closing(connect(url)) as connection, watched(connection, url, said.append, 1):
        assert connection.execute("SELECT pg_sleep(2.5), 7").fetchone()[1] == 7
    assert said == []


def test_a_command_says_who_keeps_a_lock_and_gives_up(own_cluster):
    url, _ = own_cluster
    said = []
    with contextlib.closing(connect(url)) as other, contextlib.closing(connect(url)) as connection:
        with other.transaction():
            other.execute("SELECT pg_advisory_xact_lock(7)")
            with (
                pytest.raises(Unavailable, match="kept a lock for 2 s"),
                watched(connection, url, said.append, 2),
            ):
                connection.execute("SELECT pg_advisory_xact_lock(7)")
        (text,) = said
        pid = other.info.backend_pid
        assert re.search(
            rf"session {pid} \(tokenworks, idle in transaction, in a transaction for \d+ s\)", text
        )
        assert connection.execute("SELECT 1").fetchone() == (1,), "it can be used again"


def test_a_real_command_changes_nothing_when_it_gives_up(services, database_url, session_dir):
    environ = dict(os.environ) | FAST | {
        "TOKENWORKS_DATABASE_URL": database_url, "TOKENWORKS_DATA_DIR": str(session_dir / "seed"), "TOKENWORKS_COMMAND_WAIT_S": "1",
    }  # fmt: skip
    ensure_pepper(session_dir / "seed" / "secrets")
    subscriber = services.subscriptions.register("+8613612345678")
    freeze = ["account", "freeze", "--subscriber", str(subscriber.subscriber_id)]
    with contextlib.closing(connect(database_url)) as other, other.transaction():
        other.execute("SELECT account_id FROM account FOR UPDATE")
        done = in_process(freeze, environ)
        assert done.returncode == 1
        assert f"session {other.info.backend_pid}" in done.stderr and "kept a lock for 1 s" in done.stderr
        assert not other.execute("SELECT 1 FROM account WHERE state <> 'open'").fetchall()
    done = in_process(freeze, environ)
    assert done.returncode == 0, done.stderr


def test_an_answer_that_is_late_closes_a_bounded_connection(own_cluster):
    url, _ = own_cluster
    with contextlib.closing(BoundedConnection.connect(url, autocommit=True)) as connection:
        connection.answer_s = 0.2
        with pytest.raises(psycopg.OperationalError, match=r"not answered for 0\.2 s"):
            connection.execute("SELECT pg_sleep(60)")
        assert connection.closed


def test_every_connection_notices_a_peer_that_vanished(own_cluster):
    url, _ = own_cluster
    with contextlib.closing(connect(url)) as connection, second_connection(connection) as another:
        for each in (connection, another):
            given = each.info.get_parameters()
            assert {name: int(given[name]) for name in KEEPALIVES} == KEEPALIVES


def test_a_page_is_answered_while_the_database_hangs(tmp_path):
    with Server(tmp_path) as server:
        pid = Embedded(server.data_dir)._server_pid()
        assert server.request("GET", OFFERINGS, None)[0] == 206
        found = []
        with stopped(pid):
            threads = [
                threading.Thread(target=lambda: found.append(server.request("GET", OFFERINGS, None)[0]))
                for _ in range(12)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert set(found) == {503}
        until(lambda: server.request("GET", OFFERINGS, None)[0] == 206, what="the database's return")
