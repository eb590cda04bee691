"""Pages about a host and what it stands on: each trouble is made for real, and the page's blocks mend it."""

import contextlib
import http.client
import itertools
import json
import os
import re
import signal
import ssl
import struct

import psycopg
import pytest

from tests.app.process.test_renewing import pair, presented
from tests.e2e.test_hosts import processes, stopped
from tests.e2e.test_journal import newest_segment
from tests.e2e.test_recorder_away import recorder_of
from tests.runbook.book import BEGINNING, Shell, scenario
from tests.support.databases import as_role, new_database
from tests.support.server import Server, StubUpstream, until
from tokenworks.app.database.connections import connect
from tokenworks.app.database.embedded import APP_ROLE, Embedded
from tokenworks.charging.host.journal import FRAME, HEADER

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A PostgreSQL of the tests' own, which a host finds by its URL."""
    embedded = Embedded(tmp_path_factory.mktemp("database"), {"fsync": "off", "full_page_writes": "off"})
    with embedded.use():
        yield embedded
    embedded.destroy()


@pytest.fixture(scope="module")
def apart(tmp_path_factory, upstream, cluster):
    """A host on that database, for pages after which it serves again."""
    with Server(tmp_path_factory.mktemp("apart"), database_url=cluster.url, recorder_wait_s=1) as apart:
        apart.add_deployment("stub", "stub", upstream.url)
        yield apart
        assert apart.findings() == []


@pytest.fixture
def at(apart, tmp_path):
    """A shell at that host."""
    apart.env |= {"TOKENWORKS_LISTEN": apart.public, "TOKENWORKS_ADMIN_LISTEN": apart.admin}
    return Shell(apart, tmp_path)


def refused(server, key):
    status, said, headers = server.chat(key)
    return status, json.loads(said)["error"]["code"], "retry-after" in headers


def told(server, upstream):
    """Wait until the host has heard of all that was made before: a later deployment is heard of after it. What it is granted it keeps
    from now on while the database is away.
    """
    name = f"told-{next(NUMBERS)}"
    server.add_deployment(name, name, upstream.url, "--protocol", "chat")


