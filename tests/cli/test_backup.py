"""The commands of backup and restore: cut off, damaged, refused; and the database's address."""

import json
import os
import shutil
import signal
import subprocess
import sys

import psycopg
import pytest

from tests.support.s3 import ACCESS_KEY, REGION, S3, SECRET_KEY
from tests.support.server import ROOT, Server, until
from tokenworks.app.database.embedded import Embedded
from tokenworks.app.database.restore import has_database


class Cutting(S3):
    """Kills the process that sends an object of this name, before it is kept (`after`: when it is)."""

    def __init__(self):
        super().__init__()
        self.process, self.name, self.after = None, "", False

    def do(self, handler, key, query, body):
        cut = self.process is not None and handler.command == "PUT" and key.endswith(self.name)
        if cut and not self.after:
            self.process.kill()
        else:
            super().do(handler, key, query, body)
            if cut:
                self.process.kill()


@pytest.fixture
def bucket():
    with Cutting() as stand_in:
        yield stand_in


@pytest.fixture
def host(tmp_path, bucket):
    """A data directory that nobody serves, with S3 for its backups."""
    server = Server(
        tmp_path / "a", s3_endpoint=bucket.endpoint, s3_region=REGION, s3_path_style="true",
        archive_to="s3://works/of/a", archive_timeout_s=60,
    )  # fmt: skip
    server.make()
    file = server.data_dir / "secrets" / "s3-credentials"
    file.write_text(f"access_key_id = {ACCESS_KEY}\nsecret_access_key = {SECRET_KEY}\n")
    file.chmod(0o600)
    yield server
    server.stack.close()
    Embedded(server.data_dir).destroy()


def empty(host, tmp_path, name="b"):
    """An empty data directory with the secrets, for a restore."""
    server = Server(tmp_path / name)
    server.env = dict(host.env)
    server.data_dir.mkdir()
    shutil.copytree(host.data_dir / "secrets", server.data_dir / "secrets")
    return server


def listed(host, *args):
    return json.loads(host.cli("backup", "list", "--json", *args).stdout)


@pytest.mark.nightly
def test_a_backup_that_is_cut_off_is_none_and_the_next_one_clears_it(host, bucket, tmp_path):
    """Killed at its beginning, in its pieces, and right before its manifest; in S3, signatures checked."""
    argv = [sys.executable, "-m", "tokenworks", "--data-dir", str(host.data_dir), "backup"]
    for name, after in (("/begun.json", True), ("/base.000002.zst", False), ("/manifest.json", False)):
        bucket.name, bucket.after = name, after
        bucket.process = subprocess.Popen(argv, env=host.environ(), cwd=ROOT, stderr=subprocess.PIPE)
        _, said = bucket.process.communicate(timeout=120)
        assert bucket.process.returncode == -signal.SIGKILL, said
        bucket.process = None
        found = listed(host)
        assert [one["state"] for one in found] == ["unfinished"], "the one before it is gone"
    refused = empty(host, tmp_path).cli("restore", "--nobody-erased", check=False)
    assert refused.returncode == 1 and "no whole backup" in refused.stderr
    named = empty(host, tmp_path, "c").cli(
        "restore", "--nobody-erased", "--backup", found[0]["backup_id"], check=False
    )
    assert named.returncode == 1 and "was cut off" in named.stderr
    # A backup of this host while another one runs is refused; its lock goes with its process.
    made = json.loads(host.cli("backup", "--json").stdout)
    (whole,) = listed(host)
    assert (whole["state"], whole["backup_id"]) == ("whole", made["backup_id"])
    assert not any(name.startswith("of/a/base/") and found[0]["backup_id"] in name for name in bucket.objects)
    # The log goes to the bucket from then on, through the guardian.
    host.cli("database", "psql", "--owner", "-c", "SELECT pg_switch_wal()", process=True)
    with Embedded(host.data_dir).at_rest():
        assert any(name.startswith(f"of/a/wal/{made['source']}/") for name in bucket.objects)
    assert host.cli("backup", "prune", "--json", "--days", "0").returncode == 0
    target = Server(tmp_path / "d")
    target.env = dict(host.env)
    target.data_dir.mkdir()
    shutil.copytree(host.data_dir / "secrets", target.data_dir / "secrets")
    try:
        said = json.loads(target.cli("restore", "--nobody-erased", "--json").stdout)
        assert said["ok"] and said["wal_files"] >= 1 and said["journal"] == "none"
        assert json.loads(target.cli("offering", "list", "--json").stdout)
    finally:
        Embedded(target.data_dir).destroy()


