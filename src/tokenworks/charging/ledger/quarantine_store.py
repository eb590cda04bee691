"""The SQL of quarantine: listing and deciding usage records that the database refused."""

from datetime import datetime
from uuid import UUID

from psycopg import Connection
from psycopg.rows import DictRow, dict_row

from tokenworks.charging.errors import QuarantineNotFound
from tokenworks.charging.ledger.settle_store import ensure_usage_months, month_of, settle_alone
from tokenworks.charging.messages import Amount
from tokenworks.charging.model import (
    RateLookup,
    decode_record,
)


def quarantined(connection: Connection, limit: int) -> list[DictRow]:
    """Records held in quarantine, oldest first."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            """SELECT quarantine_id, journal_id, seq, account_id, usage_id, reason, quarantined_at, record FROM quarantine
               WHERE state = 'held' ORDER BY quarantine_id LIMIT %s""",
            (limit,),
        ).fetchall()


def decide_quarantine(
    connection: Connection, quarantine_id: UUID, state: str, rates: RateLookup, now: datetime
) -> None:
    """Decide a record. `released`: it is settled now; `dropped`: it is never charged. Either way it no longer puts a grant in doubt."""
    with connection.transaction():
        row = connection.execute(
            """SELECT journal_id, seq, account_id, record, now() FROM quarantine
               WHERE quarantine_id = %s AND state = 'held' FOR UPDATE""",
            (quarantine_id,),
        ).fetchone()
        if row is None:
            raise QuarantineNotFound(f"no record {quarantine_id} is held in quarantine")
        journal_id, seq, account_id, text, settled_at = row
        if state == "released":
            # Only a release reads the record: an unreadable record can still be dropped.
            record = decode_record(text.encode())
            ensure_usage_months(connection, {month_of(record.usage_id)})
            used = [Amount(part.bucket_id, part.grant_id, part.amount) for part in record.parts]
            settling = (seq, account_id.hex, used, text.encode())
            settle_alone(connection, journal_id, account_id, settling, rates, settled_at)
        connection.execute(
            "UPDATE quarantine SET state = %s, decided_at = %s WHERE quarantine_id = %s",
            (state, now, quarantine_id),
        )
        # Lock the grants first: a concurrent settlement that quarantines another record waits here, and sets the doubt again.
        connection.execute(
            """SELECT 1 FROM grants WHERE account_id = %s AND journal_id = %s AND doubt = 'quarantine'
               ORDER BY grant_id FOR UPDATE""",
            (account_id, journal_id),
        )
        held = connection.execute(
            "SELECT 1 FROM quarantine WHERE account_id = %s AND journal_id = %s AND state = 'held' LIMIT 1",
            (account_id, journal_id),
        ).fetchone()
        if held is None:
            connection.execute(
                "UPDATE grants SET doubt = NULL WHERE account_id = %s AND journal_id = %s AND doubt = 'quarantine'",
                (account_id, journal_id),
            )
