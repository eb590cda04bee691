"""The run that chains what no journal settled. `verify/chains.py` checks all chains."""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.charging.ledger import chain_store

# Longer than any transaction runs: what was posted before that is visible by now.
CHAIN_AFTER: Final = timedelta(hours=1)
ACCOUNTS_AT_ONCE: Final = 1000


def chain_some(
    connection: Connection, now: datetime, after: UUID, accounts: int = ACCOUNTS_AT_ONCE
) -> tuple[int, UUID | None]:
    """Chain what so many accounts above `after` posted until `CHAIN_AFTER` ago. Returns how many entries, and the last account,
    None where there are no more. A transaction for each account and `chain_store.LINKS_AT_ONCE` entries; again is harmless.
    """
    found = chain_store.accounts_after(connection, after, accounts)
    count = 0
    for account_id in found:
        while done := chain_store.chain_own(connection, account_id, now - CHAIN_AFTER):
            count += done
            if done < chain_store.LINKS_AT_ONCE:
                break
    return count, found[-1] if len(found) == accounts else None


def chain_all(connection: Connection, now: datetime) -> int:
    """As `chain_some`, of all accounts."""
    count, after = 0, UUID(int=0)
    while True:
        done, last = chain_some(connection, now, after)
        count += done
        if last is None:
            return count
        after = last
