"""Pages about the hosts of a fleet, what they run and what they share: two hosts on one database, and a release after this one."""

import contextlib
import io
import json
import shutil

import pytest

from tests.e2e.test_reload import Unpacked, releases, tree
from tests.runbook.book import Shell, free_port, reaped, scenario, started_by_a_block
from tests.support.server import ROOT, Server, until
from tokenworks import __version__
from tokenworks.app.database.embedded import Embedded
from tokenworks.app.database.schema import SCHEMA

NEXT_RELEASE, NEXT_SCHEMA = "9.9.9", f"{int(SCHEMA) + 1:04}"
NEXT_STEP = f'''"""A colour of accounts."""
from alembic import op
from tokenworks.app.database.schema import Index

revision, down_revision = "{NEXT_SCHEMA}", "{SCHEMA}"
COMPATIBLE_FROM = "{SCHEMA}"
LOCKS = {{"account": "AccessExclusiveLock"}}
INDEXES = (Index("account_by_colour", "account", "(colour)"),)


def upgrade():
    op.execute("ALTER TABLE account ADD COLUMN colour text")


def backfill(connection, after):
    connection.execute("UPDATE account SET colour = 'blue' WHERE colour IS NULL")
    return None


def backfill_rows(connection, after):
    return connection.execute("SELECT count(*) FROM account").fetchone()[0]
'''


@pytest.fixture(scope="module")
def fleet(tmp_path_factory, upstream):
    """Host `a`, whose code is what a link points to, and a folder for others."""
    folder = tmp_path_factory.mktemp("fleet")
    embedded = Embedded(folder / "database", {"fsync": "off", "full_page_writes": "off"})
    with contextlib.ExitStack() as stack:
        stack.callback(embedded.destroy)
        url = stack.enter_context(embedded.use())
        (folder / "a").mkdir(mode=0o700)
        a = Unpacked(folder / "a", database_url=url)
        a.env["TOKENWORKS_DATABASE_OWNER_URL"] = embedded.owner_url
        a.folder = folder
        a.link(ROOT / "src")
        with a:
            a.add_deployment("stub", "stub", upstream.url)
            a.env |= {"TOKENWORKS_LISTEN": a.public, "TOKENWORKS_ADMIN_LISTEN": a.admin}
            yield a
            assert a.findings() == []


@pytest.fixture
def shell(fleet, tmp_path):
    until(lambda: fleet.metrics("recorder_database_ok") == [1.0], what="a report")
    return Shell(fleet, tmp_path, fleet.data_dir / "current")


def served(server, key):
    return server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200


@pytest.fixture
def other(fleet):
    """A host that has not been started: the settings of the other one, its secrets, and a data directory of its own."""
    other = Server(fleet.folder / "b", database_url=fleet.env["TOKENWORKS_DATABASE_URL"])
    other.data_dir.mkdir(mode=0o700)
    shutil.copytree(fleet.settings.secrets, other.data_dir / "secrets")
    other.env |= {"TOKENWORKS_LISTEN": free_port(), "TOKENWORKS_ADMIN_LISTEN": free_port()}
    other.attach()
    other.log = io.BytesIO()
    yield other
    other.stop()
    other.stack.close()


@scenario("Adding or replacing a host")
@scenario("Another pepper, and a host that is refused for it")
def test_a_host_is_added_a_pepper_is_rotated_and_the_host_leaves(fleet, other, shell, tmp_path):
    subscriber, key = fleet.subscriber()
    assert served(fleet, key)
    with Shell(other, tmp_path).page("Adding or replacing a host") as page:
        with started_by_a_block(other):
            said = page.run("tokenworks serve", ADMIN=other.env["TOKENWORKS_ADMIN_LISTEN"])
        assert "Fit to serve" in said or "warning  server: does not run" in said
        until(lambda: served(other, key), what="the other host to serve")
        until(lambda: other.metrics("recorder_hosts") == [2.0], what="the hosts to be heard")

        with shell.page("Another pepper, and a host that is refused for it") as rotation:
            said = rotation.run(
                "pepper use", SECRETS=fleet.settings.secrets, OTHER_SECRETS=other.settings.secrets
            )
        assert "pepper" in said.lower()
        assert (other.settings.secrets / "pepper-2").stat().st_mode & 0o777 == 0o600
        peppers = {row["version"]: row for row in json.loads(fleet.cli("pepper", "list", "--json").stdout)}
        assert [host["loaded"] for host in peppers[2]["hosts"]] == [True, True]
        new = fleet.key(subscriber)
        until(
            lambda: all(served(host, one) for host in (fleet, other) for one in (key, new)), what="both keys"
        )

        until(lambda: other.metrics("recorder_unsettled_records") == [0.0], what="settlement")
        said = page.run("grant list")
        assert "newest" in said or "segment" in said.lower(), said
    other.stop()
    left = [json.loads(line) for line in other.log_text().splitlines() if "recorder.left" in line]
    assert [(one["all_settled"], one["all_grants_closed"]) for one in left] == [(True, True)]
    assert served(fleet, new)


