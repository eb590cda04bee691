"""Schema steps under a serving fleet: which locks they take, what is cut off goes on, which releases may run."""

import contextlib
import json
import os
import shutil
import signal
import textwrap
from datetime import timedelta

import psycopg
import pytest

from tests.app.test_migrations import empty_url, migrate_to  # noqa: F401  # a fixture
from tests.charging.test_flat_reads import SEED
from tests.support.databases import as_role
from tests.support.server import Server, in_process, until
from tokenworks.app.database import schema
from tokenworks.app.database.connections import connect
from tokenworks.app.database.schema import Index, Step, build_index, check_schema, migrate, plan_steps
from tokenworks.cli import init as cli
from tokenworks.kernel import Unavailable

# Weaker ones hold up neither a request nor settlement.
WEAK = {"AccessShareLock", "RowShareLock", "RowExclusiveLock"}


@pytest.fixture
def folder(tmp_path):
    """This release's migrations, and what `add` writes after them."""
    made = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, made, ignore=shutil.ignore_patterns("__pycache__"))

    def add(revision, text, after=schema.SCHEMA):
        head = f'"""A step of a later release."""\nrevision = "{revision}"\ndown_revision = "{after}"\n'
        (made / "versions" / f"{revision}_next.py").write_text(head + textwrap.dedent(text))
        return made

    return add


def steps():
    return [step for step in schema._steps(schema.MIGRATIONS) if step.revision >= schema.FIRST_STEP]


def fill_usage(url, revision):
    """Records of a few months, written by a release of an older schema; what its steps leave to be done is done."""
    with contextlib.closing(connect(url)) as connection:
        now = connection.execute("SELECT now()").fetchone()[0]
        for days in (0, 30, 60):
            connection.execute("SELECT ensure_usage_month(%s)", (now - timedelta(days=days),))
        span = {"begin": now - timedelta(days=60), "end": now}
        connection.execute(SEED, {"count": 300, "account": None, "accounts": 10, "salt": "a", **span})
        for step in steps():
            if step.revision <= revision:
                schema._finish(connection, step, lambda _: None)


# A step that does something else where records are.
FILLED_TOO = ("0032", "0033", "0035")


@pytest.mark.parametrize(
    ("revision", "filled"),
    [(step.revision, False) for step in steps()] + [(revision, True) for revision in FILLED_TOO],
)
def test_a_step_locks_what_it_says_and_changes_the_catalogue_alone(empty_url, revision, filled):  # noqa: F811
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    step = next(step for step in steps() if step.revision == revision)
    migrate_to(empty_url, step.down_revision)
    if filled:
        fill_usage(empty_url, step.down_revision)
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    tables = """SELECT c.oid, coalesce(p.relname, c.relname), c.relfilenode FROM pg_class c LEFT JOIN pg_inherits h ON h.inhrelid = c.oid
        LEFT JOIN pg_class p ON p.oid = h.inhparent WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace"""
    with create_engine(schema.engine_url(empty_url), poolclass=NullPool).connect() as connection:
        before = {oid: (name, node) for oid, name, node in connection.exec_driver_sql(tables)}
        connection.rollback()
        config.attributes["connection"] = connection
        with connection.begin():
            command.upgrade(config, revision)
            locked = {}
            for oid, mode in connection.exec_driver_sql(
                "SELECT relation, mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation IS NOT NULL AND granted"
            ):
                if oid in before and mode not in WEAK and before[oid][0] != "alembic_version":
                    locked.setdefault(before[oid][0], set()).add(mode)
            anew = {
                name
                for oid, name, node in connection.exec_driver_sql(tables)
                if oid in before and before[oid][1] != node
            }
            scanned = {
                name
                for name, scans in connection.exec_driver_sql(
                    "SELECT relname, seq_scan FROM pg_stat_xact_user_tables WHERE seq_scan > 0"
                )
                for name in [next((known for oid, (known, _) in before.items() if known == name), name)]
            }
    assert set(locked) == set(getattr(step.module, "LOCKS", {})), (
        "LOCKS names each table that was there before"
    )
    for table, modes in locked.items():
        assert step.module.LOCKS[table] in modes
    hot = set(locked) & set(schema.HOT_TABLES)
    assert not anew & set(schema.HOT_TABLES), "a hot table is written anew while it is locked"
    assert not scanned & hot, "a hot table is read whole while it is locked"
    assert step.revision >= getattr(step.module, "COMPATIBLE_FROM", step.revision)


