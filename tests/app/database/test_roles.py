"""The role that serves has no right to change history; `init` makes it, as the owner, and says what it may not do itself."""

import contextlib
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

import tokenworks
from tests.app.test_migrations import empty_url  # noqa: F401  # a fixture
from tests.conftest import as_app
from tests.support.databases import as_role, drop_role
from tests.support.server import Server
from tokenworks.app.database import roles, schema
from tokenworks.app.database.connections import connect, database_identity, owned_database
from tokenworks.app.database.embedded import Embedded
from tokenworks.app.database.roles import (
    DELETED_FROM,
    HISTORY,
    READ_ONLY,
    check_role,
    grant_tables,
    make_role,
    user_of,
)
from tokenworks.app.database.schema import check_schema, migrate
from tokenworks.app.settings import load_settings
from tokenworks.charging.ledger import settle_store
from tokenworks.kernel import Invalid, Unavailable, uuid7

DENIED = psycopg.errors.InsufficientPrivilege


@pytest.fixture
def connection(database_url):
    with contextlib.closing(connect(database_url)) as made:
        yield made


def parts(connection):
    """Every table of history with its partitions of every level."""
    return {
        part
        for table in HISTORY
        for (part,) in connection.execute(
            "SELECT %(t)s UNION SELECT relid::regclass::text FROM pg_partition_tree(%(t)s::text::regclass)",
            {"t": table},
        )
    }


def names(connection, statement):
    return {name for (name,) in connection.execute(statement)}


# What the role may do.


def test_the_lists_are_what_the_schema_and_the_code_have(connection):
    kept = names(
        connection,
        "SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname LIKE '%\\_is\\_history' AND tgparentid = 0",
    )
    assert kept == set(HISTORY)
    tables = names(
        connection,
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')",
    )
    assert {*HISTORY, *DELETED_FROM, *READ_ONLY} <= tables
    source = Path(tokenworks.__file__).parent
    code = "".join(path.read_text() for path in source.rglob("*store.py"))
    assert set(re.findall(r"DELETE FROM (\w+)", code)) == set(DELETED_FROM) - {
        "model_card",
        "model_facts",
        "model_intent",
    }
    forgotten = {
        (table, column)
        for table, column in re.findall(r"UPDATE (\w+) SET (\w+) = %(?:\(gone\))?s", code)
        if table in HISTORY
    }
    assert forgotten == {(table, column) for table, columns in HISTORY.items() for column in columns}


