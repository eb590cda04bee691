"""The SQL of drafts of offerings (table `offering_draft`)."""

from collections.abc import Mapping
from datetime import datetime

from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

_COLUMNS = "offering_id, content, drafted_by, drafted_at, approved_by, approved_at"


def put(
    connection: Connection, offering_id: str, content: Mapping[str, object], by: str, at: datetime
) -> None:
    """Add a draft, or replace its content, which removes its approval."""
    connection.execute(
        f"""INSERT INTO offering_draft ({_COLUMNS}) VALUES (%s, %s, %s, %s, NULL, NULL)
            ON CONFLICT (offering_id) DO UPDATE SET content = excluded.content, drafted_by = excluded.drafted_by,
                drafted_at = excluded.drafted_at, approved_by = NULL, approved_at = NULL""".encode(),
        (offering_id, Jsonb(content), by, at),
    )


def lock(connection: Connection, offering_id: str) -> TupleRow | None:
    return connection.execute(
        f"SELECT {_COLUMNS} FROM offering_draft WHERE offering_id = %s FOR UPDATE".encode(), (offering_id,)
    ).fetchone()


def all_of(connection: Connection, limit: int) -> list[TupleRow]:
    return connection.execute(
        f"SELECT {_COLUMNS} FROM offering_draft ORDER BY offering_id LIMIT %s".encode(), (limit,)
    ).fetchall()


def approve(connection: Connection, offering_id: str, by: str | None, at: datetime | None) -> None:
    connection.execute(
        "UPDATE offering_draft SET approved_by = %s, approved_at = %s WHERE offering_id = %s",
        (by, at, offering_id),
    )


def remove(connection: Connection, offering_id: str) -> bool:
    return bool(
        connection.execute("DELETE FROM offering_draft WHERE offering_id = %s", (offering_id,)).rowcount
    )
