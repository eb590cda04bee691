"""The two roles of the database: the owner, for `init` alone, and the app's role, for `serve` and all other commands.

The app's role may add rows to history and read them; it has no right to change, delete or truncate them. It owns nothing, so it can't
switch a trigger off. Rights are granted on tables: a partition is used through its table, and has no grant of its own.

Where one role is both (`single_role`), only triggers protect history, and an owner can drop triggers.
"""

import os
from collections.abc import Callable, Iterator
from typing import Final

import psycopg
from psycopg import Connection, pq, sql
from psycopg.conninfo import conninfo_to_dict

from tokenworks.app.database.embedded import APP_ROLE
from tokenworks.kernel import Invalid, Unavailable

# Tables of history, each with the columns whose text an erasure overwrites: the table's trigger allows the text `(erased)` alone.
HISTORY: Final[dict[str, tuple[str, ...]]] = {
    "audit": (),
    "bill_line": (),
    "chain_link": (),
    "consent": (),
    "credit_note": ("reason",),
    "entry": (),
    "offering": (),
    "payment": ("reason",),
    "payment_reversal": ("reason",),
    "payout": (),
    "phone_history": (),
    "posting": (),
    "rate_card": (),
    "transfer": ("reason",),
    "usage": (),
}
# Tables from which rows are deleted, when they are over or a person removes them. No other table loses rows.
DELETED_FROM: Final = (
    "account_loss", "balance_mark", "change", "content_log", "failed_job", "hub_delivery", "hub_event", "kept_answer", "limit_lease", "model_alias", "model_card",
    "model_facts", "model_intent", "notice_address", "notice_choice", "notice_delivery", "notice_request", "notification",
    "offering_current", "offering_draft", "passkey", "passkey_challenge", "person_key", "rate_limit", "recall", "replay_answer", "session",
    "sign_in_code", "staff_attempt", "staff_oidc_state", "staff_session",
    "window_use",
)  # fmt: skip
# Tables that only `init` writes.
READ_ONLY: Final = ("alembic_version", "schema_backfill", "schema_step", "sealing")
MONTHS: Final = "ensure_usage_month(timestamptz)"


def user_of(url: str) -> str:
    """The role that a URL names, or libpq's default where it names none."""
    named = conninfo_to_dict(url).get("user") or os.environ.get("PGUSER")
    if named:
        return str(named)
    return next((d.val or b"").decode() for d in pq.Conninfo.get_defaults() if d.keyword == b"user")


def _privileges(table: str) -> set[str]:
    if table in READ_ONLY:
        return {"SELECT"}
    if table in HISTORY:
        return {"SELECT", "INSERT"}
    return {"SELECT", "INSERT", "UPDATE"} | ({"DELETE"} if table in DELETED_FROM else set())


# For `init`, as the owner.


def make_role(connection: Connection, url: str) -> str:
    """Make the role of `url`, where it does not exist, and let it connect. Returns its name.

    The server gets only a verifier of the password. Raises `Invalid`, with the statements that an administrator has to run, where the
    owner lacks a right.
    """
    role, password = user_of(url), conninfo_to_dict(url).get("password")
    if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
        secret = None
        if password:
            secret = connection.pgconn.encrypt_password(str(password).encode(), role.encode()).decode()
        make = sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role))
        try:
            connection.execute(
                make if secret is None else sql.SQL("{} PASSWORD {}").format(make, sql.Literal(secret))
            )
        except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            pass  # another `init` at the same moment
        except psycopg.errors.InsufficientPrivilege:
            shown = " PASSWORD '…'" if password else ""
            raise _administrator([f"{make.as_string(connection)}{shown}"]) from None
    _run(connection, lambda: _connect_statements(connection, role))
    return role


def grant_tables(connection: Connection, role: str) -> None:
    """Grant the rights that the app's role needs on each table, and revoke all others. Runs no statement where the rights are right."""
    _run(connection, lambda: _grant_statements(connection, role))


def _run(connection: Connection, statements: Callable[[], Iterator[sql.Composed]]) -> None:
    """Run the statements that are necessary. Raises `Invalid` with the statements that this role may not run."""
    for statement in (wanted := list(statements())):
        try:
            with connection.transaction():
                connection.execute(statement)
        except psycopg.errors.InsufficientPrivilege:
            break
    # PostgreSQL answers some forbidden grants with a warning alone, so the statements are listed again.
    if wanted and (left := list(statements())):
        raise _administrator([statement.as_string(connection) for statement in left])


