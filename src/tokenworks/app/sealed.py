"""Whether the personal texts that were there before encryption are encrypted: every start and every command asks."""

from psycopg import Connection

from tokenworks.kernel import Unavailable


def check_sealed(connection: Connection) -> None:
    """Raise `Unavailable` where plain texts are left from before."""
    row = connection.execute("SELECT place FROM sealing WHERE done_at IS NULL LIMIT 1").fetchone()
    if row is not None:
        raise Unavailable(
            f"the personal texts of {row[0]} are not all encrypted yet: run `tokenworks init`, which goes on where it was"
        )
