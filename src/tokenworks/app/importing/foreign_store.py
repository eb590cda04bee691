"""The SQL of reading another system's database: a SQLite file, or PostgreSQL by URL. It is hostile until it is read."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from tokenworks.app.edge import FILE_BYTES_MAX
from tokenworks.kernel import Invalid, Unavailable

ROWS_MAX: Final = 100_000
CELL_CHARS_MAX: Final = 1024 * 1024
# Steps of SQLite's virtual machine for one file: many times what its largest tables need.
STEPS_MAX: Final = 1_000_000_000
STEPS_AT_ONCE: Final = 1_000_000
CONNECT_TIMEOUT_S: Final = 10
STATEMENT_TIMEOUT_MS: Final = 60_000
Rows = list[dict[str, object]]


def read_sqlite(path: Path, names: Sequence[str]) -> dict[str, Rows]:
    """The plain tables of a SQLite file; its views are not read. Raises `Invalid` if it is damaged or larger than a limit."""
    if path.stat().st_size > 16 * FILE_BYTES_MAX:
        raise Invalid(f"{path}: larger than {16 * FILE_BYTES_MAX} bytes; delete its logs in a copy first")
    tables: dict[str, Rows] = {}
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, CELL_CHARS_MAX)
            steps = iter(range(STEPS_MAX // STEPS_AT_ONCE))
            connection.set_progress_handler(lambda: next(steps, None) is None, STEPS_AT_ONCE)
            connection.row_factory = sqlite3.Row
            plain = {
                row["name"]
                for row in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table' AND lower(sql) LIKE 'create table%'"
                )
            }
            for name in plain.intersection(names):
                query = f'SELECT * FROM "{name}" LIMIT {ROWS_MAX + 1}'
                found = connection.execute(query)
                tables[name] = [dict(row) for row in found]
        finally:
            connection.close()
    except (sqlite3.Error, OverflowError, UnicodeDecodeError):
        raise Invalid(f"{path} is damaged, or a cell of it has more than {CELL_CHARS_MAX} bytes") from None
    return tables


def read_postgresql(url: str, names: Sequence[str]) -> dict[str, Rows]:
    """The tables of the current schema, in a read-only session. Raises `Invalid`, and `Unavailable` if the database does not answer."""
    if urlsplit(url).password is not None:
        raise Invalid("no password in the URL, which is seen by others: put it into ~/.pgpass or PGPASSWORD")
    try:
        with psycopg.connect(
            url, row_factory=dict_row, connect_timeout=CONNECT_TIMEOUT_S,
            options=f"-c default_transaction_read_only=on -c statement_timeout={STATEMENT_TIMEOUT_MS}",
        ) as connection:  # fmt: skip
            found = connection.execute(
                "SELECT table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE' AND table_schema = current_schema() AND table_name = ANY(%s)",
                (list(names),),
            )
            there = [str(row["table_name"]) for row in found]
            return {
                name: connection.execute(
                    sql.SQL("SELECT * FROM {} LIMIT {}").format(sql.Identifier(name), ROWS_MAX + 1)
                ).fetchall()
                for name in there
            }
    except psycopg.Error as error:
        raise Unavailable(f"the other system's database did not answer: {type(error).__name__}") from None
