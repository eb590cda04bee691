"""What every part of the ledger has: a connection and a clock."""

from psycopg import Connection

from tokenworks.kernel import Clock


class LedgerPart:
    """One subject of the ledger on one database connection (autocommit). Not for two threads at once."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
