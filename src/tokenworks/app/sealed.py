"""Checks that personal texts from before encryption are encrypted by now. Every start and every command does."""

from psycopg import Connection

from tokenworks.kernel import Unavailable


def check_sealed(connection: Connection) -> None:
    """Raise `Unavailable` where the encryption of a table is not finished."""
    row = connection.execute("SELECT place FROM sealing WHERE done_at IS NULL LIMIT 1").fetchone()
    if row is not None:
        raise Unavailable(
            f"the personal texts of {row[0]} are not all encrypted yet: run `tokenworks init`, which goes on where it was"
        )
