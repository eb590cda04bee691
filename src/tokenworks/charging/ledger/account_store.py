"""The SQL of accounts: opening, freezing and closing them."""

from uuid import UUID

from psycopg import Connection


def add_account(connection: Connection, account_id: UUID) -> None:
    connection.execute("INSERT INTO account (account_id) VALUES (%s)", (account_id,))


def account_state(connection: Connection, account_id: UUID) -> str | None:
    row = connection.execute("SELECT state FROM account WHERE account_id = %s", (account_id,)).fetchone()
    return None if row is None else str(row[0])


def set_account_state(connection: Connection, account_id: UUID, state: str) -> bool:
    """Set the state of an account and notify the hosts. Returns False if the account does not exist or is closed."""
    with connection.transaction():
        changed = connection.execute(
            "UPDATE account SET state = %s WHERE account_id = %s AND state <> 'closed'", (state, account_id)
        ).rowcount
        connection.execute("INSERT INTO change (kind, ref) VALUES ('freeze', %s)", (account_id.hex,))
    return bool(changed)
