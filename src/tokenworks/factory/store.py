"""The SQL of deployments, aliases, model cards, intents and imported facts of models."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from psycopg import Connection

from tokenworks.factory.model import Deployment


def add_deployment(connection: Connection, deployment_id: UUID, deployment: Deployment) -> bool:
    with connection.transaction():
        row = connection.execute(
            """INSERT INTO deployment (deployment_id, name, content) VALUES (%s, %s, %s::jsonb)
               ON CONFLICT (name) WHERE removed_at IS NULL DO NOTHING RETURNING 1""",
            (deployment_id, deployment.name, deployment.model_dump_json()),
        ).fetchone()
        if row is not None:
            announce(connection, f"deployment {deployment.name}")
    return row is not None


def remove_deployment(connection: Connection, name: str) -> bool:
    with connection.transaction():
        row = connection.execute(
            "UPDATE deployment SET removed_at = now() WHERE name = %s AND removed_at IS NULL RETURNING 1",
            (name,),
        ).fetchone()
        if row is not None:
            announce(connection, f"deployment {name}")
    return row is not None


def deployments(connection: Connection) -> list[Deployment]:
    rows = connection.execute("SELECT content FROM deployment WHERE removed_at IS NULL ORDER BY name")
    return [_read(content) for (content,) in rows]


def _read(content: Mapping[str, object]) -> Deployment:
    """A deployment as it is stored, without the fields that a newer release wrote and this one does not know."""
    return Deployment.model_validate(
        {name: value for name, value in content.items() if name in Deployment.model_fields}
    )


def set_alias(connection: Connection, alias: str, model: str) -> None:
    with connection.transaction():
        connection.execute(
            """INSERT INTO model_alias (alias, model) VALUES (%s, %s)
               ON CONFLICT (alias) DO UPDATE SET model = excluded.model""",
            (alias, model),
        )
        announce(connection, f"alias {alias}")


def remove_alias(connection: Connection, alias: str) -> bool:
    with connection.transaction():
        row = connection.execute("DELETE FROM model_alias WHERE alias = %s RETURNING 1", (alias,)).fetchone()
        if row is not None:
            announce(connection, f"alias {alias}")
    return row is not None


def aliases(connection: Connection) -> dict[str, str]:
    return dict(connection.execute("SELECT alias, model FROM model_alias ORDER BY alias").fetchall())


def set_named(connection: Connection, table: str, name: str, content: str) -> None:
    """`table` is `model_card` or `model_intent`."""
    with connection.transaction():
        connection.execute(
            f"""INSERT INTO {table} (name, content) VALUES (%s, %s::jsonb)
                ON CONFLICT (name) DO UPDATE SET content = excluded.content""".encode(),
            (name, content),
        )
        announce(connection, f"{table} {name}")


def remove_named(connection: Connection, table: str, name: str) -> bool:
    with connection.transaction():
        row = connection.execute(
            f"DELETE FROM {table} WHERE name = %s RETURNING 1".encode(), (name,)
        ).fetchone()
        if row is not None:
            announce(connection, f"{table} {name}")
    return row is not None


def named(connection: Connection, table: str) -> list[object]:
    """The JSON contents of a table, `model_card` or `model_intent`, by name."""
    return [
        content for (content,) in connection.execute(f"SELECT content FROM {table} ORDER BY name".encode())
    ]


def replace_deployment(connection: Connection, deployment: Deployment) -> bool:
    with connection.transaction():
        row = connection.execute(
            "UPDATE deployment SET content = %s::jsonb WHERE name = %s AND removed_at IS NULL RETURNING 1",
            (deployment.model_dump_json(), deployment.name),
        ).fetchone()
        if row is not None:
            announce(connection, f"deployment {deployment.name}")
    return row is not None


def announce(connection: Connection, what: str) -> None:
    """Record a change, so that recorders read the snapshot anew."""
    connection.execute("INSERT INTO change (kind, ref) VALUES ('snapshot', %s)", (what,))


def imported_facts(connection: Connection, names: Sequence[str] | None = None) -> list[object]:
    """The JSON contents of imported facts by name: of all models, or of these."""
    rows = connection.execute(
        "SELECT content FROM model_facts WHERE %s::text[] IS NULL OR name = ANY(%s::text[]) ORDER BY name",
        (names, names),
    )
    return [content for (content,) in rows]


def set_facts(connection: Connection, contents: Mapping[str, str]) -> None:
    """Write facts by name, in one transaction with one announcement."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO model_facts (name, content) VALUES (%s, %s::jsonb)
               ON CONFLICT (name) DO UPDATE SET content = excluded.content""",
            list(contents.items()),
        )
        announce(connection, "model_facts")
