"""The check of every foreign key of the schema: with foreign keys switched off, a row can refer to a missing row."""

from collections.abc import Iterator
from typing import Final

from psycopg import Connection

from tokenworks.charging.ledger.verify.finding import Finding

INVARIANT: Final = "reference: the row that a row refers to exists"

_KEYS: Final = """
    SELECT c.conrelid::regclass::text, c.confrelid::regclass::text,
        (SELECT array_agg(a.attname ORDER BY k.at) FROM unnest(c.conkey) WITH ORDINALITY k(no, at)
         JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.no),
        (SELECT array_agg(a.attname ORDER BY k.at) FROM unnest(c.confkey) WITH ORDINALITY k(no, at)
         JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.no),
        (SELECT array_agg(a.attname ORDER BY k.at) FROM pg_constraint p CROSS JOIN unnest(p.conkey) WITH ORDINALITY k(no, at)
         JOIN pg_attribute a ON a.attrelid = p.conrelid AND a.attnum = k.no WHERE p.conrelid = c.conrelid AND p.contype = 'p')
    FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
    WHERE c.contype = 'f' AND c.conparentid = 0 AND NOT t.relispartition AND c.connamespace = 'public'::regnamespace
    ORDER BY c.conrelid::regclass::text, c.conname"""


def references(connection: Connection, limit: int) -> Iterator[Finding]:
    """Rows that refer to a missing row, table by table, at most `limit` per foreign key. A key with an empty column is skipped."""
    for table, to, columns, of, own in connection.execute(_KEYS.encode()).fetchall():
        # A run over a part of the accounts has temporary views of the same names.
        table, to = table.removeprefix("public."), to.removeprefix("public.")  # noqa: PLW2901
        joined = " AND ".join(f'r."{theirs}" = t."{ours}"' for ours, theirs in zip(columns, of, strict=True))
        not_null = " AND ".join(f't."{name}" IS NOT NULL' for name in columns)
        own_key = " || ' ' || ".join(f't."{column}"::text' for column in own)
        foreign_key = " || ' ' || ".join(f't."{column}"::text' for column in columns)
        statement = f"""SELECT '{table} ' || {own_key} || ', {to} ' || {foreign_key} FROM {table} t
            WHERE {not_null} AND NOT EXISTS (SELECT 1 FROM {to} r WHERE {joined}) LIMIT {limit}"""
        for (where,) in connection.execute(statement.encode()):
            yield Finding(INVARIANT, str(where), f"there is no such {to}")
