"""Two hosts on one database, and a database that goes away: nothing overdrawn, nothing refused falsely, nothing lost."""

import asyncio
import contextlib
import json
import os
import signal
import time
from pathlib import Path

import psycopg
import pytest

from tests.e2e.test_concurrency import _all
from tests.e2e.test_worker_end import TOKENS_SHOWN, Stream, known
from tests.support.auditor import verify
from tests.support.server import Server, until, until_it_gets_on
from tokenworks.app.database.connections import connect
from tokenworks.app.database.embedded import Embedded
from tokenworks.catalog import Offerings
from tokenworks.kernel import Unavailable, format_quantity


@pytest.fixture
def two_hosts(tmp_path, upstream):
    """Two data directories, one database, one pepper."""
    home = tmp_path / "database"
    with Embedded(home).use() as url:
        secrets = tmp_path / "secrets"
        with Server(tmp_path / "a", database_url=url, secrets_dir=secrets) as a:
            a.add_deployment("stub", "stub", upstream.url)
            with Server(tmp_path / "b", database_url=url, secrets_dir=secrets) as b:
                yield a, b
            assert a.findings() == []
    Embedded(home).destroy()


def test_an_idle_grant_on_one_host_refuses_nothing_on_another(two_hosts):
    a, b = two_hosts
    subscriber, key = a.subscriber("sample-trial")
    assert a.chat(key, {"tokens": 5, "prompt": 11}, max_tokens=5000)[0] == 200
    (held,) = a.services.ledger.grants(subscriber.account_id)
    assert held["amount"] > 5_000_000, "host a has most of it"
    # Host b needs nearly all: it gets what host a does not use.
    status, body, _ = b.chat(key, {"tokens": 5, "prompt": 11}, max_tokens=9700)
    assert status == 200, body
    # And back again.
    status, body, _ = a.chat(key, {"tokens": 5, "prompt": 11}, max_tokens=9700)
    assert status == 200, body
    records = a.usage(subscriber, 3)
    assert a.buckets(subscriber)[0].left == 10_000_000 - 3 * 16_000
    assert {record["output"] for record in records} == {5}


def test_nothing_left_is_said_when_both_hosts_have_answered(two_hosts):
    a, b = two_hosts
    subscriber, key = a.subscriber("sample-trial")
    assert a.chat(key, {"tokens": 5, "prompt": 11}, max_tokens=5000)[0] == 200
    status, body, _ = b.chat(
        key, {"tokens": 5}, max_tokens=500, messages=[{"role": "user", "content": "x" * 40_000}]
    )
    assert (status, json.loads(body)["error"]["code"]) == (402, "nothing_left")
    a.usage(subscriber, 1)
    assert a.buckets(subscriber)[0].left == 10_000_000 - 16_000


def test_both_hosts_to_the_last_token(two_hosts):
    """A crowd on each: together they spend at most what there is; who is refused is refused in protocol."""
    a, b = two_hosts
    subscriber, key = a.subscriber("sample-trial")

    async def crowd():
        told = {"tokens": 60, "prompt": 11, "gap_ms": 1}
        return await asyncio.gather(_all(a, key, 120, told, 60), _all(b, key, 120, told, 60))

    served = 0
    for results in asyncio.run(crowd()):
        statuses = [status for status, _ in results]
        assert set(statuses) <= {200, 402, 503}, statuses
        served += statuses.count(200)
    records = a.usage(subscriber, served)
    assert len(records) == served
    assert sum(part[5] for record in records for part in record["parts"]) <= 10_000_000
    assert all(record["loss"] == [] for record in records)
    # What is left is there for whoever comes, on either host.
    left = until(lambda: a.buckets(subscriber)[0].left)
    if left > 500_000:
        # 503 where a busy machine could not say in time whose it is.
        until(lambda: b.chat(key, {"tokens": 5}, max_tokens=20)[0] == 200, what="what is left")
        assert a.chat(key, {"tokens": 5}, max_tokens=20)[0] == 200


