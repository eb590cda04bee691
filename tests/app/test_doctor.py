"""`tokenworks doctor` finds what is wrong with a host, says what to do, and changes nothing."""

import json
from datetime import UTC, datetime

import pytest

from tests.support.server import Server, until
from tokenworks import __version__
from tokenworks.app.database.schema import SCHEMA
from tokenworks.app.doctor import examine
from tokenworks.app.process.host_secrets import webhook_fingerprint
from tokenworks.app.settings import load_settings
from tokenworks.kernel import uuid7
from tokenworks.trust import host_secrets, report_secrets
from tokenworks.trust.keys.pepper import PEPPER_BYTES


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("doctor")) as server:
        server.env |= {"TOKENWORKS_LISTEN": server.public, "TOKENWORKS_ADMIN_LISTEN": server.admin}
        yield server


def states(server, **options):
    """What the checks say of a host with these settings: check -> (state, what was found, what to do)."""
    settings = load_settings({"data_dir": str(server.data_dir)} | options, server.env).settings
    return {one.check: one[1:] for one in examine(settings)}


def reported(server, journal_id):
    """The peppers and the webhook secret that a host has told the database of."""
    [host] = host_secrets(server.connection, [(journal_id, "", datetime.now(UTC))])
    return list(host.peppers), host.webhook


def test_a_host_that_serves_is_fit(server):
    until(lambda: server.metrics("recorder_database_ok") == [1.0], what="a report")
    done = server.cli("doctor", "--json", process=True)
    said = json.loads(done.stdout)
    assert said["fit"] and {one["state"] for one in said["checks"]} <= {"ok", "warning"}
    found = {one["check"] for one in said["checks"]}
    assert {"data_dir", "peppers", "vault keys", "exposure", "certificate", "public port", "admin port", "open files",
            "memory", "journal's disk", "recorder", "database", "schema", "role of the database", "durability", "clock", "fleet"} <= found  # fmt: skip
    text = server.cli("doctor", process=True).stdout
    assert "Fit to serve." in text and "ok       clock: " in text


def test_what_is_wrong_is_named_with_what_to_do(server, tmp_path):
    found = states(server, requests_max=1_000_000, memory_bytes_max=2**40, journal_reserve_bytes=2**50)
    assert found["open files"][0] == "warning" and "ulimit -n" in found["open files"][2]
    assert found["memory"][0] == "warning"
    assert found["journal's disk"][0] == "failed" and "make room" in found["journal's disk"][2]
    found = states(server, clock_shift_s=30.0)
    assert found["clock"][0] == "failed" and found["clock"][1].startswith("+30.")
    found = states(server, environment="prod")
    assert found["durability"][0] == "failed" and "fsync" in found["durability"][1]
    found = states(server, listen="192.0.2.1:80")
    assert found["exposure"][0] == "failed" and "plain HTTP" in found["exposure"][1]
    found = states(server, database_url="postgresql:///nothing?host=/nowhere")
    assert found["database"][0] == "failed" and "schema" not in found
    found = states(server, secrets_dir=str(tmp_path))
    assert found["peppers"][0] == "failed" and "tokenworks init" in found["peppers"][1]


def test_a_pepper_of_another_works_is_found_and_not_kept(server, tmp_path):
    for path in server.settings.secrets.iterdir():
        copy = tmp_path / path.name
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o600)
    (tmp_path / "pepper-2").write_bytes(b"p" * PEPPER_BYTES)
    (tmp_path / "pepper-2").chmod(0o600)
    before = server.connection.execute("SELECT count(*) FROM pepper").fetchone()
    assert states(server, secrets_dir=str(tmp_path))["peppers of the works"][0] == "ok"
    assert server.connection.execute("SELECT count(*) FROM pepper").fetchone() == before
    (tmp_path / "pepper-1").write_bytes(b"x" * PEPPER_BYTES)
    assert states(server, secrets_dir=str(tmp_path))["peppers of the works"][0] == "failed"


