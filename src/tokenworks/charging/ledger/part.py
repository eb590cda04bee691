"""The base class of the ledger's parts."""

from psycopg import Connection

from tokenworks.kernel import Clock


class LedgerPart:
    """One subject of the ledger, on one database connection (autocommit). One thread at a time may use it."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
