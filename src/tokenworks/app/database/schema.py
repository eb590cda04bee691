"""Schema steps while hosts serve: expand, backfill in bounded batches, contract.

A migration declares, as constants of its module:

- `COMPATIBLE_FROM`: the oldest schema whose release runs on this one; its own revision where the constant is missing. The value is
  stored in the database, so that a release which does not know the step knows that it may go on.
- `LOCKS`: table -> the strongest lock (a mode of PostgreSQL) that the step takes on a table that existed before. Where that is more
  than `ROW EXCLUSIVE`, the step neither scans nor rewrites a table of `HOT_TABLES`: it changes the catalogue of PostgreSQL alone.
  A step waits `LOCK_TIMEOUT_MS` for each lock and then starts again, so that no statement waits behind it for longer than that.
- `INDEXES`: `Index` rows, built outside of a transaction and without a lock that writers wait for; on a partitioned table one
  partition after the other.
- `backfill(connection, after)`: one batch, in a transaction of its own. It returns where the next batch begins, or None at the end.
  `schema_backfill` stores the progress: a run that was interrupted goes on where it stopped.
- `backfill_rows(connection, after)` and `BATCH_MAX`, optional: how many rows there are after `after`, and how many of them a batch
  goes through at most, for the progress that is shown.

Each index and each backfill is a row of `schema_backfill`, written in the transaction of its step and marked when it is finished. A
release does not start while one of its own steps is unfinished, so its code may rely on every index and every filled row. Hosts of the
release before write rows during the step and after its backfill: a column that they do not know and that this release relies on has a
default or a trigger that completes such rows.

A step that removes something that an older release needs (contract) has its own revision as `COMPATIBLE_FROM`. A step that drops an
index also removes it from the `INDEXES` of the step that made it.
"""

import contextlib
import itertools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import psycopg
from psycopg import Connection

from tokenworks.app.database.roles import grant_tables, make_role
from tokenworks.app.database.waiting import CONNECT_TIMEOUT_S, KEEPALIVES
from tokenworks.kernel import Unavailable

if TYPE_CHECKING:
    from alembic.script import Script

# The schema of this release.
SCHEMA: Final = "0046"
# The first step with these constants: earlier releases run on their own schema alone.
FIRST_STEP: Final = "0026"
MIGRATIONS: Final = Path(__file__).parents[1] / "migrations"
# Tables that a request, settlement or the bill run waits for.
HOT_TABLES: Final = (
    "account", "bill", "bill_line", "bucket", "chain_head", "chain_link", "change", "charge", "entry", "grants", "journal", "member", "api_key",
    "posting", "product", "subscriber", "usage", "window_use",
)  # fmt: skip
LOCK_TIMEOUT_MS: Final = 500
LOCK_TRIES_MAX: Final = 60
LOCK_PAUSE_S: Final = 0.5
_MIGRATION_LOCK: Final = 7461001
# How `pg_stat_activity` names the connections of `init`.
APPLICATION_NAME: Final = "tokenworks migrate"

Progress = Callable[[str], None]
"""Called with a text: the next action, and at each batch of a backfill the rows that are filled."""


class Index(NamedTuple):
    """`definition` follows the table's name: `(account_id, day) WHERE …`, or `USING gin (…)`."""

    name: str
    table: str
    definition: str
    unique: bool = False


def _no_progress(_: str) -> None:
    """The progress where none is shown."""


