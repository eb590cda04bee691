"""The address of the database, connections to it, and what the database says of itself."""

import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, LiteralString, NamedTuple

import psycopg
from psycopg import Connection

from tokenworks.app.database.embedded import APP_ROLE, Embedded
from tokenworks.app.database.roles import user_of
from tokenworks.app.database.waiting import CONNECT_TIMEOUT_S, KEEPALIVES
from tokenworks.app.settings import Settings
from tokenworks.kernel import AnchoredClock, Invalid, Unavailable

USAGE_MONTHS_AHEAD: Final = 3


def check_installed(settings: Settings) -> None:
    """Raises `Invalid` where the data directory is not there."""
    if not settings.database_url and not settings.data_dir.exists():
        raise Invalid(f"there is nothing in {settings.data_dir} yet: run `tokenworks init` first")


@contextlib.contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The database's URL: the configured one, or that of the embedded server, which runs while the context lasts."""
    if settings.database_url:
        yield settings.database_url
        return
    with embedded_of(settings).use() as url:
        yield url


def hold_embedded(settings: Settings) -> int:
    """A descriptor that keeps the embedded server running as long as it is open; -1 for another server. Called while `database` lasts.
    The holder of the descriptor needs no connection.
    """
    return -1 if settings.database_url else embedded_of(settings).hold()


def embedded_of(settings: Settings) -> Embedded:
    """The embedded cluster of these settings, whether or not it runs."""
    return Embedded(settings.data_dir, embedded_options(settings))


def embedded_options(settings: Settings) -> dict[str, str]:
    """Options of the embedded server beside its fixed ones."""
    fast = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    return {} if settings.embedded_fsync else fast


class OwnedDatabase(NamedTuple):
    """A database for `init`: the owner's URL, the URL of the role that serves, and whether both have one role."""

    owner_url: str
    url: str
    single_role: bool


@contextlib.contextmanager
def owned_database(settings: Settings) -> Iterator[OwnedDatabase]:
    """The database with its owner's URL, up while the context lasts. Raises `Invalid` where the settings name no owner."""
    url, owner_url = settings.database_url, settings.database_owner_url
    if url is None:
        embedded = embedded_of(settings)
        with embedded.use() as url:
            yield OwnedDatabase(embedded.owner_url, url, single_role=False)
        return
    single = owner_url is None or user_of(owner_url) == user_of(url)
    if single and not settings.single_role:
        raise Invalid(
            "`init` connects as the database's owner, all else as a role that may not change history: name the owner's URL in "
            f"database_owner_url and one of another role, such as {APP_ROLE}, in database_url (docs/RUNBOOK.md, The database's roles), "
            "or allow one role for both with --single-role"
        )
    yield OwnedDatabase(owner_url or url, url, single)


def connect(url: str) -> Connection:
    """A connection with autocommit: a transaction is what `with connection.transaction()` spans."""
    try:
        return psycopg.connect(
            url,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="tokenworks",
            **KEEPALIVES,
        )
    except psycopg.OperationalError as error:
        said = str(error).strip().splitlines()[-1]
        if re.search(r'role "[^"]*" does not exist', said):
            raise Unavailable(
                f"the database has no role {user_of(url)} yet: run `tokenworks init` first"
            ) from error
        raise Unavailable(f"the database does not answer: {said}") from error


def second_connection(connection: Connection) -> contextlib.closing[Connection]:
    """Another connection to the same database. Rows written on it stay when a transaction on `connection` is rolled back."""
    info = connection.info
    return contextlib.closing(
        psycopg.connect(
            info.dsn,
            password=info.password or None,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            **KEEPALIVES,
        )
    )


def connect_planned(url: str) -> Connection:
    """As `connect`, for a few statements that repeat: each is planned once, whatever its parameters are.

    Planning a statement over partitions costs ten times its execution (0.4 ms against 0.03 ms for loading an account's terms).
    """
    connection = connect(url)
    connection.execute("SET plan_cache_mode = force_generic_plan")
    return connection


def ask_each_node(connection: Connection, question: LiteralString) -> dict[str, str]:
    """The answer of each node of the database to a query with one text column, by node. Raises `Unavailable` where a node does not answer.

    A plain PostgreSQL is one node, ``. Citus runs the query on each node (`run_command_on_all_nodes`, since its version 11): the answer
    of its coordinator says nothing about the nodes that have the rows. With another engine only the node of the URL is asked.
    """
    row = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM pg_proc WHERE proname = %s AND pronamespace = 'pg_catalog'::regnamespace)",
        ("run_command_on_all_nodes",),
    ).fetchone()
    if row is None or not row[0]:
        answer = connection.execute(question).fetchone()
        return {"": "" if answer is None else str(answer[0])}
    rows = connection.execute(
        "SELECT nodeid, success, result FROM run_command_on_all_nodes(%s) ORDER BY nodeid", (question,)
    ).fetchall()
    for node, answered, result in rows:
        if not answered:
            raise Unavailable(f"node {node} of the database does not answer: {result}".splitlines()[0])
    return {str(node): str(result) for node, _, result in rows}


def database_identity(connection: Connection) -> str:
    """The system identifier and the timeline of each node: the text changes with a fail-over and with a restore. Empty where the
    database does not say.
    """
    try:
        answers = ask_each_node(
            connection,
            """SELECT system_identifier || ':' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
               FROM pg_control_system()""",
        )
    except (
        psycopg.errors.UndefinedFunction,
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.ObjectNotInPrerequisiteState,
    ):
        return ""
    return " ".join(f"{node}={answer}" if node else answer for node, answer in answers.items())


class ArchiveState(NamedTuple):
    """What PostgreSQL reports of its archive: files archived, failures, and for how long archiving has failed (0: it works)."""

    files: int
    failures: int
    behind_s: float
    last_file: str
    is_on: bool


def archive_state(connection: Connection) -> ArchiveState:
    """Every role has the right to this query."""
    row = connection.execute(
        """SELECT archived_count, failed_count, coalesce(last_archived_wal, ''), current_setting('archive_mode') <> 'off',
                  CASE WHEN last_failed_time > coalesce(last_archived_time, '-infinity')
                       THEN extract(epoch FROM now() - coalesce(last_archived_time, stats_reset)) ELSE 0 END
           FROM pg_stat_archiver"""
    ).fetchone()
    assert row is not None
    return ArchiveState(row[0], row[1], max(0.0, float(row[4] or 0)), row[2], row[3])


def anchor_clock(clock: AnchoredClock, connection: Connection) -> None:
    """Set a clock by the database's clock, which is the same for all hosts."""
    asked_ns = clock.boot_ns()
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    clock.anchor(row[0], asked_ns)


def ensure_usage_months(connection: Connection, now: datetime | None = None) -> None:
    """Make the partitions for this month, by the database's clock, and for the next ones. Idempotent; called at start and by the jobs."""
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    month = (now or row[0]).astimezone(UTC).replace(day=1)
    for _ in range(USAGE_MONTHS_AHEAD + 1):
        connection.execute("SELECT ensure_usage_month(%s)", (month,))
        month = (month + timedelta(days=32)).replace(day=1)
