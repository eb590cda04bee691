"""The SQL of contract prices (table `contract_price`)."""

from datetime import datetime
from uuid import UUID

from psycopg import Connection

from tokenworks.subscriptions.model import ContractPrice


def set_contract_price(
    connection: Connection,
    subscriber_id: UUID,
    offering_id: str,
    price_nano: int,
    valid_from: datetime,
    valid_until: datetime | None,
    contract: str,
) -> None:
    connection.execute(
        """INSERT INTO contract_price (subscriber_id, offering_id, price_nano, valid_from, valid_until, contract)
           VALUES (%s, %s, %s, %s, %s, %s)""",
        (subscriber_id, offering_id, price_nano, valid_from, valid_until, contract),
    )


def contract_price(connection: Connection, subscriber_id: UUID, offering_id: str, at: datetime) -> int | None:
    """The price in nano of the newest contract that is valid at an instant."""
    row = connection.execute(
        """SELECT price_nano FROM contract_price WHERE subscriber_id = %s AND offering_id = %s AND valid_from <= %s
               AND (valid_until IS NULL OR valid_until > %s) ORDER BY valid_from DESC LIMIT 1""",
        (subscriber_id, offering_id, at, at),
    ).fetchone()
    return None if row is None else int(row[0])


def contract_prices(connection: Connection, subscriber_id: UUID) -> list[ContractPrice]:
    rows = connection.execute(
        """SELECT offering_id, price_nano, valid_from, valid_until, contract FROM contract_price WHERE subscriber_id = %s
           ORDER BY offering_id, valid_from""",
        (subscriber_id,),
    )
    return [ContractPrice(*row) for row in rows]