def migrate(
    url: str, progress: Progress = _no_progress, *, app_url: str | None = None, folder: Path = MIGRATIONS
) -> str:
    """Bring the schema to this release's, step by step, as the owner. Returns the revision. A second concurrent run waits.

    Makes the role of `app_url` where it does not exist, and grants it each new table in the table's own transaction. Raises `Unavailable`
    where a lock can't be had in `LOCK_TRIES_MAX` tries: finished steps stay, and a later run goes on. Raises `Invalid` where the owner
    may not make the role.
    """
    steps = _steps(folder)
    with _migration_lock(url, progress) as connection:
        role = None if app_url is None else make_role(connection, app_url)
        before = current_revision(connection)
        if before is None:
            # A new database has no other users: one transaction, without lock timeouts.
            progress("Making the schema")
            before = steps[-1].revision
            _upgrade(url, folder, before, role, lock_timeout_ms=None)
        for step in steps:
            if step.revision > before:
                progress(f"Schema {step.revision}")
                _upgrade_patiently(url, folder, step.revision, role)
            if step.revision >= FIRST_STEP:
                _finish(connection, step, progress)
        # The rights on tables of a newer schema are granted by its own release.
        if role is not None and before <= steps[-1].revision:
            grant_tables(connection, role)
        return str(current_revision(connection))


def _steps(folder: Path) -> "list[Script]":
    """All migrations, in their order."""
    # Importing alembic takes a fifth of a second, and only `init` needs it.
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    return list(ScriptDirectory(str(folder)).walk_revisions())[::-1]


class Step(NamedTuple):
    """A migration that is not finished. `locks`: table -> mode. `indexes`: indexes still to be built. `fills`: whether rows are still to be
    filled in batches. `begun`: the step itself is done and its backfill was interrupted, after `after`.
    """

    revision: str
    what: str
    compatible_from: str
    locks: dict[str, str]
    indexes: list[str]
    fills: bool
    begun: bool = False
    after: str | None = None


def plan_steps(connection: Connection, folder: Path = MIGRATIONS) -> list[Step]:
    """The steps that `migrate` would run, interrupted ones first."""
    there = current_revision(connection) or ""
    return [
        step
        for module in _steps(folder)
        if (step := _planned(module) if module.revision > there else _unfinished(connection, module))
        is not None
    ]


def _planned(step: "Script") -> Step:
    return Step(
        step.revision,
        " ".join(str(step.doc).split()),
        _compatible_from(step),
        dict(getattr(step.module, "LOCKS", {})),
        [index.name for index in getattr(step.module, "INDEXES", ())],
        hasattr(step.module, "backfill"),
    )


def _unfinished(connection: Connection, step: "Script") -> Step | None:
    """The unfinished rest of a step whose run was interrupted; None where nothing is left. An index that was lost since is built again."""
    if step.revision < FIRST_STEP:
        return None
    planned, done = _planned(step), _finished_tasks(connection, step)
    indexes = [
        index
        for index in planned.indexes
        if _index_task(step, index) not in done or not _is_valid(connection, index)
    ]
    fills = planned.fills and step.revision not in done
    if not indexes and not fills:
        return None
    row = connection.execute(
        "SELECT after FROM schema_backfill WHERE revision = %s", (step.revision,)
    ).fetchone()
    after = None if row is None else row[0]
    return planned._replace(locks={}, indexes=indexes, fills=fills, begun=True, after=after)


def _compatible_from(step: "Script") -> str:
    return str(getattr(step.module, "COMPATIBLE_FROM", step.revision))