def test_history_refuses_change_to_the_role_that_serves_in_every_partition(connection):
    connection.execute("SELECT ensure_usage_month('2031-02-03')")
    found = parts(connection)
    assert {"usage", "usage_203102", "posting_h3", "audit"} <= found
    for part in found:
        rights = connection.execute(
            """SELECT has_table_privilege(%(t)s, 'UPDATE'), has_table_privilege(%(t)s, 'DELETE'),
                   has_table_privilege(%(t)s, 'TRUNCATE'), has_table_privilege(%(t)s, 'TRIGGER'),
                   has_table_privilege(%(t)s, 'REFERENCES'), has_table_privilege(%(t)s, 'MAINTAIN')""",
            {"t": part},
        ).fetchone()
        assert rights == (False,) * 6, part
        column = connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum = 1", (part,)
        ).fetchone()[0]
        for statement in (
            f"UPDATE {part} SET {column} = {column}", f"DELETE FROM {part}", f"TRUNCATE {part} CASCADE",
            f"ALTER TABLE {part} DISABLE TRIGGER ALL", f"ALTER TABLE {part} ADD COLUMN more int", f"DROP TABLE {part} CASCADE",
            f"CREATE TRIGGER mine BEFORE INSERT ON {part} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        ):  # fmt: skip
            with pytest.raises(DENIED):
                connection.execute(statement)


def test_a_text_that_an_erasure_takes_is_all_that_it_may_change(connection):
    """By column; that the text becomes `(erased)` and no other is the trigger's, which the role can't switch off."""
    allowed = connection.execute(
        """SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
           WHERE c.relname = ANY(%s) AND NOT a.attisdropped AND has_column_privilege(c.oid, a.attnum, 'UPDATE') ORDER BY 1""",
        (list(HISTORY),),
    ).fetchall()
    assert dict(allowed) == {table: columns[0] for table, columns in HISTORY.items() if columns}
    with pytest.raises(DENIED):
        connection.execute("SET session_replication_role = replica")


def test_the_role_owns_nothing_and_makes_nothing(connection, owner):
    assert connection.execute(
        "SELECT count(*) FROM pg_class WHERE relowner = current_user::regrole"
    ).fetchone() == (0,)
    for statement in (
        "CREATE TABLE mine (n int)", "CREATE FUNCTION format(text, bigint, text) RETURNS text LANGUAGE sql AS 'SELECT $1'",
        "CREATE ROLE mine", "CREATE DATABASE mine", f"SET ROLE {owner.info.user}", "SELECT refuse_truncate_of('account')",
        "INSERT INTO schema_step VALUES ('9', '9')", "UPDATE alembic_version SET version_num = '9'", "DELETE FROM charge",
        "UPDATE sealing SET done_at = now()", "DELETE FROM bucket", "TRUNCATE account CASCADE", "COPY audit TO PROGRAM 'true'",
    ):  # fmt: skip
        with pytest.raises(DENIED):
            connection.execute(statement)
    # What it asks of the database beside tables.
    assert re.fullmatch(r"\d+:[0-9A-F]{8}", database_identity(connection))
    assert check_role(connection, single_role=False) is False


def test_a_month_that_settlement_needs_is_made_and_is_the_owners(connection):
    month = datetime(2033, 7, 9, tzinfo=UTC)
    settle_store.ensure_usage_months(connection, {month})
    settle_store.ensure_usage_months(connection, {month})
    made = connection.execute(
        """SELECT pg_get_userbyid(relowner) <> current_user, has_table_privilege(oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE'),
               (SELECT count(*) FROM pg_trigger WHERE tgrelid = c.oid AND tgname IN ('usage_is_history', 'history_is_not_emptied'))
           FROM pg_class c WHERE relname = 'usage_203307'"""
    ).fetchall()
    assert made == [(True, False, 2)]


def test_temporary_tables_do_not_lead_the_owners_function_astray(connection):
    connection.execute("CREATE TEMP TABLE pg_class (oid oid, relpartbound text)")
    for name in ("usage", "usage_203401", "usage_two_levels"):
        connection.execute(f"CREATE TEMP TABLE {name} (n int)")
    connection.execute("SET search_path = pg_temp, public")
    connection.execute("SELECT public.ensure_usage_month('2034-01-05')")
    assert connection.execute(
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'public.usage'::regclass AND inhrelid = 'public.usage_203401'::regclass"
    ).fetchone() == (1,)


# What `init` does.


def test_the_owner_makes_the_role_once_and_grants_what_is_missing_alone(owner, owner_url, database_url):
    with contextlib.closing(connect(database_url)) as connection:
        role = connection.info.user
        said = list(roles._grant_statements(owner, role))
        assert said == []
        # What was given by hand is taken, what was taken is given.
        owner.execute(f"GRANT ALL ON payment, posting_h0 TO {role}")
        owner.execute(f"REVOKE SELECT ON bucket FROM {role}")
        owner.execute(f"GRANT UPDATE (amount) ON posting TO {role}")
        owner.execute("GRANT EXECUTE ON FUNCTION ensure_usage_month TO PUBLIC")
        with pytest.raises(Invalid, match="could change history: it has the right to change payment"):
            check_role(connection, single_role=False)
        assert check_role(connection, single_role=True) is True
        for _ in range(2):
            assert migrate(owner_url, app_url=database_url) == schema.SCHEMA
            assert list(roles._grant_statements(owner, role)) == []
        assert check_role(connection, single_role=False) is False
        owner.execute(f"GRANT UPDATE (amount) ON posting TO {role}")
        with pytest.raises(Invalid, match=r"the right to change posting\.amount"):
            check_role(connection, single_role=False)
        grant_tables(owner, role)
        owner.execute(f"REVOKE INSERT ON audit FROM {role}")
        with pytest.raises(Unavailable, match="no right to INSERT audit: run `tokenworks init`"):
            check_role(connection, single_role=False)
        owner.execute(f"REVOKE ALL ON alembic_version FROM {role}")
        with pytest.raises(Unavailable, match="no rights in it yet: run `tokenworks init`"):
            check_schema(connection)


def test_a_new_table_is_granted_in_the_transaction_that_makes_it(owner_url, database_url, tmp_path):
    """A host that serves while the schema is changed finds what its triggers write."""
    made = tmp_path / "migrations"
    (made / "versions").mkdir(parents=True)
    for path in (schema.MIGRATIONS, schema.MIGRATIONS / "versions"):
        for file in path.glob("*.py"):
            (made / file.relative_to(schema.MIGRATIONS)).write_bytes(file.read_bytes())
    (made / "versions" / "9001_next.py").write_text(
        f'"""Next."""\nfrom alembic import op\nrevision = "9001"\ndown_revision = "{schema.SCHEMA}"\nCOMPATIBLE_FROM = down_revision\n'
        'def upgrade():\n    op.execute("CREATE TABLE later (n int)")\n'
        "def backfill(connection, after):\n    assert connection.execute(\n"
        f"        \"SELECT has_table_privilege('{user_of(database_url)}', 'later', 'INSERT')\").fetchone() == (True,)\n"
    )
    assert migrate(owner_url, app_url=database_url, folder=made) == "9001"
    with contextlib.closing(connect(database_url)) as connection:
        connection.execute("INSERT INTO later VALUES (1)")
        with pytest.raises(DENIED):
            connection.execute("DELETE FROM later")
        check_schema(connection)
        assert check_role(connection, single_role=False) is False
    # This release's `init` on the younger schema leaves it as its own release granted it.
    with contextlib.closing(connect(owner_url)) as owner:
        owner.execute(f"REVOKE UPDATE ON later FROM {user_of(database_url)}")
        migrate(owner_url, app_url=database_url)
        assert len(list(roles._grant_statements(owner, user_of(database_url)))) == 1


@pytest.fixture
def other_role(cluster):
    """The name of a role that is nowhere yet, and gone at the end."""
    name = f"other_{uuid7().hex}"
    yield name
    drop_role(cluster, name)


def test_a_role_that_is_made_logs_in_with_the_password_of_its_url(owner, owner_url, other_role):
    url = as_role(owner_url, other_role, "s3cret%2Fword")
    assert user_of(url) == other_role
    for _ in range(2):
        assert make_role(owner, url) == other_role
    secret = owner.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (other_role,)).fetchone()[
        0
    ]
    assert secret.startswith("SCRAM-SHA-256$")
    verifier = owner.pgconn.encrypt_password(b"s3cret/word", other_role.encode(), b"scram-sha-256").decode()
    assert verifier.split("$")[1].split(":")[0] == secret.split("$")[1].split(":")[0]
    owner.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(other_role)))


