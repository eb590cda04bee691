"""A host is backed up while it serves, lost, and restored elsewhere: what the upstream made is what is charged, once."""

import contextlib
import json
import os
import shutil
import signal
import threading
from datetime import UTC
from pathlib import Path

import pytest

from tests.e2e.test_hosts import processes
from tests.support.server import Server, until
from tokenworks.app.database.embedded import Embedded

STREAM = {"tokens": 12, "prompt": 11, "gap_ms": 1}


class Streams:
    """Clients that stream one answer after the other, as long as the context lasts."""

    def __init__(self, server, key, clients=3):
        self.server, self.key = server, key
        self.answers, self.leave = [], threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(clients)]

    def run(self):
        while not self.leave.is_set():
            status, body, _ = self.server.chat(self.key, STREAM, stream=True, max_tokens=40)
            self.answers.append((status, body.endswith(b"data: [DONE]\n\n")))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        until(lambda: len(self.answers) >= 5, what="streams")
        return self

    def __exit__(self, *_):
        self.leave.set()
        for thread in self.threads:
            thread.join()


def lose(server):
    """kill -9 of every process of the host, the database's too."""
    os.kill(server.process.pid, signal.SIGSTOP)
    for pid in [pid for _, pid in server.processes()] + processes(server.data_dir):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.stop(signal.SIGKILL)
    server.connection.close()
    server.stack.close()


@contextlib.contextmanager
def restored(tmp_path, name, *args, env, check=True, **settings):
    """(server that is not started, what `restore` said) of an empty data directory."""
    server = Server(tmp_path / name, **settings)
    server.env |= env
    try:
        done = server.cli("restore", "--nobody-erased", "--json", *args, check=check)
        yield server, json.loads(done.stdout)
    finally:
        server.stop()
        server.stack.close()
        Embedded(server.data_dir).destroy()


def archived(server, place):
    """Wait until all that is committed now is in the archive."""
    (name,) = server.connection.execute("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").fetchone()
    return until(lambda: list(Path(place).glob(f"wal/*/{name}.zst")), 120, what=f"{name} in the archive")


def charged(server, subscriber):
    return server.connection.execute(
        "SELECT count(*), coalesce(sum((p->>5)::bigint), 0) FROM usage, jsonb_array_elements(parts) p WHERE account_id = %s",
        (subscriber.account_id,),
    ).fetchone()


def told_of(server, subscriber):
    """Output tokens by the upstream's id, as they are in the books."""
    return dict(
        server.connection.execute(
            "SELECT upstream_id, output FROM usage WHERE account_id = %s", (subscriber.account_id,)
        ).fetchall()
    )


@pytest.mark.nightly
def test_a_host_is_backed_up_under_streams_lost_and_restored_elsewhere(tmp_path, upstream):
    place, secrets = tmp_path / "place", tmp_path / "away"
    told = {"archive_to": place, "archive_timeout_s": 1}
    made_before = set(upstream.made())
    a = Server(tmp_path / "a", workers=2, **told)
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: Embedded(a.data_dir).destroy())
        a.__enter__()
        a.add_deployment("stub", "stub", upstream.url)
        subscriber, key = a.subscriber("ctc-premium")
        with Streams(a, key) as streams:
            made = json.loads(a.cli("backup", "--secrets-to", str(secrets), "--json", process=True).stdout)
            after = len(streams.answers)
            until(lambda: len(streams.answers) > after + 5, what="streams after the backup")
        assert set(streams.answers) == {(200, True)}
        # After the backup was made: known to the log and to the journal alone.
        late, _ = a.subscriber("ctc-light")
        served = len(streams.answers)
        until(lambda: charged(a, subscriber)[0] == served, timeout_s=120, what="every record")
        sums = charged(a, subscriber)
        archived(a, place)
        lose(a)
        shutil.move(a.data_dir, tmp_path / "lost")  # the disk
        assert made["kind"] == "database" and made["journal"]["last"] > 0
        with restored(
            tmp_path, "b", "--from", str(place), "--secrets-from", str(secrets), env=dict(a.env), workers=2
        ) as (b, said):
            assert said["ok"] and said["backup_id"] == made["backup_id"], said
            assert said["journal"] == "restored" and said["wal_files"] >= 1 and not said["findings"]
            assert said["last_transaction_at"] > made["ended_at"]
            b.attach()
            assert b.services.subscriptions.find(str(late.subscriber_id)).subscriber_id == late.subscriber_id
            b.start()
            until(lambda: charged(b, subscriber) == sums, timeout_s=120, what="the same sums")
            for _ in range(5):
                assert b.chat(key, STREAM, stream=True, max_tokens=40)[0] == 200
            until(lambda: charged(b, subscriber)[0] == served + 5, what="the new records")
            assert told_of(b, subscriber) == upstream.made(made_before)
            assert b.findings() == []
            # It archives beside what its original archived.
            b.cli("backup", process=True)
            assert len(list(place.glob("base/*"))) == 2
        shutil.rmtree(tmp_path / "lost")