def test_an_index_is_built_beside_writers_and_over_partitions(owner):
    connection = owner
    connection.execute("CREATE TABLE plain (n int)")
    connection.execute("INSERT INTO plain VALUES (1), (1)")
    connection.execute("CREATE TABLE parted (n int, part int) PARTITION BY LIST (part)")
    for part in (1, 2):
        connection.execute(f"CREATE TABLE parted_{part} PARTITION OF parted FOR VALUES IN ({part})")

    def valid(name):
        return connection.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = %s::regclass", (name,)
        ).fetchone()[0]

    # What was cut off left an index that is not valid, as one does that can't be unique.
    with pytest.raises(psycopg.errors.UniqueViolation):
        build_index(connection, Index("plain_n", "plain", "(n)", unique=True))
    assert not valid("plain_n")
    connection.execute("DELETE FROM plain")
    build_index(connection, Index("plain_n", "plain", "(n)", unique=True))
    assert valid("plain_n")
    # Over a partitioned table: one partition has its index already, as a run that was cut off leaves it.
    index = Index("parted_n", "parted", "(n) WHERE n > 0")
    connection.execute("CREATE INDEX parted_n ON ONLY parted (n) WHERE n > 0")
    connection.execute("CREATE INDEX parted_1_parted_n ON parted_1 (n) WHERE n > 0")
    assert not valid("parted_n")
    said = []
    for _ in range(2):
        build_index(connection, index, said.append)
    assert valid("parted_n") and valid("parted_2_parted_n")
    assert said == ["Index parted_n", "Index parted_n: parted_2"]
    connection.execute("CREATE TABLE parted_3 PARTITION OF parted FOR VALUES IN (3)")
    found = connection.execute(
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'parted_n'::regclass"
    ).fetchone()
    assert found == (3,)


def test_an_index_is_built_over_the_levels_of_usage(owner):
    index = Index("usage_by_model", "usage", "(model)")
    build_index(owner, index)
    leaves = owner.execute(
        """SELECT count(*) FILTER (WHERE i.indisvalid), count(*), (SELECT count(*) FROM pg_partition_tree('usage'))
           FROM pg_partition_tree('usage_by_model') t JOIN pg_index i ON i.indexrelid = t.relid"""
    ).fetchone()
    assert leaves[0] == leaves[1] == leaves[2] > 3


def test_the_hot_tables_are_there(services):
    for table in schema.HOT_TABLES:
        assert services.connection.execute("SELECT to_regclass(%s)", (table,)).fetchone() != (None,), table


FILLED = """
    from alembic import op
    COMPATIBLE_FROM = "{compatible}"
    LOCKS = {{"account": "AccessExclusiveLock"}}

    def upgrade():
        op.execute("ALTER TABLE account ADD COLUMN colour text")

    def backfill(connection, after):
        found = connection.execute(
            "UPDATE account SET colour = 'blue' WHERE account_id IN (SELECT account_id FROM account WHERE account_id > "
            "coalesce(%s, '00000000-0000-0000-0000-000000000000')::uuid ORDER BY 1 LIMIT 2) RETURNING account_id", (after,)
        ).fetchall()
        if after is not None and {fails}:
            raise RuntimeError("cut off")
        return None if len(found) < 2 else str(max(row[0] for row in found))

    BATCH_MAX = 2

    def backfill_rows(connection, after):
        return connection.execute(
            "SELECT count(*) FROM account WHERE account_id > coalesce(%s, '00000000-0000-0000-0000-000000000000')::uuid", (after,)
        ).fetchone()[0]
"""