def test_an_owner_who_may_not_make_roles_is_told_what_an_administrator_has_to_run(
    empty_url,  # noqa: F811
    other_role,
):
    """As at a provider that manages the database: its owner is no superuser."""
    with contextlib.closing(connect(empty_url)) as superuser:
        owner = f"owner_{uuid7().hex}"
        superuser.execute(f"CREATE ROLE {owner} LOGIN PASSWORD 'x'")
        try:
            superuser.execute("REVOKE CONNECT, TEMP ON DATABASE " + superuser.info.dbname + " FROM PUBLIC")
            superuser.execute("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
            superuser.execute(f"GRANT CONNECT ON DATABASE {superuser.info.dbname} TO {owner}")
            superuser.execute(f"GRANT USAGE ON SCHEMA public TO {owner}")
            # As databases of before PostgreSQL 15 have it.
            superuser.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
            owner_url, app_url = as_role(empty_url, owner, "x"), as_role(empty_url, other_role, "y")
            with pytest.raises(
                Invalid, match=f"has to run: CREATE ROLE \"{other_role}\" LOGIN PASSWORD '…';"
            ):
                migrate(owner_url, app_url=app_url)
            superuser.execute(f"CREATE ROLE {other_role} LOGIN PASSWORD 'y'")
            with pytest.raises(
                Invalid, match=r"GRANT CONNECT ON DATABASE .* GRANT USAGE ON SCHEMA public TO"
            ):
                migrate(owner_url, app_url=app_url)
            superuser.execute(f"GRANT CONNECT ON DATABASE {superuser.info.dbname} TO {other_role}")
            superuser.execute(f"GRANT USAGE ON SCHEMA public TO {other_role}")
            with pytest.raises(
                Invalid,
                match=f'run: GRANT CREATE ON SCHEMA public TO "{owner}"; REVOKE CREATE ON SCHEMA public FROM PUBLIC',
            ):
                migrate(owner_url, app_url=app_url)
            superuser.execute(f"GRANT CREATE ON SCHEMA public TO {owner}")
            superuser.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
            # Nothing was begun before all that was there.
            assert schema.current_revision(superuser) is None
            assert migrate(owner_url, app_url=app_url) == schema.SCHEMA
            with contextlib.closing(connect(app_url)) as connection:
                check_schema(connection)
                assert check_role(connection, single_role=False) is False
                connection.execute("SELECT ensure_usage_month('2031-02-03')")
            with contextlib.closing(connect(owner_url)) as connection:
                with pytest.raises(Invalid, match="could change history: it owns"):
                    check_role(connection, single_role=False)
        finally:
            for role in (owner, other_role):
                superuser.execute(
                    f"DO $$ BEGIN IF to_regrole('{role}') IS NOT NULL THEN DROP OWNED BY {role} CASCADE; END IF; END $$"
                )
            superuser.execute(f"DROP ROLE {owner}")


@pytest.mark.parametrize(
    ("given", "taken", "why"),
    [
        ("GRANT {owner} TO {role}", "REVOKE {owner} FROM {role}", "it owns audit"),
        ("GRANT pg_write_all_data TO {role}", "REVOKE pg_write_all_data FROM {role}", "the right to change"),
        ("GRANT UPDATE ON posting_h1 TO PUBLIC", "REVOKE UPDATE ON posting_h1 FROM PUBLIC", "the right to change posting_h1"),
        ("GRANT CREATE ON SCHEMA public TO PUBLIC", "REVOKE CREATE ON SCHEMA public FROM PUBLIC", "in the schema public"),
        ("ALTER ROLE {role} CREATEROLE", "ALTER ROLE {role} NOCREATEROLE", "it may make roles"),
        ("GRANT pg_execute_server_program TO {role}", "REVOKE pg_execute_server_program FROM {role}", "pg_execute_server_program"),
        ("ALTER ROLE {role} SUPERUSER", "ALTER ROLE {role} NOSUPERUSER", "it is a superuser"),
    ],
)  # fmt: skip
def test_a_role_that_could_change_history_is_refused_with_the_reason(
    owner, owner_url, other_role, given, taken, why
):
    url = as_role(owner_url, other_role, "x")
    migrate(owner_url, app_url=url)
    try:
        if "{owner}" in given:
            # A member of the owner: here of a role that owns one table of history.
            owner.execute(f"CREATE ROLE owns_{other_role}")
            owner.execute(f"ALTER TABLE audit OWNER TO owns_{other_role}")
        fill = {"owner": f"owns_{other_role}", "role": other_role}
        owner.execute(given.format(**fill))
        with contextlib.closing(connect(url)) as connection:
            with pytest.raises(Invalid, match=why) as refused:
                check_role(connection, single_role=False)
            assert "--single-role" in str(refused.value)
            assert check_role(connection, single_role=True) is True
        owner.execute(taken.format(**fill))
        with contextlib.closing(connect(url)) as connection:
            assert check_role(connection, single_role=False) is False
    finally:
        if "{owner}" in given:
            owner.execute(f"REASSIGN OWNED BY owns_{other_role} TO CURRENT_USER")
            owner.execute(f"DROP ROLE owns_{other_role}")
        owner.execute(f"DROP OWNED BY {other_role}")


def test_who_logs_in_as_the_owner_and_takes_the_roles_name_is_the_owner(owner_url, database_url):
    with psycopg.connect(
        owner_url, autocommit=True, options=f"-c role={user_of(database_url)}"
    ) as connection:
        assert connection.execute("SELECT current_user").fetchone() == (user_of(database_url),)
        with pytest.raises(Invalid, match="could change history"):
            check_role(connection, single_role=False)


def test_a_dump_is_restored_without_roles_and_init_gives_them_again(services, owner_url, empty_url, tmp_path):  # noqa: F811
    """As the runbook says: by the owner, without privileges."""
    made = services.subscriptions.register("+8613800000001")
    services.orders.place(made, "ctc-light")
    tools, dump = Embedded(tmp_path)._bin(), tmp_path / "dump"
    for command in (
        ("pg_dump", "-Fc", "-f", dump, owner_url),
        ("pg_restore", "--no-owner", "--no-privileges", "--exit-on-error", "-d", empty_url, dump),
    ):
        done = subprocess.run([tools / command[0], *command[1:]], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    with contextlib.closing(connect(as_app(empty_url))) as connection:
        with pytest.raises(Unavailable, match="no rights in it yet: run `tokenworks init`"):
            check_schema(connection)
        migrate(empty_url, app_url=as_app(empty_url))
        check_schema(connection)
        assert check_role(connection, single_role=False) is False
        assert connection.execute("SELECT count(*) FROM entry").fetchone()[0] > 0
        connection.execute("SELECT ensure_usage_month('2031-02-03')")


# Settings and doors.


def test_init_wants_the_owner_beside_the_role_that_serves():
    def place(**options):
        with owned_database(load_settings(options, {}).settings) as found:
            return found

    app, owner = "postgresql://tokenworks_app:a@db/works", "postgresql://boss:b@db/works"
    assert place(database_url=app, database_owner_url=owner) == (owner, app, False)
    for options in (
        {"database_url": app}, {"database_url": owner, "database_owner_url": owner},
    ):  # fmt: skip
        with pytest.raises(Invalid, match="name the owner's URL in database_owner_url"):
            place(**options)
    assert place(database_url=owner, single_role=True) == (owner, owner, True)
    with pytest.raises(Invalid, match="goes with database_url"):
        load_settings({"database_owner_url": owner}, {})


def test_a_release_without_roles_is_taken_to_one_with_them(tmp_path, empty_url):  # noqa: F811
    """As the runbook says: first as it was, by --single-role, then `init` with the owner's URL, then the role that serves."""
    app_url = as_app(empty_url)
    server = Server(tmp_path, env={"TOKENWORKS_DATABASE_URL": empty_url})
    refused = server.cli("init", check=False)
    assert refused.returncode == 1 and "database_owner_url" in refused.stderr
    assert server.cli("--single-role", "init").returncode == 0
    refused = server.cli("subscriber", "list", check=False)
    assert refused.returncode == 1 and "could change history" in refused.stderr
    refused = server.cli("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", check=False)
    assert refused.returncode == 1 and "could change history" in refused.stderr
    said = server.cli("--single-role", "ledger", "verify", "--json")
    assert '"single_role": true' in said.stdout
    said = server.cli("--single-role", "ledger", "verify")
    assert "could change history (single_role)" in said.stdout
    # With the schema that is there, the role has no rights yet.
    server.env = {"TOKENWORKS_DATABASE_URL": app_url}
    refused = server.cli("subscriber", "list", check=False)
    assert refused.returncode == 1 and "run `tokenworks init`" in refused.stderr
    server.env = {"TOKENWORKS_DATABASE_URL": app_url, "TOKENWORKS_DATABASE_OWNER_URL": empty_url}
    for _ in range(2):
        assert server.cli("init").returncode == 0
    shown = server.cli("config", "show", "--json").stdout
    assert empty_url not in shown and "********" in shown
    server.env = {"TOKENWORKS_DATABASE_URL": app_url}
    assert '"single_role": false' in server.cli("ledger", "verify", "--json").stdout


def test_a_server_runs_as_the_role_and_says_so(server):
    found = server.connection.execute(
        "SELECT DISTINCT usename::text FROM pg_stat_activity WHERE datname = 'tokenworks' AND backend_type = 'client backend'"
    ).fetchall()
    assert found == [("tokenworks_app",)]
    assert server.metrics("single_role") == [0]
    with pytest.raises(DENIED):
        server.connection.execute("TRUNCATE usage")


def test_an_embedded_database_of_before_gets_the_role_by_init(tmp_path, upstream):
    server = Server(tmp_path)
    with server:
        server.stop()
        with server.owner() as owner:
            server.connection.close()
            # As a release without roles left it.
            owner.execute("DROP OWNED BY tokenworks_app")
            owner.execute("DROP ROLE tokenworks_app")
        refused = server.cli("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", check=False)
        assert refused.returncode == 1
        assert "the database has no role tokenworks_app yet: run `tokenworks init` first" in refused.stderr
        server.init()
        server.connection = connect(server.url)
        server.start()
        assert server.metrics("single_role") == [0]
        # A single role is for a database of one's own; nothing here takes the owner.
        server.connection.close()
