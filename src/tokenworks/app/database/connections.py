"""Where the database is, its schema, and connections to it."""

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
    """The database's URL: the configured one, or that of the embedded server, up while the context lasts."""
    if settings.database_url:
        yield settings.database_url
        return
    with embedded_of(settings).use() as url:
        yield url


def hold(settings: Settings) -> int:
    """A descriptor that keeps the embedded server up as long as it is open, taken while `database` lasts; -1 where it is another
    server, which needs nobody. Whoever has it asks nothing of the database.
    """
    return -1 if settings.database_url else embedded_of(settings).hold()


def embedded_of(settings: Settings) -> Embedded:
    """The embedded cluster of these settings, up or not."""
    return Embedded(settings.data_dir, embedded_options(settings))


def embedded_options(settings: Settings) -> dict[str, str]:
    """The server's own settings, beside those that each has."""
    fast = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    return {} if settings.embedded_fsync else fast


class OwnedDatabase(NamedTuple):
    """A database for `init`: the owner's URL, the URL that serves, and whether both are of one role."""

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


def beside(connection: Connection) -> contextlib.closing[Connection]:
    """Another connection to the same database: what is written there stays, whatever becomes of a transaction here."""
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
    """As `connect`, for few statements that are made over and over: each is planned once, whatever its parameters are.

    To plan a statement over partitions costs ten times what it costs to run it (0.4 ms against 0.03 ms of a load of terms).
    """
    connection = connect(url)
    connection.execute("SET plan_cache_mode = force_generic_plan")
    return connection


def of_each_node(connection: Connection, question: LiteralString) -> dict[str, str]:
    """What each node of the database says to a statement of one text, by node. Raises `Unavailable` where one does not answer.

    A plain PostgreSQL is one node, ``. Citus lists its nodes and asks them (`run_command_on_all_nodes`, since its version 11): what is
    asked of its coordinator alone says nothing of the nodes that have the rows. Of other engines only the node of the URL is asked.
    """
    row = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM pg_proc WHERE proname = %s AND pronamespace = 'pg_catalog'::regnamespace)",
        ("run_command_on_all_nodes",),
    ).fetchone()
    if row is None or not row[0]:
        said = connection.execute(question).fetchone()
        return {"": "" if said is None else str(said[0])}
    rows = connection.execute(
        "SELECT nodeid, success, result FROM run_command_on_all_nodes(%s) ORDER BY nodeid", (question,)
    ).fetchall()
    for node, answered, result in rows:
        if not answered:
            raise Unavailable(f"node {node} of the database does not answer: {result}".splitlines()[0])
    return {str(node): str(result) for node, _, result in rows}


def identity(connection: Connection) -> str:
    """Which database this is, and on which timeline, of each of its nodes: it changes with a fail-over and with a restore. Empty where
    it can't say.
    """
    try:
        said = of_each_node(
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
    return " ".join(f"{node}={one}" if node else one for node, one in said.items())


class ArchiveState(NamedTuple):
    """What PostgreSQL says of its archive: files kept, failures, and for how long the last one could not be kept (0: it could)."""

    files: int
    failures: int
    behind_s: float
    last_file: str
    is_on: bool


def archive_state(connection: Connection) -> ArchiveState:
    """Any role may ask."""
    row = connection.execute(
        """SELECT archived_count, failed_count, coalesce(last_archived_wal, ''), current_setting('archive_mode') <> 'off',
                  CASE WHEN last_failed_time > coalesce(last_archived_time, '-infinity')
                       THEN extract(epoch FROM now() - coalesce(last_archived_time, stats_reset)) ELSE 0 END
           FROM pg_stat_archiver"""
    ).fetchone()
    assert row is not None
    return ArchiveState(row[0], row[1], max(0.0, float(row[4] or 0)), row[2], row[3])


def anchor(clock: AnchoredClock, connection: Connection) -> None:
    """Set a clock by the database's: all hosts of a works have that one."""
    asked_ns = clock.boot_ns()
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    clock.anchor(row[0], asked_ns)


def ensure_usage_months(connection: Connection, now: datetime | None = None) -> None:
    """Partitions for this month, by the database's clock, and the next ones; idempotent, called at start and daily."""
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    month = (now or row[0]).astimezone(UTC).replace(day=1)
    for _ in range(USAGE_MONTHS_AHEAD + 1):
        connection.execute("SELECT ensure_usage_month(%s)", (month,))
        month = (month + timedelta(days=32)).replace(day=1)
