"""Reads tables of another system: a SQLite file, PostgreSQL by URL, JSON of `{table: [rows]}`, or a folder of `table.csv` files.

The source is hostile until it is read: only plain tables with expected names are read, never a view; rows, cells and files have limits.
"""

import csv
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tokenworks.app.edge import read_bytes, read_text
from tokenworks.app.importing import foreign_store
from tokenworks.app.importing.foreign_store import ROWS_MAX, Rows
from tokenworks.kernel import Invalid

_SQLITE_MAGIC: Final = b"SQLite format 3\0"


def read_tables(source: str, names: Sequence[str]) -> dict[str, Rows]:
    """The rows of those tables of `names` that are there. Raises `Invalid`, or `Unavailable` if a database does not answer."""
    scheme = urlsplit(source).scheme if "://" in source else ""
    if scheme in {"postgres", "postgresql"}:
        tables = foreign_store.read_postgresql(source, names)
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
    return foreign_store.read_sqlite(path, names) if start == _SQLITE_MAGIC else _json(path, names)


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