def words(server):
    """What `/readyz` of the admin port says."""
    connection = http.client.HTTPConnection(*server.admin.rsplit(":", 1), timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@scenario(BEGINNING)
def test_the_doctor_says_that_a_host_is_fit(apart, at):
    until(lambda: apart.metrics("recorder_database_ok") == [1.0], what="a report")
    with at.page(BEGINNING) as page:
        assert "Fit to serve." in page.run("tokenworks doctor")


@scenario("The database is away")
def test_the_database_is_away(apart, at, cluster, upstream):
    subscriber, key = apart.subscriber()
    assert apart.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
    _, stranger_key = apart.subscriber()
    told(apart, upstream)
    assert apart.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
    with stopped(processes(cluster.data_dir)):
        assert apart.chat(key, {"tokens": 5, "prompt": 11})[0] == 200, "within what was granted"
        assert refused(apart, stranger_key) == (503, "database_away", True)
        until(lambda: words(apart)[0] == 503, what="the host to say so")
        assert "database" in words(apart)[1]
        with at.page("The database is away") as page:
            assert "failed   database: " in page.run("tokenworks doctor", code=1)
    until(apart.ready, what="service")
    assert len(apart.usage(subscriber, 3)) == 3
    assert apart.chat(stranger_key)[0] == 200


@scenario("A recorder that hangs")
def test_a_recorder_that_hangs(apart, at):
    subscriber, key = apart.subscriber()
    assert apart.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
    _, stranger_key = apart.subscriber()
    with hanging_until_killed(apart) as before:
        # It goes on while the supervisor can end nobody.
        with stopped([apart.process.pid]):
            assert refused(apart, stranger_key) == (503, "database_away", True)
            until(lambda: "the recorder does not report" in words(apart)[1], what="the host to say so")
            assert apart.metrics("recorder_age_seconds")[0] > 5 and apart.get("/readyz")[0] == 503
            with at.page("A recorder that hangs") as page:
                said = page.run("journal inspect", code=1)
            assert newest_segment(apart).name in said and "failed   recorder: silent for " in said
        until(lambda: "supervisor.child_silent" in apart.log_text(), what="the supervisor to end it")
        until(lambda: recorders(apart) not in ([], [before]), what="another recorder")
    until(apart.ready, what="service")
    assert recorder_of(apart) != before and apart.chat(stranger_key)[0] == 200
    assert len(apart.usage(subscriber, 1)) == 1


@contextlib.contextmanager
def hanging_until_killed(server):
    pid = recorder_of(server)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def recorders(server):
    return [pid for name, pid in server.processes() if name == "recorder"]


@scenario("A lost host")
def test_a_lost_host(apart, at, cluster, upstream):
    subscriber, key = apart.subscriber("sample-trial")
    told(apart, upstream)
    assert apart.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
    apart.usage(subscriber, 1)
    with stopped(processes(cluster.data_dir)):
        assert apart.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
        apart.kill()
    (grant,) = apart.services.ledger.grants(subscriber.account_id)
    public = apart.public
    # Its lease ends.
    apart.connection.execute(
        "UPDATE grants SET spend_until = now() - interval '1 second' WHERE state = 'open'"
    )
    with at.page("A lost host") as page:
        listed = page.run("grant list")
        assert str(grant["grant_id"]) in listed and "expired" in listed
        assert "free again" in page.run("grant write-off", GRANT=grant["grant_id"])
    assert apart.buckets(subscriber)[0].left == 10_000_000 - 16_000
    apart.start(public)
    assert sorted(record["flags"] for record in apart.usage(subscriber, 2)) == [[], ["late"]]
    assert apart.buckets(subscriber)[0].left == 10_000_000 - 2 * 16_000
    for other in apart.services.ledger.grants(None):
        assert other["grant_id"] != grant["grant_id"]


@scenario("A full disk")
def test_a_full_disk(apart, at):
    _, key = apart.subscriber()
    public = apart.public
    apart.stop()
    apart.env["TOKENWORKS_JOURNAL_RESERVE_BYTES"] = str(2**50)
    with pytest.raises(AssertionError, match="ready"):
        apart.start(public, ready_s=1)
    assert refused(apart, key) == (503, "journal_full", True)
    assert "disk is full" in apart.get("/readyz")[1].decode()
    # Room is made.
    apart.stop()
    del apart.env["TOKENWORKS_JOURNAL_RESERVE_BYTES"]
    apart.start(public)
    apart.env["TOKENWORKS_ADMIN_LISTEN"] = at.environ["TOKENWORKS_ADMIN_LISTEN"] = apart.admin
    until(lambda: apart.metrics("recorder_database_ok") == [1.0], what="a report")
    with at.page("A full disk") as page:
        said = page.run("tokenworks doctor")
        assert "Avail" in said and "ok       journal's disk: " in said
    assert apart.chat(key)[0] == 200


@scenario("A damaged journal")
def test_a_damaged_journal(apart, at, tmp_path):
    subscriber, key = apart.subscriber()
    public = apart.public
    for count in range(1, 3):
        assert apart.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
        apart.usage(subscriber, count)
    apart.kill()
    path = newest_segment(apart)
    whole = path.read_bytes()
    copy = tmp_path / "copy"
    copy.write_bytes(whole)
    (length,) = struct.unpack_from("<I", whole, HEADER.size)
    damaged = bytearray(whole)
    damaged[HEADER.size + FRAME.size + length // 2] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(AssertionError, match="journal_corrupt"):
        apart.start(public, ready_s=30)
    assert until(lambda: apart.process.poll()) == 78
    apart.stop()
    with at.page("A damaged journal") as page:
        said = page.run("journal inspect", code=1)
        assert path.name in said and "the journal is damaged" in said
        assert path.name in page.run("journal inspect", COPY=copy, SEGMENT=path.name)
    apart.start(public)
    assert apart.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
    assert len(apart.usage(subscriber, 3)) == 3


@scenario("A clock that jumps")
def test_a_clock_that_jumps(apart, at):
    _, key = apart.subscriber()
    public = apart.public
    apart.stop()
    apart.env["TOKENWORKS_CLOCK_SHIFT_S"] = at.environ["TOKENWORKS_CLOCK_SHIFT_S"] = "30"
    with pytest.raises(AssertionError, match="ready"):
        apart.start(public, ready_s=1)
    until(lambda: "the host's clock is off by" in apart.get("/readyz")[1].decode(), what="the host to say so")
    assert refused(apart, key) == (503, "clock_skew", True)
    with at.page("A clock that jumps") as page:
        said = page.run("tokenworks doctor", code=1)
        # What it reads of the database's clock took a while, so a little less or more than what was set.
        assert re.search(r"^failed   clock: \+(29|30)\.", said, re.MULTILINE), said
    apart.stop()
    del apart.env["TOKENWORKS_CLOCK_SHIFT_S"]
    apart.start(public)
    assert apart.chat(key)[0] == 200


@scenario("The database's roles")
def test_init_makes_the_role_that_serves(apart, at, cluster):
    with new_database(cluster.owner_url, "made_by_init") as owner_url:
        app_url = as_role(owner_url, APP_ROLE)
        with at.page("The database's roles") as page:
            page.run("tokenworks init", OWNER_URL=owner_url, APP_URL=app_url)
        with contextlib.closing(connect(app_url)) as connection:
            assert connection.execute("SELECT count(*) FROM offering").fetchone()[0] > 0
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("DELETE FROM usage")


@scenario("Renewing certificates and credentials")
def test_a_certificate_and_a_credential_are_renewed(tmp_path):
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    new_chain, new_key, credential = (tmp_path / f"new-{name}" for name in ("chain", "key", "credential"))
    for paths, name in (((chain, key), "first"), ((new_chain, new_key), "second")):
        for path, content in zip(paths, pair(name), strict=True):
            path.write_bytes(content)
    with StubUpstream() as upstream, Server(tmp_path / "host", tls_certificate=chain, tls_key=key) as server:
        file = server.settings.secrets / "vendor"
        file.write_text("sk-first\n")
        file.chmod(0o600)
        server.cli(
            "deployment", "add", "--name", "stub", "--model", "stub", "--base-url", upstream.url, "--protocol", "chat",
            "--allow-private", "--api-key-file", "vendor",
        )  # fmt: skip
        _, text = server.subscriber()
        until(lambda: server.metrics("deployments") == [1.0], what="the deployment")
        until(lambda: server.metrics("recorder_database_ok") == [1.0], what="a report")
        server.env |= {"TOKENWORKS_LISTEN": server.public, "TOKENWORKS_ADMIN_LISTEN": server.admin}
        credential.write_text("sk-second\n")
        assert presented(server) == "first"
        with Shell(server, tmp_path).page("Renewing certificates and credentials") as page:
            said = page.run("NEW_CERTIFICATE", NEW_CERTIFICATE=new_chain, NEW_KEY=new_key)
            assert "ok       certificate: expires at " in said
            until(lambda: presented(server) == "second", what="the new certificate")
            page.run("NEW_CREDENTIAL", NEW_CREDENTIAL=credential, CREDENTIAL="vendor")
        assert file.stat().st_mode & 0o777 == 0o600
        until(lambda: credential_of(upstream, server, text) == "Bearer sk-second", what="the new credential")


def credential_of(upstream, server, key):
    """The credential that the upstream was told with the next request."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(server.host, server.port, timeout=30, context=context)
    with contextlib.closing(connection):
        body = json.dumps({"model": "stub", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]})
        connection.request(
            "POST",
            "/v1/chat/completions",
            body,
            {"authorization": f"Bearer {key}", "content-type": "application/json"},
        )
        assert connection.getresponse().status == 200
    return {name.lower(): value for name, value in upstream.get("/last")["heads"][-1].items()}[
        "authorization"
    ]