class Past:
    """A host that is lost, and what is left of it: a backup, its log, its journal as it was early, and its secrets."""


@pytest.fixture(scope="module")
def past(tmp_path_factory, upstream):
    tmp_path = tmp_path_factory.mktemp("past")
    past = Past()
    past.place, before = tmp_path / "place", set(upstream.made())
    a = Server(tmp_path / "a", archive_to=past.place, archive_timeout_s=1)
    try:
        a.__enter__()
        a.add_deployment("stub", "stub", upstream.url)
        past.subscriber, past.key = a.subscriber("ctc-premium")
        past.erased, _ = a.subscriber(None)

        def serve(count):
            settled = charged(a, past.subscriber)[0] + count
            for _ in range(count):
                assert a.chat(past.key, {"tokens": 5, "prompt": 11}, max_tokens=4000)[0] == 200
            until(lambda: charged(a, past.subscriber)[0] == settled, what="the records")

        serve(2)
        past.early = tmp_path / "early-journal"
        shutil.copytree(a.data_dir / "journal", past.early)
        past.backup_id = json.loads(a.cli("backup", "--json").stdout)["backup_id"]
        serve(2)
        past.first, _ = a.subscriber("ctc-light")
        (past.at,) = a.connection.execute("SELECT clock_timestamp()").fetchone()
        past.second, _ = a.subscriber("ctc-light")
        a.services.privacy.erase(past.erased, even_if_owed=True)
        serve(3)
        archived(a, past.place)
        past.made = upstream.made(before)
        past.secrets = tmp_path / "secrets"
        shutil.copytree(a.data_dir / "secrets", past.secrets)
        past.env = a.env | {"TOKENWORKS_ARCHIVE_TO": ""}
        lose(a)
        past.journal = tmp_path / "whole-journal"
        shutil.copytree(a.data_dir / "journal", past.journal)
        yield past
    finally:
        a.stop()
        a.stack.close()
        Embedded(a.data_dir).destroy()


def new_home(tmp_path, past, name="b"):
    """An empty data directory with the secrets, and a server for it that is not started."""
    server = Server(tmp_path / name)
    server.env = dict(past.env)
    server.data_dir.mkdir()
    shutil.copytree(past.secrets, server.data_dir / "secrets")
    return server


@pytest.fixture
def home(tmp_path, past):
    server = new_home(tmp_path, past)
    yield server
    server.stop()
    server.stack.close()
    Embedded(server.data_dir).destroy()


def found(server, subscriber):
    return server.connection.execute(
        "SELECT count(*) FROM subscriber WHERE subscriber_id = %s", (subscriber.subscriber_id,)
    ).fetchone()[0]


def test_a_point_in_time_has_what_was_bought_before_and_not_after_and_the_journal_brings_the_rest(past, home):
    """The database is earlier than the journal: what was served after it is settled again, once."""
    erased = home.data_dir.parent / "erased"
    erased.write_text(f"{past.erased.subscriber_id}\n")
    at = past.at.astimezone(UTC).isoformat()
    done = home.cli("restore", "--from", str(past.place), "--at", at, "--erased", str(erased))
    assert "1 persons had come back and are erased again" in done.stdout
    assert "3 usage records beyond what this database has settled" in done.stdout
    assert "every invariant holds" in done.stdout
    home.attach()
    assert (found(home, past.first), found(home, past.second)) == (1, 0)
    assert home.services.vault.key(past.erased.subscriber_id) is None
    assert charged(home, past.subscriber)[0] == 4
    (trail,) = [row for row in json.loads(home.cli("audit", "--json").stdout) if row["action"] == "restore"]
    assert trail["ref"] == past.backup_id
    home.start()
    until(lambda: charged(home, past.subscriber)[0] == 7, what="the journal's records")
    assert told_of(home, past.subscriber) == past.made
    assert home.chat(past.key, {"tokens": 5, "prompt": 11}, max_tokens=4000)[0] == 200
    assert home.findings() == []
    # On the same host once more: its own journal has more than any copy, and stays.
    home.stop()
    home.connection.close()
    home.stack.close()
    where = ("--from", str(past.place), "--nobody-erased")
    refused = home.cli("restore", *where, check=False)
    assert refused.returncode == 1 and "--replace moves it aside" in refused.stderr
    done = home.cli("restore", *where, "--replace", "--without-log", "--json")
    said = json.loads(done.stdout)
    assert said["journal"] == "kept" and said["wal_files"] == 0
    assert (said["last_transaction_at"] or "") < said["backup_ended_at"], (
        "what was committed while it was made"
    )
    assert said["journal_records"] == 8 - 2, "all that came after the backup"
    assert all(Path(path).exists() for path in said["aside"]) and said["aside"]
    home.attach()
    assert (found(home, past.first), charged(home, past.subscriber)[0]) == (0, 2)
    home.start()
    until(lambda: charged(home, past.subscriber)[0] == 8, what="every record, once more")
    assert past.made.items() <= told_of(home, past.subscriber).items()
    assert home.findings() == []
    for path in map(Path, said["aside"]):
        # As root the cluster is elsewhere, and a file says where.
        shutil.rmtree(path.read_text().strip() if path.is_file() else path)


