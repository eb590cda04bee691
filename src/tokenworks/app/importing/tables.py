"""Reads tables of another system: a SQLite file, PostgreSQL by URL, JSON of `{table: [rows]}`, or a folder of `table.csv` files.

The source is hostile until it is read: only plain tables with expected names are read, never a view; rows, cells and files have limits.
"""

import csv
import json
import sqlite3
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from tokenworks.app.edge import FILE_BYTES_MAX, read_bytes, read_text
from tokenworks.kernel import Invalid, Unavailable

ROWS_MAX: Final = 100_000
CELL_CHARS_MAX: Final = 1024 * 1024
CONNECT_TIMEOUT_S: Final = 10
STATEMENT_TIMEOUT_MS: Final = 60_000
_SQLITE_MAGIC: Final = b"SQLite format 3\0"
Rows = list[dict[str, object]]


def read_tables(source: str, names: Sequence[str]) -> dict[str, Rows]:
    """The rows of those tables of `names` that are there. Raises `Invalid`, or `Unavailable` if a database does not answer."""
    scheme = urlsplit(source).scheme if "://" in source else ""
    if scheme in {"postgres", "postgresql"}:
        tables = _postgresql(source, names)
    elif scheme:
        raise Invalid(
            f"{scheme} is not read: export the tables as JSON or CSV, or name a SQLite file or a postgresql:// URL"
        )
    else:
        tables = _files(Path(source), names)
    if not tables:
        raise Invalid(f"there is none of the tables {', '.join(names)}")
    for name, rows in tables.items():
        if len(rows) > ROWS_MAX:
            raise Invalid(f"{name} has more than {ROWS_MAX} rows")
    return tables


def _files(path: Path, names: Sequence[str]) -> dict[str, Rows]:
    if path.is_dir():
        return {name: _csv(path / f"{name}.csv") for name in names if (path / f"{name}.csv").is_file()}
    if not path.is_file():
        raise Invalid(f"there is no file {path}")
    with path.open("rb") as file:
        start = file.read(len(_SQLITE_MAGIC))
    return _sqlite(path, names) if start == _SQLITE_MAGIC else _json(path, names)


def _json(path: Path, names: Sequence[str]) -> dict[str, Rows]:
    try:
        content = json.loads(read_bytes(path))
    except (ValueError, RecursionError):
        raise Invalid(f"{path} is neither SQLite nor JSON of tables") from None
    if not isinstance(content, dict):
        raise Invalid(f"{path} is no JSON object of tables")
    return {
        name: [row for row in content[name] if isinstance(row, dict)]
        for name in names
        if isinstance(content.get(name), list)
    }


def _csv(path: Path) -> Rows:
    try:
        lines = csv.DictReader(read_text(path).splitlines(keepends=True), restkey="", restval="")
        return [{key: cell for key, cell in row.items() if key} for row in islice(lines, ROWS_MAX + 1)]
    except csv.Error as error:
        raise Invalid(f"{path} is no CSV: {error}") from None


def _sqlite(path: Path, names: Sequence[str]) -> dict[str, Rows]:
    if path.stat().st_size > 16 * FILE_BYTES_MAX:
        raise Invalid(f"{path}: larger than {16 * FILE_BYTES_MAX} bytes; delete its logs in a copy first")
    tables: dict[str, Rows] = {}
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, CELL_CHARS_MAX)
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.row_factory = sqlite3.Row
            plain = {
                row["name"]
                for row in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table' AND lower(sql) LIKE 'create table%'"
                )
            }
            for name in plain.intersection(names):
                found = connection.execute(f'SELECT * FROM "{name}" LIMIT {ROWS_MAX + 1}')  # a name of ours
                tables[name] = [dict(row) for row in found]
        finally:
            connection.close()
    except (sqlite3.Error, OverflowError, UnicodeDecodeError):
        raise Invalid(f"{path} is damaged, or a cell of it has more than {CELL_CHARS_MAX} bytes") from None
    return tables


def _postgresql(url: str, names: Sequence[str]) -> dict[str, Rows]:
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
