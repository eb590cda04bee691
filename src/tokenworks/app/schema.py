"""Schema steps under a serving fleet: expand, backfill in bounded batches, contract.

A migration says, as constants of its module:

- `COMPATIBLE_FROM`: the oldest schema whose release runs on this one; its own revision where it is left out. It is kept in the
  database, so that a release which never heard of the step knows that it may go on.
- `LOCKS`: table -> the strongest lock that the step takes on a table that was there before (a mode of PostgreSQL). Where that
  is more than `ROW EXCLUSIVE`, the step neither scans nor writes anew a table of `HOT_TABLES`: it changes the catalogue alone.
  A step waits `LOCK_TIMEOUT_MS` for each lock and then begins anew, so that nobody waits behind it for longer than that.
- `INDEXES`: `Index` rows, built outside of a transaction and without a lock that writers wait for; on a partitioned table
  partition by partition.
- `backfill(connection, after)`: one batch, in a transaction of its own: returns where the next one begins, or None at the end. What
  is done is in `schema_backfill`: a run that was cut off goes on where it was.

A step that takes away what an older release needs (contract) is one whose `COMPATIBLE_FROM` is its own revision.
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg

from tokenworks.kernel import Unavailable

Connection = psycopg.Connection[tuple[Any, ...]]

# The schema of this release.
SCHEMA: Final = "0029"
# Before this one releases looked for their own schema alone, and steps named no locks.
FIRST_STEP: Final = "0026"
MIGRATIONS: Final = Path(__file__).parent / "migrations"
# Those that a request, settlement or the bill run waits for.
HOT_TABLES: Final = (
    "account", "bill", "bill_line", "bucket", "change", "charge", "entry", "grants", "journal", "member", "api_key",
    "posting", "product", "subscriber", "usage", "window_use",
)  # fmt: skip
LOCK_TIMEOUT_MS: Final = 500
LOCK_TRIES_MAX: Final = 60
LOCK_PAUSE_S: Final = 0.5
_MIGRATION_LOCK: Final = 7461001

Progress = Callable[[str], None]
"""Called with what is done next."""


class Index(NamedTuple):
    """`definition` follows the table's name: `(account_id, day) WHERE …`, or `USING gin (…)`."""

    name: str
    table: str
    definition: str
    unique: bool = False


def _quiet(_: str) -> None:
    """Nobody looks."""


def migrate(url: str, progress: Progress = _quiet, *, folder: Path = MIGRATIONS) -> str:
    """Bring the schema to this release's, step by step. Returns the revision. Two at once: the second waits.

    Raises `Unavailable` where a lock can't be had in `LOCK_TRIES_MAX` tries: what was done until
    then stays, and a later run goes on.
    """
    steps = _steps(folder)
    with _held_alone(url) as connection:
        before = current(connection)
        if before is None:
            # Nobody is there yet: one transaction, no waiting.
            progress("Making the schema")
            before = steps[-1].revision
            _upgrade(url, folder, before, lock_timeout_ms=None)
        for step in steps:
            if step.revision > before:
                progress(f"Schema {step.revision}")
                _upgrade_patiently(url, folder, step.revision)
            for index in getattr(step.module, "INDEXES", ()):
                build_index(connection, index, progress)
            _backfill(connection, step, progress)
        return str(current(connection))


def _steps(folder: Path) -> list[Any]:
    """All migrations, the first one first."""
    # A fifth of a second that only `init` needs.
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    return list(ScriptDirectory(str(folder)).walk_revisions())[::-1]


class Step(NamedTuple):
    """A migration that is still to be done: `locks` is table -> mode; `fills`: whether rows are filled in batches."""

    revision: str
    what: str
    compatible_from: str
    locks: dict[str, str]
    indexes: list[str]
    fills: bool


def plan_steps(connection: Connection, folder: Path = MIGRATIONS) -> list[Step]:
    """What `migrate` would do."""
    there = current(connection) or ""
    return [
        Step(
            step.revision,
            " ".join(str(step.doc).split()),
            _compatible_from(step),
            dict(getattr(step.module, "LOCKS", {})),
            [index.name for index in getattr(step.module, "INDEXES", ())],
            hasattr(step.module, "backfill"),
        )
        for step in _steps(folder)
        if step.revision > there
    ]


def _compatible_from(step: Any) -> str:
    return str(getattr(step.module, "COMPATIBLE_FROM", step.revision))


@contextlib.contextmanager
def _held_alone(url: str) -> Iterator[Connection]:
    with psycopg.connect(url, autocommit=True, application_name="tokenworks migrate") as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
        try:
            yield connection
        finally:
            connection.execute("SELECT pg_advisory_unlock(%s)", (_MIGRATION_LOCK,))


def current(connection: Connection) -> str | None:
    """The revision that the database has; None where it has no schema."""
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except psycopg.errors.UndefinedTable:
        return None
    return None if row is None else str(row[0])


def engine_url(url: str) -> str:
    """The URL as SQLAlchemy names the driver."""
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url


def _upgrade(url: str, folder: Path, revision: str, *, lock_timeout_ms: int | None) -> None:
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from sqlalchemy import create_engine  # noqa: PLC0415
    from sqlalchemy.pool import NullPool  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(folder))
    with create_engine(engine_url(url), poolclass=NullPool).begin() as connection:
        if lock_timeout_ms is not None:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {lock_timeout_ms}")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        # In the same transaction: an older release that starts right after it must know.
        if connection.exec_driver_sql("SELECT to_regclass('schema_step')").scalar() is not None:
            for step in _steps(folder):
                if FIRST_STEP <= step.revision <= revision:
                    connection.exec_driver_sql(
                        "INSERT INTO schema_step (revision, compatible_from) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                        (step.revision, _compatible_from(step)),
                    )