def test_a_lost_host_is_written_off_and_its_return_is_late(tmp_path, upstream):
    """Host a dies with unsettled records; its grant is in doubt, then written off; then it comes back."""
    home = tmp_path / "database"
    with Embedded(home).use() as url:
        secrets = tmp_path / "secrets"
        with Server(tmp_path / "a", database_url=url, secrets_dir=secrets) as a:
            subscriber, key = a.subscriber("sample-trial")
            # After it: who knows of the deployment was told of the order, and has nothing to ask the database for.
            a.add_deployment("stub", "stub", upstream.url)
            assert a.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
            a.usage(subscriber, 1)
            with stopped(processes(home)):
                # These are in host a's journal, and nowhere else.
                for _ in range(3):
                    assert a.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
                a.kill()
            held = a.services.ledger.grants(subscriber.account_id)[0]
            grant_id = held["grant_id"]
            refused = a.cli("grant", "write-off", str(grant_id), check=False)
            assert refused.returncode == 1
            assert "may still spend it" in refused.stderr
            a.connection.execute("UPDATE grants SET spend_until = now() - interval '1 second'")
            free = f"Written off: {format_quantity(held['amount'] - held['used'], 'token')} are free again."
            assert free in a.cli("grant", "write-off", str(grant_id)).stdout
            assert a.buckets(subscriber)[0].left == 10_000_000 - 16_000
            a.start()
            records = a.usage(subscriber, 4)
            assert sorted(len(record["flags"]) for record in records) == [0, 1, 1, 1]
            assert a.buckets(subscriber)[0].left == 10_000_000 - 4 * 16_000
            assert a.findings() == []
    Embedded(home).destroy()


def test_late_records_wait_for_the_rate_cards_by_which_they_are_charged(tmp_path, upstream):
    """The recorder that comes back settles before it can read the rate cards: its late record is charged then, and not refused."""
    embedded = Embedded(tmp_path / "database")
    with embedded.use() as url, Server(tmp_path / "a", database_url=url) as a:
        subscriber, key = a.subscriber("sample-trial")
        a.add_deployment("stub", "stub", upstream.url)
        assert a.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
        a.usage(subscriber, 1)
        with stopped(processes(tmp_path / "database")):
            assert a.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
            a.kill()
        a.connection.execute("UPDATE grants SET spend_until = now() - interval '1 second'")
        (held,) = a.services.ledger.grants(subscriber.account_id)
        a.cli("grant", "write-off", str(held["grant_id"]))
        with contextlib.closing(connect(embedded.owner_url)) as owner:
            with owner.transaction():
                owner.execute("LOCK TABLE rate_card IN ACCESS EXCLUSIVE MODE")
                with pytest.raises(AssertionError, match="ready"):
                    a.start(ready_s=0)
                until(lambda: "settlement.failing" in a.log_text(), what="a settlement without rate cards")
        until(a.ready, what="the server to be ready")
        assert sorted(record["flags"] for record in a.usage(subscriber, 2)) == [[], ["late"]]
        assert a.buckets(subscriber)[0].left == 10_000_000 - 2 * 16_000
        assert a.findings() == []
    embedded.destroy()


def test_a_lost_host_comes_back_with_streams_that_were_open(tmp_path, upstream):
    """Its grants were written off meanwhile: what the streams had made is late, as every other record of it."""
    home = tmp_path / "database"
    with (
        Embedded(home).use() as url,
        Server(tmp_path / "a", database_url=url, progress_tokens=1) as server,
    ):
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber("sample-trial")
        streams = [Stream(server, key) for _ in range(2)]
        until(
            lambda: all(stream.shows == TOKENS_SHOWN for stream in streams),
            what="the streams to be under way",
        )
        until(lambda: known(server) == len(streams), what="all attempts to be known")
        server.kill()
        server.connection.execute("UPDATE grants SET spend_until = now() - interval '1 second'")
        for grant in server.services.ledger.grants(subscriber.account_id):
            server.cli("grant", "write-off", str(grant["grant_id"]))
        assert server.buckets(subscriber)[0].left == 10_000_000
        server.start()
        records = server.usage(subscriber, len(streams))
        assert [(r["state"], r["reason"], "late" in r["flags"]) for r in records] == [
            ("interrupted", "worker_lost", True)
        ] * 2
        spent = 1000 * sum(r["fresh_input"] + r["output"] for r in records)
        assert server.buckets(subscriber)[0].left == 10_000_000 - spent
        assert server.chat(key)[0] == 200
        assert server.findings() == []
        for stream in streams:
            stream.join(20)
    Embedded(home).destroy()


def processes(home):
    """The processes of an embedded database."""
    location = Path(home, "pg.location")
    place = location.read_text().strip() if location.exists() else str(home)
    found = []
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if (path / "comm").read_text().strip() == "postgres" and str(
                (path / "cwd").readlink()
            ).startswith(place):
                found.append(int(path.name))
    assert found, place
    return found


