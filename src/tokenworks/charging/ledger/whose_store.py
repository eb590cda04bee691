"""The account of what is named by its own id alone: a statement on a hot table names one account, so it is found first.

These look-ups ask every shard of a distributed database; who knows the account does not need them.
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


def stop_after(connection: Connection, seconds: int) -> None:
    """Bound each statement of this transaction: it raises `psycopg.errors.QueryCanceled` then."""
    connection.execute("SELECT set_config('statement_timeout', %s, true)", (f"{seconds}s",))


def of_usage(connection: Connection, usage_id: UUID) -> UUID | None:
    """By the id alone, of the partitions of its month: no index leads with it, so what asks bounds the time."""
    return _one(
        connection.execute("SELECT account_id FROM usage WHERE usage_id = %s LIMIT 1", (usage_id,)).fetchone()
    )


def of_request(connection: Connection, request_id: str, floor: UUID, below: UUID) -> UUID | None:
    """By a request's id, of records with ids in [floor, below): its first attempt may have left none."""
    return _one(
        connection.execute(
            "SELECT account_id FROM usage WHERE usage_id >= %s AND usage_id < %s AND request_id = %s LIMIT 1",
            (floor, below, request_id),
        ).fetchone()
    )


# Products and subscribers are few beside what they cause; their tables are keyed by their own ids.


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