def test_a_backfill_that_is_cut_off_goes_on_where_it_was(services, owner_url, folder):
    for _ in range(5):
        services.ledger.open_account()

    def blue():
        return services.connection.execute("SELECT count(*) FROM account WHERE colour = 'blue'").fetchone()[0]

    broken = folder("9001", FILLED.format(compatible=schema.SCHEMA, fails=True))
    with pytest.raises(RuntimeError):
        migrate(owner_url, folder=broken)
    assert blue() == 2
    (left,) = plan_steps(services.connection, broken)
    assert (left.revision, left.begun, left.fills, left.locks) == ("9001", True, True, {})
    second = services.connection.execute(
        "SELECT account_id::text FROM account ORDER BY 1 OFFSET 1"
    ).fetchone()
    assert (left.after,) == second
    # Those before it go on; a release that relies on what is filled does not start.
    check_schema(services.connection)
    with pytest.raises(
        Unavailable, match="schema 9001 is unfinished, its rows are not all filled: run `tokenworks init`"
    ):
        check_schema(services.connection, "9001")
    services.connection.execute("UPDATE account SET colour = 'red' WHERE colour = 'blue'")
    whole = folder("9001", FILLED.format(compatible=schema.SCHEMA, fails=False))
    said = []
    assert migrate(owner_url, said.append, folder=whole) == "9001"
    assert blue() == 3  # the first batch is not done twice
    assert said == [f"Filling 9001, going on after {left.after}", "Filling 9001: 2 of 3 rows"]
    check_schema(services.connection, "9001")
    assert plan_steps(services.connection, whole) == []
    said.clear()
    migrate(owner_url, said.append, folder=whole)
    assert said == []


def test_a_step_that_ended_before_its_index_and_its_rows_is_unfinished(
    services, owner, owner_url, folder, monkeypatch
):
    """The step is committed, and the run was killed before it began with what follows."""
    made = folder("9001", INDEXED)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "_finish", lambda *_: None)
        migrate(owner_url, folder=made)
    (left,) = plan_steps(services.connection, made)
    assert (left.begun, left.fills, left.indexes, left.after) == (
        True,
        True,
        ["account_by_colour", "usage_by_model"],
        None,
    )
    with pytest.raises(Unavailable, match="schema 9001 is unfinished"):
        check_schema(services.connection, "9001")
    check_schema(services.connection)
    # One of its indexes is there, the other one was cut off.
    with monkeypatch.context() as patch:

        def cut_off(connection, index, progress):
            if index.name == "usage_by_model":
                raise RuntimeError("cut off")
            build_index(connection, index, progress)

        patch.setattr(schema, "build_index", cut_off)
        with pytest.raises(RuntimeError):
            migrate(owner_url, folder=made)
    (left,) = plan_steps(services.connection, made)
    assert (left.indexes, left.fills) == (["usage_by_model"], True)
    with pytest.raises(Unavailable, match="schema 9001 is unfinished, its rows"):
        check_schema(services.connection, "9001")
    owner.execute("UPDATE schema_backfill SET done_at = now() WHERE revision = '9001'")
    with pytest.raises(Unavailable, match="schema 9001 is unfinished, its index usage_by_model is not built"):
        check_schema(services.connection, "9001")
    migrate(owner_url, folder=made)
    check_schema(services.connection, "9001")
    assert plan_steps(services.connection, made) == []
    # An index that is lost later keeps nobody from starting; `init` lists it, and builds it again.
    owner.execute("DROP INDEX account_by_colour")
    check_schema(services.connection, "9001")
    assert [step.indexes for step in plan_steps(services.connection, made)] == [["account_by_colour"]]
    migrate(owner_url, folder=made)
    assert plan_steps(services.connection, made) == []


def test_a_second_run_says_that_it_waits_for_the_first(services, owner_url):
    said = []

    def go_on(text):
        said.append(text)
        other.close()

    with contextlib.closing(connect(owner_url)) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (schema._MIGRATION_LOCK,))
        pid = other.info.backend_pid
        migrate(owner_url, go_on)
    assert said == [
        f"Waiting for another `tokenworks init`, or for the index of one that was killed (session {pid} of the database)"
    ]


def test_init_says_what_it_does_and_what_was_cut_off(tmp_path, database_url, owner_url):
    """Where no terminal is: a line on stderr for each step."""
    env = {"TOKENWORKS_DATABASE_URL": database_url, "TOKENWORKS_DATABASE_OWNER_URL": owner_url}

    def run(*args):
        done = in_process(["--data-dir", str(tmp_path), "init", *args], dict(os.environ) | env)
        assert done.returncode == 0, done.stderr
        return done

    assert "nothing to do" in run("--plan").stdout
    with contextlib.closing(connect(owner_url)) as connection:
        connection.execute(
            "UPDATE schema_backfill SET done_at = NULL, after = '01a207a0-0000-7000-8000-000000000001' WHERE revision = '0027'"
        )
        said = run("--plan").stdout
        assert "unfinished: it was cut off, after 01a207a0-0000-7000-8000-000000000001" in said
        assert "fills rows in batches" in said
        (step,) = json.loads(run("--plan", "--json").stdout)["steps"]
        assert (step["revision"], step["begun"], step["locks"]) == ("0027", True, {})
        with pytest.raises(Unavailable, match="schema 0027 is unfinished"):
            check_schema(connection)
        assert "Filling 0027, going on after 01a207a0" in run("--json").stderr
        check_schema(connection)