@contextlib.contextmanager
def stopped(pids):
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_requests_within_grants_go_on_without_the_database(tmp_path, upstream):
    home = tmp_path / "database"
    with Embedded(home).use() as url, Server(tmp_path / "a", workers=2, database_url=url) as server:
        subscriber, key = server.subscriber("ctc-premium")
        other, other_key = server.subscriber("ctc-premium")
        third, leaked_key = server.subscriber("ctc-premium")
        # After them: who knows of the deployment was told of the accounts' orders, and forgets no key by them any more.
        server.add_deployment("stub", "stub", upstream.url)
        until(lambda: server.metrics("deployments") == [1.0, 1.0], what="both workers to know the deployment")
        blocked = server.services.keys.of_account(third.account_id, {})
        warm = 0
        while (
            warm < 40 or min(server.metrics("complete")) < 15
        ):  # both workers know the keys and have a slice
            assert server.chat(key, {"tokens": 5, "prompt": 11}, max_tokens=4000)[0] == 200
            assert server.chat(leaked_key, {"tokens": 5, "prompt": 11}, max_tokens=4000)[0] == 200
            warm += 1
            assert warm < 2000
        server.usage(subscriber, warm)
        granted = sum(grant["amount"] for grant in server.services.ledger.grants(subscriber.account_id))
        with stopped(processes(home)):
            began = time.monotonic()
            served = 0
            while time.monotonic() - began < 8 or served < 200:
                status, body, _ = server.chat(key, {"tokens": 5, "prompt": 11})
                assert status == 200, body
                served += 1
            # Who has no grant is told to come again, soon, and not left hanging.
            status, body, headers = server.chat(other_key)
            assert (status, json.loads(body)["error"]["code"]) == (503, "database_away")
            assert int(headers["retry-after"]) >= 1
            assert not server.ready()
            assert server.metrics("recorder_database_ok") == [0.0]
            # A key that leaked now is refused without the database.
            (leaked,) = blocked
            server.cli("key", "block", str(leaked.key_id))
            until(lambda: server.chat(leaked_key, {"tokens": 5})[0] == 401, what="the key to be refused")
            assert server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
            served += 1
            assert server.metrics("recorder_unsettled_records") > [0.0]
        until(server.ready, what="the server to be ready again")
        records = server.usage(subscriber)
        until(lambda: server.services.connection.execute(
            "SELECT count(*) FROM usage WHERE account_id = %s", (subscriber.account_id,)
        ).fetchone()[0] == served + warm)  # fmt: skip
        assert len(records) <= 1000
        # Exposure stayed within what was granted, and everything is settled once.
        spent = 10**6 * 80_000 - server.buckets(subscriber)[0].left
        assert spent == 16_000 * (served + warm) <= granted
        assert server.chat(other_key, {"tokens": 5})[0] == 200
        assert server.chat(leaked_key, {"tokens": 5})[0] == 401
        server.cli("key", "block", str(leaked.key_id), "--undo")
        until(lambda: server.chat(leaked_key, {"tokens": 5})[0] == 200)
        assert server.findings() == []
    Embedded(home).destroy()


def test_the_database_is_killed_under_load(tmp_path, upstream):
    """kill -9 of PostgreSQL: it recovers from its log, and every record is there once."""
    home = tmp_path / "database"
    embedded = Embedded(home)
    with embedded.use() as url, Server(tmp_path / "a", database_url=url, embedded_fsync="true") as server:
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber("ctc-premium")
        served = 0
        for _ in range(3):
            for _ in range(30):
                status, body, _ = server.chat(key, {"tokens": 5, "prompt": 11}, max_tokens=4000)
                assert status == 200, body
                served += 1
            # A backend dies: PostgreSQL ends all the others and recovers by itself.
            with contextlib.closing(until(lambda: _connect(url), what="the database")) as connection:
                os.kill(connection.info.backend_pid, signal.SIGKILL)
        until(lambda: _count(url, subscriber) == served, what="every record")
        until(server.ready, what="the server to be ready again")
    Embedded(home).destroy()


def _connect(url):
    try:
        return connect(url)
    except Unavailable:
        return None


def _count(url, subscriber):
    connection = _connect(url)
    if connection is None:
        return None
    with contextlib.closing(connection), contextlib.suppress(psycopg.Error):
        return connection.execute(
            "SELECT count(*) FROM usage WHERE account_id = %s", (subscriber.account_id,)
        ).fetchone()[0]


