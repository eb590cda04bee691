"""Pages about a database that is lost, or goes on from an earlier point, and about a journal that does."""

import contextlib
import os
import shutil
import signal
from datetime import UTC

import pytest

from tests.e2e.test_backup import archived, charged, found, lose
from tests.e2e.test_hosts import _connect, processes
from tests.runbook.book import Shell, scenario
from tests.support.server import Server, until
from tokenworks.app.database.connections import connect
from tokenworks.app.database.embedded import Embedded

ASKED = {"tokens": 5, "prompt": 11}


def serve(server, subscriber, key, count, model="stub"):
    """So many requests, each of them in the books."""
    before = charged(server, subscriber)[0]
    for _ in range(count):
        assert server.chat(key, ASKED, max_tokens=4000, model=model)[0] == 200
    until(lambda: charged(server, subscriber)[0] == before + count, what="the records")


@scenario("The embedded database")
def test_a_session_in_the_embedded_database(host, shell):
    subscribers = host.connection.execute("SELECT count(*) FROM subscriber").fetchone()[0]
    with shell.page("The embedded database") as page:
        said = page.run("database psql")
    assert host.url in said and f" {subscribers}\n" in said, said


@pytest.fixture
def kept(tmp_path, upstream):
    """A host whose log is kept in an archive."""
    kept = Server(tmp_path / "a", archive_to=tmp_path / "place", archive_timeout_s=1)
    try:
        kept.__enter__()
        kept.add_deployment("stub", "stub", upstream.url)
        yield kept
    finally:
        kept.stop()
        kept.stack.close()
        Embedded(kept.data_dir).destroy()


@pytest.fixture
def home(tmp_path):
    """An empty data directory on another machine."""
    home = Server(tmp_path / "b")
    home.data_dir.mkdir(mode=0o700)
    yield home
    home.stop()
    home.stack.close()
    Embedded(home.data_dir).destroy()


@scenario("Backup and restore")
@scenario("A journal that is older than the database")
def test_a_host_is_backed_up_lost_and_restored_and_a_journal_is_given_up(kept, home, tmp_path):
    place, away, erased = tmp_path / "place", tmp_path / "away", tmp_path / "erased"
    subscriber, key = kept.subscriber("ctc-premium")
    gone, _ = kept.subscriber(None)
    serve(kept, subscriber, key, 1)
    early = tmp_path / "early-journal"
    shutil.copytree(kept.data_dir / "journal", early)
    there = Shell(kept, tmp_path)
    with there.page("Backup and restore") as page:
        page.run("tokenworks backup", BACKUPS=place, SECRETS_COPY=away, ERASED=erased)
        assert list(away.rglob("person-lookup")) and erased.read_text() == ""
        said = page.run("backup list", BACKUPS=place)
        assert said.count("whole") == 1
        kept.services.privacy.erase(gone, even_if_owed=True)
        erased.write_text(kept.cli("vault", "erased").stdout)
        serve(kept, subscriber, key, 2)
        bought, _ = kept.subscriber("ctc-light")
        (at,) = kept.connection.execute("SELECT clock_timestamp()").fetchone()
        mistaken, _ = kept.subscriber("ctc-light")
        serve(kept, subscriber, key, 1)
        archived(kept, place)
        home.env = kept.env | {"TOKENWORKS_ARCHIVE_TO": ""}
        lose(kept)

        here = Shell(home, tmp_path)
        page.at(here)
        said = page.run("--secrets-from", BACKUPS=place, SECRETS_COPY=away, ERASED=erased)
        assert "every invariant holds" in said, said
        home.attach()
        assert (found(home, bought), found(home, mistaken), charged(home, subscriber)[0]) == (1, 1, 4)
        home.connection.close()
        home.stack.close()
        said = page.run("--at", BACKUPS=place, AT=at.astimezone(UTC).isoformat(), ERASED=erased)
        assert (
            "every invariant holds" in said
            and "1 usage records beyond what this database has settled" in said
        )
    home.attach()
    assert (found(home, bought), found(home, mistaken)) == (1, 0)
    assert home.services.vault.key(gone.subscriber_id) is None
    home.start()
    until(lambda: charged(home, subscriber)[0] == 4, what="the journal's record")
    assert home.findings() == []
    home.stop()

    journal = home.data_dir / "journal"
    shutil.rmtree(journal)
    shutil.copytree(early, journal)
    with pytest.raises(AssertionError, match="tokenworks journal reset"):
        home.start(ready_s=30)
    assert until(lambda: home.process.poll()) == 78
    home.stop()
    old = (journal / "id").read_text().strip()
    with here.page("A journal that is older than the database") as page:
        said = page.run("journal reset")
        assert "its newest segments are missing" in said and f"--confirm {old}" in said
        assert (journal / "id").read_text().strip() == old, "it did nothing"
        page.run("--confirm", JOURNAL=old)
    home.start()
    serve(home, subscriber, key, 1)
    assert (journal / "id").read_text().strip() != old
    assert home.findings() == []