def _upgrade_patiently(url: str, folder: Path, revision: str) -> None:
    from sqlalchemy.exc import OperationalError  # noqa: PLC0415

    for left in range(LOCK_TRIES_MAX - 1, -1, -1):
        try:
            _upgrade(url, folder, revision, lock_timeout_ms=LOCK_TIMEOUT_MS)
            return
        except OperationalError as error:
            if not isinstance(error.orig, (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)):
                raise
            if not left:
                said = str(error.orig).strip().splitlines()[0]
                raise Unavailable(
                    f"schema {revision} waits for a lock that others keep ({said}): see pg_stat_activity for transactions that are "
                    "open for long, end them, and run `tokenworks init` again; what was done stays"
                ) from error
            time.sleep(random.uniform(0.5, 1.0) * LOCK_PAUSE_S)


# Which releases may run.


def compatible_from(connection: Connection) -> str | None:
    """The oldest schema whose release runs on the one that is there; None where the database does not say."""
    try:
        row = connection.execute(
            """SELECT max(compatible_from) FROM schema_step
               WHERE EXISTS (SELECT 1 FROM schema_step JOIN alembic_version ON version_num = revision)"""
        ).fetchone()
    except psycopg.errors.UndefinedTable:
        return None
    return None if row is None or row[0] is None else str(row[0])


def check_schema(connection: Connection, mine: str = SCHEMA) -> None:
    """Raise `Unavailable` where the release of schema `mine` can't run on the one that is there.

    It runs on its own, and on a younger one whose steps are compatible with it.
    """
    there = current(connection)
    if there is None:
        raise Unavailable("the database has no schema yet: run `tokenworks init` first")
    if there == mine:
        return
    if there < mine:
        raise Unavailable(
            f"the database is at schema {there}, this release needs {mine}: run `tokenworks init`"
        )
    oldest = compatible_from(connection)
    if oldest is None or oldest > mine:
        raise Unavailable(
            f"the database is at schema {there}, which runs releases from schema {oldest or there} on, and this release is of "
            f"schema {mine}: run a newer release"
        )


# Indexes.


def build_index(connection: Connection, index: Index, progress: Progress = _quiet) -> None:
    """Build an index while others write; nothing where it is there. On a connection with autocommit.

    A build that was cut off leaves an index that is not valid: it is dropped and built anew. On a partitioned table each partition,
    of whatever level, gets its own, and the table's is made of them: partitions that come later have it from the table.
    """
    if not _is_valid(connection, index.name):
        progress(f"Index {index.name}")
        _build(connection, index, index.table, index.name)


def _build(connection: Connection, index: Index, table: str, name: str) -> None:
    unique = "UNIQUE " if index.unique else ""
    row = connection.execute(
        "SELECT relkind = 'p' FROM pg_class WHERE oid = %s::regclass", (table,)
    ).fetchone()
    assert row is not None
    if not row[0]:
        connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}".encode())
        connection.execute(f"CREATE {unique}INDEX CONCURRENTLY {name} ON {table} {index.definition}".encode())
        return
    connection.execute(
        f"CREATE {unique}INDEX IF NOT EXISTS {name} ON ONLY {table} {index.definition}".encode()
    )
    parts = connection.execute(
        """SELECT c.relname FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid WHERE h.inhparent = %s::regclass ORDER BY 1""",
        (table,),
    ).fetchall()
    for (part,) in parts:
        if _is_attached(connection, name, part):
            continue
        own = f"{part}_{index.name}"[:63]
        if not _is_valid(connection, own):
            _build(connection, index, part, own)
        connection.execute(f"ALTER INDEX {name} ATTACH PARTITION {own}".encode())


def _is_valid(connection: Connection, name: str) -> bool:
    row = connection.execute(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", (name,)
    ).fetchone()
    return row is not None and bool(row[0])


def _is_attached(connection: Connection, name: str, part: str) -> bool:
    row = connection.execute(
        """SELECT 1 FROM pg_inherits h JOIN pg_index i ON i.indexrelid = h.inhrelid
           WHERE h.inhparent = to_regclass(%s) AND i.indrelid = %s::regclass""",
        (name, part),
    ).fetchone()
    return row is not None


# Backfills.


def _backfill(connection: Connection, step: Any, progress: Progress) -> None:
    run = getattr(step.module, "backfill", None)
    if run is None:
        return
    connection.execute(
        "INSERT INTO schema_backfill (revision) VALUES (%s) ON CONFLICT DO NOTHING", (step.revision,)
    )
    while True:
        with connection.transaction():
            row = connection.execute(
                "SELECT after FROM schema_backfill WHERE revision = %s AND done_at IS NULL FOR UPDATE",
                (step.revision,),
            ).fetchone()
            if row is None:
                return
            progress(f"Filling {step.revision}" + (f", after {row[0]}" if row[0] else ""))
            after = run(connection, row[0])
            connection.execute(
                """UPDATE schema_backfill SET after = coalesce(%(after)s, after),
                       done_at = CASE WHEN %(after)s::text IS NULL THEN now() END WHERE revision = %(revision)s""",
                {"after": after, "revision": step.revision},
            )
