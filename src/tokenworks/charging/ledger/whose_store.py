"""The SQL that finds the account of a row by the row's own id. A statement on a hot table names one account, so that comes first.

These queries ask every shard of a distributed database. A caller that knows the account does not need them.
"""

from uuid import UUID

from psycopg import Connection


def _one(row: tuple[object, ...] | None) -> UUID | None:
    return None if row is None else UUID(str(row[0]))


def of_bucket(connection: Connection, bucket_id: UUID) -> UUID | None:
    return _one(
        connection.execute("SELECT account_id FROM bucket WHERE bucket_id = %s", (bucket_id,)).fetchone()
    )


def of_grant(connection: Connection, grant_id: UUID) -> UUID | None:
    return _one(
        connection.execute("SELECT account_id FROM grants WHERE grant_id = %s", (grant_id,)).fetchone()
    )


def of_transfer(connection: Connection, transfer_id: UUID) -> UUID | None:
    return _one(
        connection.execute(
            "SELECT account_id FROM transfer WHERE transfer_id = %s", (transfer_id,)
        ).fetchone()
    )


def limit_statement_time(connection: Connection, seconds: int) -> None:
    """Limit the time of each statement of this transaction; a longer one raises `psycopg.errors.QueryCanceled`."""
    connection.execute("SELECT set_config('statement_timeout', %s, true)", (f"{seconds}s",))


def of_usage(connection: Connection, usage_id: UUID) -> UUID | None:
    """The account of a usage record. No index leads with this id, so the caller limits the time (`limit_statement_time`)."""
    return _one(
        connection.execute("SELECT account_id FROM usage WHERE usage_id = %s LIMIT 1", (usage_id,)).fetchone()
    )


def of_request(connection: Connection, request_id: str, floor: UUID, below: UUID) -> UUID | None:
    """The account of a request, from records with ids in [floor, below): the request's first attempt may have no record."""
    return _one(
        connection.execute(
            "SELECT account_id FROM usage WHERE usage_id >= %s AND usage_id < %s AND request_id = %s LIMIT 1",
            (floor, below, request_id),
        ).fetchone()
    )


# The tables of products and subscribers are small, and keyed by their own ids.


def of_product(connection: Connection, product_id: UUID) -> UUID | None:
    return _one(
        connection.execute("SELECT account_id FROM product WHERE product_id = %s", (product_id,)).fetchone()
    )


def of_subscriber(connection: Connection, subscriber_id: UUID) -> UUID | None:
    return _one(
        connection.execute(
            "SELECT account_id FROM subscriber WHERE subscriber_id = %s", (subscriber_id,)
        ).fetchone()
    )
