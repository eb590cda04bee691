"""The declared reference of what writes rows: a bare psycopg COPY of the same rows into tables with the same indexes."""

from bench.verify import Timed

PIECE_BYTES = 1 << 16


def copied_in(owner, tables):
    """(rows, `Timed`) of a COPY of all rows of these tables, in one transaction. Reading them is not part of it."""
    contents, rows = {}, 0
    for table in tables:
        with owner.cursor().copy(f"COPY (SELECT * FROM {table}) TO STDOUT (FORMAT binary)") as copy:
            contents[table] = b"".join(bytes(piece) for piece in copy)
        rows += owner.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        owner.execute(f"CREATE TABLE bench_{table} (LIKE {table} INCLUDING DEFAULTS INCLUDING INDEXES)")
    try:
        with Timed(owner) as timed, owner.transaction():
            for table, content in contents.items():
                with owner.cursor().copy(f"COPY bench_{table} FROM STDIN (FORMAT binary)") as copy:
                    for at in range(0, len(content), PIECE_BYTES):
                        copy.write(content[at : at + PIECE_BYTES])
    finally:
        for table in tables:
            owner.execute(f"DROP TABLE bench_{table}")
    return rows, timed