def _administrator(statements: list[str]) -> Invalid:
    return Invalid(
        f"the role of database_owner_url may not do this; an administrator of the database has to run: {'; '.join(statements)}; "
        "then run `tokenworks init` again"
    )


def _connect_statements(connection: Connection, role: str) -> Iterator[sql.Composed]:
    row = connection.execute(
        """SELECT current_database(), has_database_privilege(%(r)s, current_database(), 'CONNECT'),
               has_schema_privilege(%(r)s, 'public', 'USAGE'),
               coalesce(bool_or(a.grantee = 0), false),
               pg_has_role(current_user, n.nspowner, 'USAGE') OR coalesce(bool_or(a.grantee = current_user::regrole), false), current_user
           FROM pg_namespace n LEFT JOIN LATERAL aclexplode(n.nspacl) a ON a.privilege_type = 'CREATE'
           WHERE n.nspname = 'public' GROUP BY n.oid, n.nspowner""",
        {"r": role},
    ).fetchone()
    assert row is not None
    to = sql.Identifier(role)
    if not row[1]:
        yield sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(row[0]), to)
    if not row[2]:
        yield sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(to)
    if row[3]:
        # Before PostgreSQL 15 every role may make functions in `public`, and the owner's functions could call them.
        if not row[4]:
            yield sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(sql.Identifier(row[5]))
        yield sql.SQL("REVOKE CREATE ON SCHEMA public FROM PUBLIC").format()


def _grant_statements(connection: Connection, role: str) -> Iterator[sql.Composed]:
    to = sql.Identifier(role)
    rows = connection.execute(
        """SELECT c.relname, c.relispartition, coalesce(array_agg(a.privilege_type) FILTER (WHERE a.grantee IS NOT NULL), '{}'),
               ARRAY(SELECT attname::text FROM pg_attribute t CROSS JOIN aclexplode(t.attacl) x
                     WHERE t.attrelid = c.oid AND x.grantee = %(r)s::regrole AND x.privilege_type = 'UPDATE')
           FROM pg_class c LEFT JOIN LATERAL aclexplode(c.relacl) a ON a.grantee = %(r)s::regrole
           WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') GROUP BY c.oid ORDER BY c.relname""",
        {"r": sql.Identifier(role).as_string(connection)},
    ).fetchall()
    for table, is_partition, has, columns in rows:
        wanted = set() if is_partition else _privileges(table)
        more, less = sorted(set(has) - wanted), sorted(wanted - set(has))
        on = sql.Identifier(table)
        if more:
            yield sql.SQL("REVOKE {} ON {} FROM {}").format(sql.SQL(", ".join(more)), on, to)
        if less:
            yield sql.SQL("GRANT {} ON {} TO {}").format(sql.SQL(", ".join(less)), on, to)
        texts = () if is_partition else HISTORY.get(table, ())
        # A REVOKE on the table also revokes the rights on its columns.
        for column in texts if "UPDATE" in more else sorted(set(texts) - set(columns)):
            yield sql.SQL("GRANT UPDATE ({}) ON {} TO {}").format(sql.Identifier(column), on, to)
        for column in sorted(set(columns) - set(texts)):
            yield sql.SQL("REVOKE UPDATE ({}) ON {} FROM {}").format(sql.Identifier(column), on, to)
    row = connection.execute(
        """SELECT proacl IS NULL OR EXISTS (SELECT 1 FROM aclexplode(proacl) WHERE grantee = 0),
               EXISTS (SELECT 1 FROM aclexplode(proacl) WHERE grantee = %s::regrole)
           FROM pg_proc WHERE oid = to_regprocedure(%s)""",
        (sql.Identifier(role).as_string(connection), MONTHS),
    ).fetchone()
    function = sql.SQL(MONTHS)
    if row is not None and row[0]:
        yield sql.SQL("REVOKE ALL ON FUNCTION {} FROM PUBLIC").format(function)
    if row is not None and not row[1]:
        yield sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(function, to)


# For every other process, once, when it connects.