@pytest.mark.parametrize("kept", [5, 0])
def test_a_restore_to_an_earlier_point_is_replayed_from_the_journal(tmp_path, upstream, kept):
    """The database comes back as it was before the last records, or before the host had any grant: the host notices, and
    settles them again, once.
    """
    home = tmp_path / "database"
    with Embedded(home).use() as url:
        with Server(tmp_path / "a", database_url=url) as server:
            server.add_deployment("stub", "stub", upstream.url)
            subscriber, key = server.subscriber("ctc-premium")
            for _ in range(kept):
                assert server.chat(key, {"tokens": 5, "prompt": 11}, max_tokens=4000)[0] == 200
            until(lambda: len(server.usage(subscriber)) == kept)
            admin = Embedded(home).owner_url.replace("/tokenworks?", "/postgres?")
            with contextlib.closing(connect(admin)) as superuser:

                def alone(statement):
                    """Run it while nobody is connected."""
                    superuser.execute("ALTER DATABASE tokenworks ALLOW_CONNECTIONS false")
                    superuser.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'tokenworks'"
                    )
                    until(lambda: not superuser.execute(
                        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'tokenworks'").fetchone()[0])  # fmt: skip
                    superuser.execute(statement)

                alone("CREATE DATABASE backup TEMPLATE tokenworks")
                superuser.execute("ALTER DATABASE tokenworks ALLOW_CONNECTIONS true")
                for _ in range(12 - kept):  # the first may find the database still away
                    until(lambda: server.chat(key, {"tokens": 5, "prompt": 11}, max_tokens=4000)[0] == 200)
                until(lambda: _count(url, subscriber) == 12, what="all records")
                alone("ALTER DATABASE tokenworks RENAME TO lost")
                superuser.execute("ALTER DATABASE backup RENAME TO tokenworks")
            assert _count(url, subscriber) == kept
            # The next records show the host that the database went back.
            until(lambda: server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200, what="service")
            until(lambda: _count(url, subscriber) == 13, what="every record once")
            until(server.ready, what="the server to be ready again")
            assert "LedgerWentBack" in server.log_text()
            with contextlib.closing(connect(url)) as connection:
                assert verify(connection, Offerings(connection).rate_cards()) == []
                spent = connection.execute(
                    "SELECT sum((p->>5)::bigint) FROM usage, jsonb_array_elements(parts) p"
                ).fetchone()[0]
            assert spent == 13 * 16_000
    Embedded(home).destroy()


def test_a_full_disk_takes_nothing_new_and_says_so(tmp_path, upstream):
    with Server(tmp_path) as server:
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber()
        assert server.chat(key)[0] == 200
        server.stop()
        server.env["TOKENWORKS_JOURNAL_RESERVE_BYTES"] = str(2**50)
        with pytest.raises(AssertionError, match="ready"):
            server.start(ready_s=5)
        status, body, headers = server.chat(key)
        assert (status, json.loads(body)["error"]["code"]) == (503, "journal_full")
        assert headers["retry-after"] == "5"
        assert b"disk is full" in server.get("/readyz")[1]
        server.stop()
        del server.env["TOKENWORKS_JOURNAL_RESERVE_BYTES"]
        server.start()
        assert server.chat(key)[0] == 200
        assert len(server.usage(subscriber, 2)) == 2


def test_too_many_records_that_wait_for_the_database_take_nothing_new(tmp_path, upstream):
    home = tmp_path / "database"
    # A busy machine may take minutes for a thousand requests: nothing but the records' number ends them.
    long = {"key_max_stale_s": 86_400, "grant_spend_s": 86_400}
    with (
        Embedded(home).use() as url,
        Server(tmp_path / "a", database_url=url, unsettled_records_max=1000, **long) as server,
    ):
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber("ctc-premium")
        assert server.chat(key, {"tokens": 1}, max_tokens=4000)[0] == 200
        server.usage(subscriber, 1)
        served = 1
        with stopped(processes(home)):
            while (status := server.chat(key, {"tokens": 1})[0]) == 200:
                served += 1
                assert served < 20_000
            assert status == 503
            assert served >= 1000
        settled = lambda: server.services.connection.execute(
            "SELECT count(*) FROM usage WHERE account_id = %s", (subscriber.account_id,)
        ).fetchone()[0]  # fmt: skip
        until_it_gets_on(lambda: server.chat(key, {"tokens": 1})[0] == 200, settled, what="service again")
        until_it_gets_on(lambda: settled() == served + 1, settled, what="all of them to be settled")
        assert server.findings() == []
    Embedded(home).destroy()