@contextlib.contextmanager
def _migration_lock(url: str, progress: Progress) -> Iterator[Connection]:
    with psycopg.connect(
        url,
        autocommit=True,
        connect_timeout=CONNECT_TIMEOUT_S,
        application_name=APPLICATION_NAME,
        **KEEPALIVES,
    ) as connection:
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (_MIGRATION_LOCK,)).fetchone()
        if row is None or not row[0]:
            # After the client of a run was killed, the server keeps the lock until the running statement ends.
            holder = connection.execute(
                """SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid::bigint = %s
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())""",
                (_MIGRATION_LOCK,),
            ).fetchone()
            session = "" if holder is None else f" (session {holder[0]} of the database)"
            progress(
                f"Waiting for another `tokenworks init`, or for the index of one that was killed{session}"
            )
            connection.execute("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
        try:
            yield connection
        finally:
            connection.execute("SELECT pg_advisory_unlock(%s)", (_MIGRATION_LOCK,))


def current_revision(connection: Connection) -> str | None:
    """The revision that the database has; None where it has no schema."""
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except psycopg.errors.UndefinedTable:
        return None
    return None if row is None else str(row[0])


def engine_url(url: str) -> str:
    """The URL with SQLAlchemy's name of the driver."""
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url


def _upgrade(url: str, folder: Path, revision: str, role: str | None, *, lock_timeout_ms: int | None) -> None:
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from sqlalchemy import create_engine  # noqa: PLC0415
    from sqlalchemy.pool import NullPool  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(folder))
    engine = create_engine(
        engine_url(url), poolclass=NullPool, connect_args={"application_name": APPLICATION_NAME}
    )
    with engine.begin() as connection:
        if lock_timeout_ms is not None:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {lock_timeout_ms}")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        # In the same transaction, so that an older release that starts right after it finds the row.
        if connection.exec_driver_sql("SELECT to_regclass('schema_step')").scalar() is not None:
            for step in _steps(folder):
                if FIRST_STEP <= step.revision <= revision:
                    connection.exec_driver_sql(
                        "INSERT INTO schema_step (revision, compatible_from) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                        (step.revision, _compatible_from(step)),
                    )
                    for task in _tasks(step):
                        connection.exec_driver_sql(
                            "INSERT INTO schema_backfill (revision) VALUES (%s) ON CONFLICT DO NOTHING",
                            (task,),
                        )
        if role is not None:
            grant_tables(cast("Connection", connection.connection.driver_connection), role)


def _upgrade_patiently(url: str, folder: Path, revision: str, role: str | None) -> None:
    from sqlalchemy.exc import OperationalError  # noqa: PLC0415

    for left in range(LOCK_TRIES_MAX - 1, -1, -1):
        try:
            _upgrade(url, folder, revision, role, lock_timeout_ms=LOCK_TIMEOUT_MS)
            return
        except OperationalError as error:
            if not isinstance(error.orig, (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)):
                raise
            if not left:
                reason = str(error.orig).strip().splitlines()[0]
                raise Unavailable(
                    f"schema {revision} waits for a lock that others keep ({reason}): see pg_stat_activity for transactions that are "
                    "open for long, end them, and run `tokenworks init` again; what was done stays"
                ) from error
            time.sleep(random.uniform(0.5, 1.0) * LOCK_PAUSE_S)


# Which releases may run.


def compatible_from(connection: Connection) -> str | None:
    """The oldest schema whose release runs on the present schema; None where the database does not say."""
    try:
        row = connection.execute(
            """SELECT max(compatible_from) FROM schema_step
               WHERE EXISTS (SELECT 1 FROM schema_step JOIN alembic_version ON version_num = revision)"""
        ).fetchone()
    except psycopg.errors.UndefinedTable:
        return None
    return None if row is None or row[0] is None else str(row[0])


def check_schema(connection: Connection, mine: str = SCHEMA) -> None:
    """Raise `Unavailable` where the release of schema `mine` can't run on the present schema.

    A release runs on its own schema, and on a newer one whose steps are compatible with it, once its own and all earlier steps are
    finished.
    """
    try:
        there = current_revision(connection)
    except psycopg.errors.InsufficientPrivilege:
        raise Unavailable(
            f"the database's role {connection.info.user} has no rights in it yet: run `tokenworks init`"
        ) from None
    if there is None:
        raise Unavailable("the database has no schema yet: run `tokenworks init` first")
    if there < mine:
        raise Unavailable(
            f"the database is at schema {there}, this release needs {mine}: run `tokenworks init`"
        )
    oldest = mine if there == mine else compatible_from(connection)
    if oldest is None or oldest > mine:
        raise Unavailable(
            f"the database is at schema {there}, which runs releases from schema {oldest or there} on, and this release is of "
            f"schema {mine}: run a newer release"
        )
    check_finished(connection, mine)