@scenario("Standby promotion")
def test_a_standby_is_promoted(tmp_path, upstream):
    """Which had all that was committed."""
    primary = Embedded(tmp_path / "database", {"fsync": "off", "full_page_writes": "off"})
    with contextlib.ExitStack() as stack:
        stack.callback(primary.destroy)
        url = stack.enter_context(primary.use())
        standby, sockets = primary.home / "standby", primary.home / "run2"
        sockets.mkdir()
        primary._own(sockets)
        server = stack.enter_context(Server(tmp_path / "a", database_url=url))
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber("ctc-premium")
        server.stop()
        address = "postgresql:///tokenworks?host={}&user={}".format
        both = (
            address(f"{primary.socket_dir},{sockets}", "tokenworks_app") + "&target_session_attrs=read-write"
        )
        server.env["TOKENWORKS_DATABASE_URL"] = both
        server.start()
        serve(server, subscriber, key, 2)
        done = primary._run(
            "pg_basebackup", "-h", str(primary.socket_dir), "-U", "tokenworks", "-D", str(standby), "-R", "-c", "fast", "-X", "stream",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        started = ("pg_ctl", "-D", str(standby), "-w", "-l", str(primary.home / "standby.log"))
        done = primary._run(*started, "-o", f"-k {sockets} -c listen_addresses=''", "start")
        assert done.returncode == 0, done.stdout + done.stderr
        stack.callback(primary._run, "pg_ctl", "-D", str(standby), "-m", "immediate", "-w", "stop")
        with contextlib.closing(connect(url)) as connection:
            last = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()[0]
        standby_url = address(sockets, "tokenworks")
        replayed = lambda: _answers(standby_url, f"SELECT pg_last_wal_replay_lsn() >= '{last}'")
        until(replayed, what="the standby to have all of it")
        for pid in set(processes(primary.home)) - set(processes(standby)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert server.chat(key, ASKED, max_tokens=4000)[0] == 200, "within what was granted"
        shell = Shell(server, tmp_path)
        # Where PostgreSQL is no package of the machine's.
        shell.environ["PATH"] += f":{os.path.dirname(primary.program('psql'))}"
        with shell.page("Standby promotion") as page:
            said = page.run("pg_promote", STANDBY_URL=standby_url)
            assert " t\n" in said
            until(lambda: _connect(both) and server.ready(), 60, what="the host to be ready")
            with contextlib.closing(connect(both)) as connection:
                count = "SELECT count(*) FROM usage WHERE account_id = %s"
                until(
                    lambda: connection.execute(count, (subscriber.account_id,)).fetchone()[0] == 3,
                    what="each record",
                )
            said = page.run("ledger verify")
            assert "The ledger balances" in said
        server.stop()


def _answers(url, statement):
    with contextlib.closing(connect(url)) as connection:
        return connection.execute(statement).fetchone()[0]