def test_files_of_secrets_dir_that_nothing_reads_are_named(server):
    strays = {"pepper-1~": "is a leftover", "pepper-x": "is not read", "old-vendor": "named by no deployment"}
    for name in strays:
        (server.settings.secrets / name).write_bytes(b"x")
    (server.settings.secrets / "copies").mkdir()
    found = states(server)
    for name, said in (strays | {"copies": "is a folder"}).items():
        assert found[f"file {name}"][0] == "warning" and said in found[f"file {name}"][1], found
    for name in ("pepper-2", "person-wrap-2"):
        (server.settings.secrets / name).write_bytes(b"")
    found = states(server)
    for name in ("pepper-2", "person-wrap-2"):
        assert found[f"file {name}"][0] == "warning" and "chmod 600" in found[f"file {name}"][1]
        (server.settings.secrets / name).chmod(0o600)
        assert "is empty" in states(server)[f"file {name}"][1]
    assert states(server)["peppers of the works"][0] == "ok"
    # None of them is in the way of a command.
    server.cli("balance", "--subscriber", str(server.subscriber()[0].subscriber_id))
    for name in (*strays, "pepper-2", "person-wrap-2"):
        (server.settings.secrets / name).unlink()
    (server.settings.secrets / "copies").rmdir()
    secret = server.settings.secrets / "webhook-secret"
    assert states(server)["webhook secret"][0] == "ok"
    secret.write_text("abc")
    secret.chmod(0o644)
    assert states(server)["webhook secret"][0] == "failed"
    secret.unlink()


def test_hosts_that_lack_what_was_announced_are_named(server):
    """Hosts of the fleet, as they report."""
    other, now = uuid7(), "clock_timestamp()"
    # Others of these tests make hosts as well; the one that serves has the newest journal that reports.
    own = server.connection.execute(
        "SELECT journal_id FROM host_secrets ORDER BY reported_at DESC LIMIT 1"
    ).fetchone()[0]
    # The recorder reports what has changed, once: after that, what this test writes in its place stays.
    signs = webhook_fingerprint(server.settings.secrets)
    until(lambda: reported(server, own) == ([1], signs), what="the host's own report")
    server.connection.execute(
        f"INSERT INTO journal (journal_id, host, seen_at) VALUES (%s, 'other', {now})", (other,)
    )
    report_secrets(server.connection, other, peppers=[], issues_under=1, wrapping=[1], webhook=b"a" * 16)
    report_secrets(server.connection, own, peppers=[1], issues_under=1, wrapping=[1, 2], webhook=b"b" * 16)
    found = states(server)
    assert found["pepper of the fleet"][:2] == ("warning", "other lacks pepper-1")
    assert found["person-wrap of the fleet"][:2] == ("warning", "other lacks person-wrap-2")
    assert (
        found["webhook secret of the fleet"][0] == "warning"
        and "copy webhook-secret" in found["webhook secret of the fleet"][2]
    )
    server.connection.execute("UPDATE journal SET seen_at = NULL WHERE journal_id = %s", (other,))


def test_a_credential_that_is_missing_is_found(server):
    server.cli(
        "deployment", "add", "--name", "vendor", "--model", "vendor", "--base-url", "https://vendor.example/v1", "--protocol", "chat",
        "--api-key-file", "absent",
    )  # fmt: skip
    found = states(server)["credential of vendor"]
    assert found[0] == "failed" and "absent" in found[1]
    done = server.cli("doctor", check=False, process=True)
    assert done.returncode == 1 and "Not fit to serve: credential of vendor." in done.stdout
    server.cli("deployment", "remove", "vendor")


def test_a_host_that_does_not_serve_or_whose_recorder_is_silent(server):
    report = server.settings.run_dir / "recorder.json"
    taken = states(server, listen="127.0.0.1:9")
    assert taken["public port"][0] == "warning"
    server.stop()
    found = states(server)
    assert found["public port"][0] == "ok" and "is free" in found["public port"][1]
    assert found["server"][0] == "warning" and "recorder" not in found
    assert not report.exists() or report.unlink() is None
    server.start()
    until(lambda: states(server).get("recorder", ("",))[0] == "ok", what="the recorder")


def test_hosts_of_different_releases_and_hosts_that_are_silent_are_found(server):
    until(
        lambda: states(server)["fleet"][0] == "ok" and "release" in states(server)["fleet"][1],
        what="this host",
    )
    said = states(server)["fleet"][1]
    assert f"release {__version__}, schema {SCHEMA}, since " in said
    server.connection.execute(
        "INSERT INTO journal (journal_id, host, seen_at) VALUES (gen_random_uuid(), 'older', clock_timestamp() + interval '1 hour')"
    )
    found = states(server)
    assert found["fleet"][0] == "warning" and "older (an earlier release)" in found["fleet"][1]
    server.connection.execute(
        "UPDATE journal SET seen_at = clock_timestamp() - interval '1 hour' WHERE host = 'older'"
    )
    found = states(server)
    assert (
        found["fleet"][0] == "ok"
        and found["silent hosts"][0] == "warning"
        and "older" in found["silent hosts"][1]
    )