@scenario("Restarting a host")
def test_a_host_is_restarted(fleet, shell):
    _, key = fleet.subscriber()
    before = fleet.process
    with shell.page("Restarting a host") as page, started_by_a_block(fleet), reaped(before):
        page.run("kill -TERM", ADMIN=fleet.admin)
    before.stdout.close()
    assert fleet.process is not before and before.returncode == 0
    assert fleet.ready() and served(fleet, key)


@scenario("New settings, and a new release in place")
def test_new_settings_are_taken_in_place(fleet, shell):
    _, key = fleet.subscriber()
    large = {"messages": [{"role": "user", "content": "x" * 3000}]}
    pid = fleet.process.pid
    assert fleet.chat(key, **large)[0] == 200
    settings = fleet.data_dir / "tokenworks.toml"
    settings.write_text("body_bytes_max = 2048\n")
    with shell.page("New settings, and a new release in place") as page:
        assert f"Reloaded: release {releases(fleet)[0]} serves" in page.run("tokenworks reload")
    assert fleet.chat(key, **large)[0] == 413
    settings.unlink()
    assert fleet.process.poll() is None and int((fleet.data_dir / "serve.pid").read_text()) == pid


@scenario("Secrets and their files")
def test_files_of_secrets_that_are_not_as_they_should_be(fleet, shell):
    stray, empty = (fleet.settings.secrets / name for name in ("pepper-1~", "pepper-7"))
    for path in (stray, empty):
        path.touch(0o600)
    said = lambda: [line for line in fleet.log_text().splitlines() if "secrets.not_taken" in line]
    until(lambda: any(empty.name in line for line in said()), what="the log to say so")
    with shell.page("Secrets and their files") as page:
        said = page.run("tokenworks doctor", SECRETS=fleet.settings.secrets)
    assert "-rw-------" in said and f"warning  file {stray.name}: " in said
    assert f"warning  file {empty.name}: {empty} is empty" in said
    stray.unlink()
    empty.unlink()


@scenario("Capacity")
def test_what_is_full_is_looked_up(fleet, shell):
    with shell.page("Capacity") as page:
        said = page.run("metrics", ADMIN=fleet.admin)
    assert "ok       memory: " in said and "tw-recorder" in said and "tw-worker" in said
    for name in (
        "loop_busy_second_ms", "loop_lag_second_ms", "memory_used_bytes", "memory_refused_total", "requests_open",
        "recorder_journal_free_bytes", "recorder_journal_last_commit_seconds", "recorder_oldest_unsettled_seconds",
        "recorder_grant_wait_p99_seconds", "recorder_requests_shed", "recorder_requests_queue_timed_out",
    ):  # fmt: skip
        assert f"tokenworks_{name}" in said, name


@scenario("A new release")
def test_a_new_release_of_the_schema_and_then_of_the_host(fleet, shell, tmp_path):
    subscriber, key = fleet.subscriber()
    second = tree(
        fleet.folder / "second",
        **{
            "__init__.py": (f'"{__version__}"', f'"{NEXT_RELEASE}"'),
            "app/database/schema.py": (f'SCHEMA: Final = "{SCHEMA}"', f'SCHEMA: Final = "{NEXT_SCHEMA}"'),
        },
    )
    (second / f"tokenworks/app/migrations/versions/{NEXT_SCHEMA}_colour.py").write_text(NEXT_STEP)
    assert served(fleet, key)
    with Shell(fleet, tmp_path, second).page("A new release") as page:
        said = page.run("init --plan")
        assert f"{NEXT_SCHEMA}  A colour of accounts" in said and "stop these hosts before it" not in said
        assert served(fleet, key), "nothing was written"
        page.run("tokenworks init")
        assert served(fleet, key), "the host of before serves on the schema"
        fleet.link(second)
        said = page.run("tokenworks reload", ADMIN=fleet.admin)
        assert f"Reloaded: release {NEXT_RELEASE} serves" in said
        # The control plane of before may answer once more while it ends.
        until(lambda: releases(fleet) == [NEXT_RELEASE], what="the new control plane")
        assert served(fleet, key)
        until(lambda: fleet.metrics("recorder_unsettled_records") == [0.0], what="settlement")
        said = page.run("ledger verify")
        assert "nothing to do" in said and f"release {NEXT_RELEASE}, schema {NEXT_SCHEMA}" in said
    assert len(fleet.usage(subscriber, 4)) == 4