def check_finished(connection: Connection, mine: str = SCHEMA) -> None:
    """Raise `Unavailable` where an index or a backfill of a step up to schema `mine` is unfinished."""
    row = connection.execute(
        """SELECT revision, after FROM schema_backfill WHERE done_at IS NULL AND split_part(revision, ' ', 1) <= %s
           ORDER BY revision LIMIT 1""",
        (mine,),
    ).fetchone()
    if row is not None:
        revision, _, index = row[0].partition(" ")
        what = f"its index {index} is not built" if index else "its rows are not all filled"
        raise Unavailable(
            f"schema {revision} is unfinished, {what}: run `tokenworks init`, which goes on where it was cut off"
        )


# Indexes.


def build_index(connection: Connection, index: Index, progress: Progress = _no_progress) -> None:
    """Build an index while other sessions write. Does nothing where the index exists. Needs a connection with autocommit.

    A build that was interrupted leaves an invalid index, which is dropped and built again. On a partitioned table each partition of
    each level gets its own index, and these are attached to the table's: later partitions get theirs from the table.
    """
    if not _is_valid(connection, index.name):
        progress(f"Index {index.name}")
        _build(connection, index, index.table, index.name, progress)


def _build(connection: Connection, index: Index, table: str, name: str, progress: Progress) -> None:
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
            progress(f"Index {index.name}: {part}")
            _build(connection, index, part, own, progress)
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


# The part of a step that runs beside the requests: its indexes and its backfill.


def _index_task(step: "Script", name: str) -> str:
    """The name of an index in `schema_backfill`; the name of a backfill is its revision."""
    return f"{step.revision} {name}"


def _tasks(step: "Script") -> list[str]:
    indexes = [_index_task(step, index.name) for index in getattr(step.module, "INDEXES", ())]
    return [*indexes, *([step.revision] if hasattr(step.module, "backfill") else [])]


def _finished_tasks(connection: Connection, step: "Script") -> set[str]:
    rows = connection.execute(
        "SELECT revision FROM schema_backfill WHERE done_at IS NOT NULL AND revision = ANY(%s)",
        (_tasks(step),),
    )
    return {row[0] for row in rows}


def _finish(connection: Connection, step: "Script", progress: Progress) -> None:
    for index in getattr(step.module, "INDEXES", ()):
        build_index(connection, index, progress)
        connection.execute(
            """INSERT INTO schema_backfill (revision, done_at) VALUES (%s, now()) ON CONFLICT (revision) DO UPDATE SET done_at = now()
               WHERE schema_backfill.done_at IS NULL""",
            (_index_task(step, index.name),),
        )
    if hasattr(step.module, "backfill"):
        _backfill(connection, step, progress)


def _backfill(connection: Connection, step: "Script", progress: Progress) -> None:
    connection.execute(
        "INSERT INTO schema_backfill (revision) VALUES (%s) ON CONFLICT DO NOTHING", (step.revision,)
    )
    rows: int | None = None
    for batches in itertools.count():
        with connection.transaction():
            row = connection.execute(
                "SELECT after FROM schema_backfill WHERE revision = %s AND done_at IS NULL FOR UPDATE",
                (step.revision,),
            ).fetchone()
            if row is None:
                return
            if not batches:
                count = getattr(step.module, "backfill_rows", None)
                rows = None if count is None else count(connection, row[0])
                goes_on = f", going on after {row[0]}" if row[0] else ""
                progress(f"Filling {step.revision}{goes_on}")
            else:
                progress(f"Filling {step.revision}: {_progress_text(step, batches, rows)}")
            after = step.module.backfill(connection, row[0])
            connection.execute(
                """UPDATE schema_backfill SET after = coalesce(%(after)s, after),
                       done_at = CASE WHEN %(after)s::text IS NULL THEN now() END WHERE revision = %(revision)s""",
                {"after": after, "revision": step.revision},
            )


def _progress_text(step: "Script", batches: int, rows: int | None) -> str:
    """How many rows a run has filled, of those that it found when it began."""
    if rows is None:
        return f"{batches} batches"
    return f"{min(rows, batches * step.module.BATCH_MAX)} of {rows} rows"
