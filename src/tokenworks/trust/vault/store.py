"""The SQL of person keys, and of the fingerprints of the vault's secrets."""

from collections.abc import Sequence
from uuid import UUID

from psycopg import Connection

from tokenworks.trust.secret_files import WRAP


def add_key(connection: Connection, person_id: UUID, wrapped: bytes, version: int) -> bool:
    """Add the key of a person. Returns False if there is one already."""
    row = connection.execute(
        """INSERT INTO person_key (person_id, wrapped, wrap_version) VALUES (%s, %s, %s)
           ON CONFLICT DO NOTHING RETURNING 1""",
        (person_id, wrapped, version),
    ).fetchone()
    return row is not None


def add_keys(connection: Connection, rows: Sequence[tuple[UUID, bytes, int]]) -> None:
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY person_key (person_id, wrapped, wrap_version) FROM STDIN") as copy,
    ):
        for row in rows:
            copy.write_row(row)


def wrapped_keys(connection: Connection, person_ids: Sequence[UUID]) -> list[tuple[UUID, bytes, int]]:
    """(person, wrapped key, version of the wrapping key) of these persons, without destroyed keys."""
    rows = connection.execute(
        "SELECT person_id, wrapped, wrap_version FROM person_key WHERE person_id = ANY(%s) AND wrapped IS NOT NULL",
        (list(person_ids),),
    )
    return [(row[0], bytes(row[1]), row[2]) for row in rows]


def states(connection: Connection, person_ids: Sequence[UUID]) -> dict[UUID, bool]:
    """For each known person: True if the key exists, False if it was destroyed."""
    rows = connection.execute(
        "SELECT person_id, wrapped IS NOT NULL FROM person_key WHERE person_id = ANY(%s)", (list(person_ids),)
    )
    return {row[0]: row[1] for row in rows}


def destroy(connection: Connection, person_ids: Sequence[UUID]) -> int:
    return connection.execute(
        """UPDATE person_key SET wrapped = NULL, destroyed_at = clock_timestamp()
           WHERE person_id = ANY(%s) AND wrapped IS NOT NULL""",
        (list(person_ids),),
    ).rowcount


def fingerprints(connection: Connection) -> dict[str, bytes]:
    rows = connection.execute("SELECT name, fingerprint FROM vault_secret")
    return {row[0]: bytes(row[1]) for row in rows}


def wrapping_known(connection: Connection) -> dict[int, bytes]:
    """The fingerprints of wrapping keys by version."""
    found = fingerprints(connection).items()
    return {int(name.removeprefix(WRAP)): value for name, value in found if name.startswith(WRAP)}


def add_fingerprint(connection: Connection, name: str, fingerprint: bytes) -> None:
    connection.execute(
        "INSERT INTO vault_secret (name, fingerprint) VALUES (%s, %s) ON CONFLICT DO NOTHING",
        (name, fingerprint),
    )


def versions(connection: Connection) -> set[int]:
    """The versions of the wrapping key that are in use. The query takes one index step per version."""
    rows = connection.execute(
        """WITH RECURSIVE used AS (
               (SELECT min(wrap_version) AS version FROM person_key WHERE wrapped IS NOT NULL)
               UNION ALL
               SELECT (SELECT min(wrap_version) FROM person_key WHERE wrapped IS NOT NULL AND wrap_version > version)
               FROM used WHERE version IS NOT NULL)
           SELECT version FROM used WHERE version IS NOT NULL"""
    )
    return {row[0] for row in rows}


def any_of_version(connection: Connection, version: int) -> tuple[UUID, bytes]:
    row = connection.execute(
        "SELECT person_id, wrapped FROM person_key WHERE wrapped IS NOT NULL AND wrap_version = %s LIMIT 1",
        (version,),
    ).fetchone()
    assert row is not None, f"version {version} is in use"
    return row[0], bytes(row[1])


def lock_older(connection: Connection, version: int, limit: int) -> list[tuple[UUID, bytes, int]]:
    rows = connection.execute(
        """SELECT person_id, wrapped, wrap_version FROM person_key WHERE wrapped IS NOT NULL AND wrap_version < %s
           ORDER BY wrap_version, person_id LIMIT %s FOR UPDATE SKIP LOCKED""",
        (version, limit),
    )
    return [(row[0], bytes(row[1]), row[2]) for row in rows]


def count_older(connection: Connection, version: int) -> int:
    row = connection.execute(
        "SELECT count(*) FROM person_key WHERE wrapped IS NOT NULL AND wrap_version < %s", (version,)
    ).fetchone()
    return 0 if row is None else int(row[0])


def set_wrapped(connection: Connection, person_id: UUID, wrapped: bytes, version: int) -> None:
    connection.execute(
        "UPDATE person_key SET wrapped = %s, wrap_version = %s WHERE person_id = %s",
        (wrapped, version, person_id),
    )


def delete_key(connection: Connection, person_id: UUID) -> None:
    connection.execute("DELETE FROM person_key WHERE person_id = %s", (person_id,))
