"""The run that extends the accounts' own chains. `verify/chains.py` checks all chains."""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.charging.ledger import chain_store

# No transaction runs longer than this, so every entry that was posted before is visible.
CHAIN_AFTER: Final = timedelta(hours=1)
ACCOUNTS_AT_ONCE: Final = 1000


def chain_batch(
    connection: Connection, now: datetime, after: UUID, accounts: int = ACCOUNTS_AT_ONCE
) -> tuple[int, UUID | None]:
    """Chain the entries that the next `accounts` accounts above `after` posted until `CHAIN_AFTER` ago.

    Returns (entries chained, last account of this batch or None after the last batch). Each account, and each
    `chain_store.LINKS_AT_ONCE` of its entries, has its own transaction. A repeated call does no harm.
    """
    batch = chain_store.accounts_after(connection, after, accounts)
    count = 0
    for account_id in batch:
        while done := chain_store.chain_own(connection, account_id, now - CHAIN_AFTER):
            count += done
            if done < chain_store.LINKS_AT_ONCE:
                break
    return count, batch[-1] if len(batch) == accounts else None


def chain_all(connection: Connection, now: datetime) -> int:
    """As `chain_batch`, for all accounts."""
    count, after = 0, UUID(int=0)
    while True:
        done, last = chain_batch(connection, now, after)
        count += done
        if last is None:
            return count
        after = last