@pytest.mark.nightly
def test_a_journal_that_is_older_than_the_database_is_given_up_and_its_return_is_late(past, home):
    at = past.at.astimezone(UTC).isoformat()
    home.cli("restore", "--from", str(past.place), "--at", at, "--nobody-erased")
    journal = home.data_dir / "journal"
    shutil.rmtree(journal)
    shutil.copytree(past.early, journal)
    home.attach()
    with pytest.raises(AssertionError, match="tokenworks journal reset"):
        home.start(ready_s=20)
    assert until(lambda: home.process.poll()) == 78
    home.stop()
    old = (journal / "id").read_text().strip()
    shown = home.cli("journal", "reset", check=False)
    assert shown.returncode == 1 and f"--confirm {old}" in shown.stderr
    assert "before what the database has settled" in shown.stdout
    (reserved,) = json.loads(home.cli("journal", "reset", "--json", check=False).stdout)["reserved"]
    assert (
        reserved["quantity"] > 0
        and f"{reserved['quantity'] // 1000:,} {reserved['unit']}s in 1 grants" in shown.stdout
    )
    assert (journal / "id").read_text().strip() == old, "nothing was done"
    done = json.loads(home.cli("journal", "reset", "--confirm", old, "--json").stdout)
    assert done["written_off"] == 1 and Path(done["aside"], "id").read_text().strip() == old
    assert json.loads(home.cli("audit", "--json").stdout)[0]["action"] == "journal reset"
    left = home.buckets(past.subscriber)[0].left
    home.start()
    assert home.chat(past.key, {"tokens": 5, "prompt": 11}, max_tokens=4000)[0] == 200
    until(lambda: charged(home, past.subscriber)[0] == 5, what="the first record of the new journal")
    assert (journal / "id").read_text().strip() != old
    assert home.buckets(past.subscriber)[0].left == left - 16_000
    # A running server's journal is nobody's to give up, and neither is one that goes with the database.
    now = (journal / "id").read_text().strip()
    refused = home.cli("journal", "reset", "--confirm", now, check=False)
    assert refused.returncode == 1 and "a server runs" in refused.stderr
    home.stop()
    refused = home.cli("journal", "reset", "--confirm", now, check=False)
    assert refused.returncode == 1 and "goes with the database" in refused.stderr
    # The whole journal turns up: a server on it settles what is new there, as late, and nothing twice.
    home.env["TOKENWORKS_JOURNAL_DIR"] = str(past.journal)
    home.start()
    until(lambda: charged(home, past.subscriber)[0] == 8, what="the late records")
    flags = [record["flags"] for record in home.usage(past.subscriber)]
    assert sum("late" in flag for flag in flags) == 3, flags
    assert past.made.items() <= told_of(home, past.subscriber).items()
    assert home.buckets(past.subscriber)[0].left == left - 4 * 16_000
    assert home.findings() == []


@pytest.mark.nightly
def test_two_restores_of_one_backup_are_two_lives(tmp_path, past):
    """Both archive to the same place, neither into the other's log."""
    with contextlib.ExitStack() as stack:
        sources = []
        for name in ("b", "c"):
            home = new_home(tmp_path, past, name)
            stack.callback(lambda home=home: (home.stack.close(), Embedded(home.data_dir).destroy()))
            home.cli("restore", "--from", str(past.place), "--backup", past.backup_id, "--nobody-erased")
            home.env["TOKENWORKS_ARCHIVE_TO"] = str(tmp_path / "place")
            sources.append(json.loads(home.cli("backup", "--json").stdout)["source"])
            home.attach()
            assert charged(home, past.subscriber)[0] == 7
        assert len(set(sources)) == 2
        assert {path.name for path in (tmp_path / "place/base").iterdir()} == set(sources)