@pytest.fixture(scope="module")
def past(tmp_path_factory, upstream):
    """A place with a backup, two files of the log after it and a journal; nobody uses it."""
    tmp_path = tmp_path_factory.mktemp("past")
    server = Server(tmp_path / "a", archive_to=tmp_path / "place", archive_timeout_s=60)
    with server:
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber()
        assert server.chat(key, {"tokens": 5})[0] == 200
        server.usage(subscriber, 1)
        server.cli("backup", "--secrets-to", str(tmp_path / "secrets"))
        for count in (2, 3, 4):
            assert server.chat(key, {"tokens": 5})[0] == 200
            server.usage(subscriber, count)
            with server.owner() as owner:
                owner.execute("SELECT pg_switch_wal()")
        server.stop()
        env = dict(server.env)
    return tmp_path, env


def damage(path, at=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 0x20
    path.write_bytes(content)


def test_each_file_that_is_damaged_is_refused_by_name_and_nothing_is_changed(past, tmp_path):
    source, env = past
    place = tmp_path / "place"
    shutil.copytree(source / "place", place)
    host = Server(tmp_path / "b")
    host.env = env | {"TOKENWORKS_ARCHIVE_TO": ""}
    host.data_dir.mkdir()
    shutil.copytree(source / "a" / "secrets", host.data_dir / "secrets")
    before = sorted(os.listdir(host.data_dir))
    (base,) = place.glob("base/*/*")
    log = sorted(place.glob("wal/*/????????????????????????.zst"))
    needed = [
        path
        for path in log
        if path.name[:24] > json.loads((base / "manifest.json").read_text())["manifest"]["end_wal"]
    ]
    journal = next(place.glob("journal/*/*/*.zst"))
    samples = [
        base / "manifest.json", base / "base.000001.zst", max(base.glob("base.*.zst")), base / "erased.zst",
        next(base.glob("journal/of/*/*.zst")), next(base.glob("journal/of/*/journal.json")), journal, needed[0],
    ]  # fmt: skip
    for path in samples:
        whole = path.read_bytes()
        damage(path)
        done = host.cli("restore", "--from", str(place), "--nobody-erased", check=False)
        assert done.returncode == 1 and path.name in done.stderr and "damaged" in done.stderr, (path, done)
        path.write_bytes(whole)
        assert set(os.listdir(host.data_dir)) - set(before) <= {"serve.lock", "backup.lock"}
    for path, why in (
        (base / "base.000001.zst", "is not there"),
        (needed[0], "is missing, and later files are there"),
    ):
        path.rename(tmp_path / "gone")
        done = host.cli("restore", "--from", str(place), "--nobody-erased", check=False)
        assert done.returncode == 1 and path.name in done.stderr and why in done.stderr, done.stderr
        (tmp_path / "gone").rename(path)
    assert set(os.listdir(host.data_dir)) - set(before) <= {"serve.lock", "backup.lock"}
    # Killed in its middle it leaves no database, and nothing that the next one minds.
    argv = ["--data-dir", str(host.data_dir), "restore", "--from", str(place), "--nobody-erased"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tokenworks", *argv], env=host.environ(), cwd=ROOT, stderr=subprocess.PIPE
    )
    until((host.data_dir / "restoring" / "postgresql.log").exists, 120, what="the recovery")
    process.kill()
    process.communicate(timeout=60)
    assert not has_database(host.data_dir)
    assert host.cli("restore", "--from", str(place), "--nobody-erased").returncode == 0
    assert has_database(host.data_dir) and not (host.data_dir / "restoring").exists()
    Embedded(host.data_dir).destroy()
    # A time that the log does not reach is none that can be restored.
    done = host.cli(
        "restore", "--from", str(place), "--nobody-erased", "--at", "2100-01-01T00:00:00Z", check=False
    )
    assert done.returncode == 1 and "Leave --at out" in done.stderr
    done = host.cli(
        "restore", "--from", str(place), "--nobody-erased", "--at", "2001-01-01T00:00:00+08:00", check=False
    )
    assert done.returncode == 1 and "nothing is from before" in done.stderr


def test_secrets_are_kept_apart_and_are_their_owners(past, tmp_path):
    source, env = past
    (copy,) = (source / "secrets").iterdir()
    assert copy.stat().st_mode & 0o777 == 0o700 == copy.parent.stat().st_mode & 0o777
    assert {path.stat().st_mode & 0o777 for path in copy.iterdir()} == {0o600}
    assert {"pepper-1", "person-wrap-1", "person-lookup", "manifest.json"} <= {
        path.name for path in copy.iterdir()
    }
    assert not any("pepper" in path.name for path in (source / "place").rglob("*"))
    host = Server(tmp_path / "b")
    host.env = env | {"TOKENWORKS_ARCHIVE_TO": ""}
    host.make()
    try:
        for to, secrets in (("p", "p"), ("p", "p/s"), ("p/s", "p")):
            done = host.cli(
                "backup", "--to", str(tmp_path / to), "--secrets-to", str(tmp_path / secrets), check=False
            )
            assert done.returncode == 1 and "not apart" in done.stderr
            assert not (tmp_path / to).exists()
        done = host.cli("backup", "--to", str(host.data_dir / "secrets" / "x"), check=False)
        assert done.returncode == 1 and "not apart" in done.stderr
        # A restore asks who was erased, and has the secrets before it begins.
        bare = Server(tmp_path / "c")
        bare.env = dict(host.env)
        place = ("--from", str(source / "place"))
        refused = bare.cli("restore", *place, check=False)
        assert refused.returncode == 1 and "--nobody-erased" in refused.stderr
        refused = bare.cli("restore", *place, "--nobody-erased", check=False)
        assert refused.returncode == 1 and "there are no secrets" in refused.stderr
        shutil.copytree(source / "secrets", tmp_path / "copies")
        damage(next((tmp_path / "copies").glob("*/pepper-1")))
        with_secrets = ("--nobody-erased", "--secrets-from", str(tmp_path / "copies"))
        refused = bare.cli("restore", *place, *with_secrets, check=False)
        assert refused.returncode == 1 and "pepper-1 is damaged" in refused.stderr
        refused = host.cli(
            "restore", *place, "--nobody-erased", "--secrets-from", str(source / "secrets"), check=False
        )
        assert refused.returncode == 1 and "there are secrets" in refused.stderr
    finally:
        Embedded(host.data_dir).destroy()


def test_a_host_that_serves_is_not_restored_over(server):
    refused = server.cli(
        "restore", "--from", str(server.data_dir / ".." / "nothing"), "--nobody-erased", check=False
    )
    assert refused.returncode == 1 and "can't be read" in refused.stderr
    to = server.data_dir.parent / "place-of-a-server"
    server.cli("backup", "--to", str(to))
    refused = server.cli("restore", "--from", str(to), "--nobody-erased", "--replace", check=False)
    assert refused.returncode == 1 and "a server runs" in refused.stderr
    assert server.ready()
    shutil.rmtree(to)


def test_with_a_database_of_ones_own_the_journal_is_backed_up(tmp_path, database_url):
    host = Server(tmp_path / "a", database_url=database_url)
    host.data_dir.mkdir()
    host.env |= {"TOKENWORKS_SINGLE_ROLE": "true"}
    host.init()
    (tmp_path / "a" / "journal").mkdir()
    from tokenworks.charging import Journal

    journal = Journal(tmp_path / "a" / "journal", 65_536)
    journal.begin_segment(b"C")
    journal.close()
    done = host.cli("backup", "--to", str(tmp_path / "place"))
    assert "The database is not in it" in done.stdout and "No secrets are in it" in done.stdout
    (found,) = listed(host, "--in", str(tmp_path / "place"))
    assert (found["kind"], found["state"], found["journal"]["last"]) == ("host", "whole", 1)
    refused = host.cli("restore", "--from", str(tmp_path / "place"), "--nobody-erased", check=False)
    assert refused.returncode == 1 and "with its own tools" in refused.stderr


def test_the_databases_address_and_a_session_in_it(server):
    done = server.cli("database", "url")
    with psycopg.connect(done.stdout.strip()) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("tokenworks_app",)
    done = server.cli("database", "url", "--owner")
    assert "may change history" in done.stderr and "user=tokenworks" in done.stdout
    done = server.cli("database", "psql", "-c", "SELECT 'as ' || current_user", process=True)
    assert "as tokenworks_app" in done.stdout
    done = server.cli("database", "psql", "-c", "UPDATE usage SET output = 0", process=True, check=False)
    assert done.returncode != 0 and "permission denied" in done.stderr
    done = server.cli("database", "psql", "--owner", "-c", "SELECT 'as ' || current_user", process=True)
    assert "as tokenworks\n" in done.stdout and "may change history" in done.stderr
    server.env["TOKENWORKS_DATABASE_URL"] = "postgresql://me:secret-word@db.example/works?password=other-word"
    try:
        done = server.cli("database", "url")
        assert done.stdout == "postgresql://me@db.example/works\n"
    finally:
        del server.env["TOKENWORKS_DATABASE_URL"]