def test_a_log_has_a_line_for_each_thing_and_not_for_each_batch(capsys, monkeypatch):
    monkeypatch.setattr(cli, "PROGRESS_EVERY_S", 3600.0)
    lines = cli._LogProgress()
    for text in (
        "Schema 0028",
        "Filling 0028",
        *(f"Filling 0028: {at} of 9 rows" for at in range(9)),
        "Index a",
        "Index a: part",
    ):
        lines(text)
    assert capsys.readouterr().err.splitlines() == ["Schema 0028", "Filling 0028", "Index a"]


INDEXED = """
    from alembic import op
    from tokenworks.app.database.schema import Index
    COMPATIBLE_FROM = "0026"
    LOCKS = {"account": "AccessExclusiveLock"}
    INDEXES = (Index("account_by_colour", "account", "(colour)"), Index("usage_by_model", "usage", "(model)"))

    def upgrade():
        op.execute("ALTER TABLE account ADD COLUMN colour text")

    def backfill(connection, after):
        return None
"""


def test_a_release_runs_on_a_younger_schema_that_is_compatible_with_it(services, owner, owner_url, folder):
    made = folder("9001", FILLED.format(compatible=schema.SCHEMA, fails=False))
    assert plan_steps(services.connection, made) == [
        Step(
            "9001", "A step of a later release.", schema.SCHEMA, {"account": "AccessExclusiveLock"}, [], True
        )
    ]
    migrate(owner_url, folder=made)
    check_schema(services.connection)
    with pytest.raises(Unavailable, match="runs releases from schema"):
        check_schema(services.connection, "0019")
    with pytest.raises(Unavailable, match="needs 9002: run `tokenworks init`"):
        check_schema(services.connection, "9002")
    # The contract step: nothing older may run.
    made = folder("9002", "def upgrade():\n    pass\n", after="9001")
    migrate(owner_url, folder=made)
    with pytest.raises(Unavailable, match="runs releases from schema 9002 on"):
        check_schema(services.connection)
    check_schema(services.connection, "9002")
    # Something else set the number: what that schema runs is not known.
    owner.execute("UPDATE alembic_version SET version_num = '9003'")
    with pytest.raises(Unavailable, match="runs releases from schema 9003 on"):
        check_schema(services.connection, "9002")


def test_a_step_waits_shortly_for_a_lock_and_gives_up_whole(services, owner_url, folder, monkeypatch):
    monkeypatch.setattr(schema, "LOCK_TRIES_MAX", 2)
    monkeypatch.setattr(schema, "LOCK_PAUSE_S", 0)
    monkeypatch.setattr(schema, "LOCK_TIMEOUT_MS", 10)
    made = folder("9001", FILLED.format(compatible=schema.SCHEMA, fails=False))
    with contextlib.closing(connect(owner_url)) as other:
        other.autocommit = False
        other.execute("SELECT count(*) FROM account")
        with pytest.raises(Unavailable, match="see pg_stat_activity"):
            migrate(owner_url, folder=made)
        assert schema.current_revision(services.connection) == schema.SCHEMA
        check_schema(services.connection)
        other.rollback()
    assert migrate(owner_url, folder=made) == "9001"


def test_a_host_serves_while_the_next_schema_comes_and_starts_anew_on_it(tmp_path, upstream, folder):
    with Server(tmp_path / "host", workers=1) as server:
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber("ctc-light")
        assert server.chat(key, {"tokens": 5})[0] == 200
        migrate(
            as_role(server.url, "tokenworks"),
            folder=folder("9001", FILLED.format(compatible=schema.SCHEMA, fails=False)),
        )
        assert server.chat(key, {"tokens": 5})[0] == 200
        (recorder,) = [pid for name, pid in server.processes() if name == "recorder"]
        os.kill(recorder, signal.SIGKILL)
        until(
            lambda: [pid for name, pid in server.processes() if name == "recorder"] not in ([], [recorder]),
            what="another recorder",
        )
        until(lambda: server.chat(key, {"tokens": 5})[0] == 200, what="an answer")
        assert len(server.usage(subscriber, 3)) >= 3
        assert server.findings() == []