def check_role(connection: Connection, *, single_role: bool) -> bool:
    """True where the role of this connection may change history. Raises `Invalid` where it may and `single_role` does not allow that,
    and `Unavailable` where the role lacks a right that `init` grants.
    """
    role, why = _may_change_history(connection)
    if why is None:
        lacks = _lacks(connection)
        if lacks is not None:
            raise Unavailable(f"the database's role {role} has no right to {lacks}: run `tokenworks init`")
        return False
    if not single_role:
        raise Invalid(
            f"the database's role {role} could change history: {why}. Run `tokenworks init` with database_owner_url, then connect as "
            f"{APP_ROLE} (docs/RUNBOOK.md, The database's roles), or allow it with --single-role"
        )
    return True


def _may_change_history(connection: Connection) -> tuple[str, str | None]:
    """(the role that logged in, why it could change history or have it changed; None where it can't)"""
    row = connection.execute(
        """WITH part AS (
               SELECT c.oid, c.relowner, c.relacl, c.relispartition FROM pg_class c JOIN (
                   SELECT h::regclass AS relid FROM unnest(%s::text[]) h
                   UNION SELECT t.relid FROM unnest(%s::text[]) h CROSS JOIN pg_partition_tree(h::regclass) t) all_of ON all_of.relid = c.oid)
           SELECT session_user, r.rolsuper, r.rolcreaterole,
               (SELECT min(w) FROM unnest(ARRAY['pg_execute_server_program', 'pg_write_server_files']) w
                WHERE pg_has_role(session_user, w, 'MEMBER')),
               (SELECT min(oid::regclass::text) FROM part WHERE pg_has_role(session_user, relowner, 'MEMBER')),
               (SELECT min(oid::regclass::text) FROM part WHERE (relacl IS NOT NULL OR NOT relispartition)
                    AND has_table_privilege(session_user, oid, 'UPDATE, DELETE, TRUNCATE, TRIGGER')),
               (SELECT min(attrelid::regclass::text || '.' || attname) FROM pg_attribute JOIN part ON part.oid = attrelid
                WHERE attacl IS NOT NULL AND has_column_privilege(session_user, attrelid, attnum, 'UPDATE')
                    AND attrelid::regclass::text || '.' || attname <> ALL (%s)),
               (SELECT pg_has_role(session_user, nspowner, 'MEMBER') OR has_schema_privilege(session_user, oid, 'CREATE')
                FROM pg_namespace WHERE nspname = 'public')
           FROM pg_roles r WHERE r.rolname = session_user""",
        (
            list(HISTORY),
            list(HISTORY),
            [f"{table}.{name}" for table, names in HISTORY.items() for name in names],
        ),
    ).fetchone()
    assert row is not None
    role, superuser, makes_roles, server, owned, granted, column, schema = row
    reasons = (
        (superuser, "it is a superuser"),
        (owned, f"it owns {owned}, or is a member of the role that does"),
        (granted or column, f"it has the right to change {granted or column}"),
        (schema, "it may make or drop what is in the schema public"),
        (makes_roles, "it may make roles (CREATEROLE)"),
        (server, f"it is a member of {server}"),
    )
    return str(role), next((why for applies, why in reasons if applies), None)


def _lacks(connection: Connection) -> str | None:
    """A right that this release needs and the role of this connection lacks. Tables that are not named here need to be readable only:
    a table of a newer schema may be history to its release.
    """
    rows = connection.execute(
        """SELECT relname FROM pg_class
           WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY 1"""
    ).fetchall()
    wanted = [
        (table, privilege)
        for (table,) in rows
        for privilege in sorted(
            _privileges(table) if table in HISTORY or table in DELETED_FROM else {"SELECT"}
        )
    ]
    row = connection.execute(
        """SELECT privilege || ' ' || name FROM unnest(%s::text[], %s::text[]) w(name, privilege)
           WHERE NOT has_table_privilege(quote_ident(name), privilege)
           UNION ALL SELECT 'EXECUTE ' || m FROM unnest(ARRAY[%s]) m WHERE NOT has_function_privilege(m, 'EXECUTE') LIMIT 1""",
        ([table for table, _ in wanted], [privilege for _, privilege in wanted], MONTHS),
    ).fetchone()
    return None if row is None else str(row[0])
