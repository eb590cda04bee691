"""SQL that all stores of the ledger share: the database's time, entries with their postings, and notifying hosts of a change."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.kernel import uuid7

Posting = tuple[str, str, UUID | None, int]
"""(ledger account, unit, bucket, amount); the amounts of an entry sum to zero per unit."""

RECORDS_SHOWN_MAX: Final = 1000


def database_now(connection: Connection) -> datetime:
    """The time of the database's clock. A statement that changes rows gets this time as a parameter."""
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


def _check_balanced(kind: str, ref: str, postings: Sequence[Posting]) -> None:
    """Assert that the postings of an entry sum to zero per unit. The auditor checks the same."""
    sums: dict[str, int] = {}
    for _, unit, _, amount in postings:
        sums[unit] = sums.get(unit, 0) + amount
    assert not any(sums.values()), f"entry {kind} {ref} does not balance: {sums}"


def post(connection: Connection, account_id: UUID, kind: str, ref: str, postings: Sequence[Posting]) -> UUID:
    """Write one entry with its postings, which must balance. Returns its id."""
    _check_balanced(kind, ref, postings)
    entry_id = uuid7()
    connection.execute(
        "INSERT INTO entry (account_id, entry_id, kind, ref) VALUES (%s, %s, %s, %s)",
        (account_id, entry_id, kind, ref),
    )
    with connection.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO posting (account_id, entry_id, line_no, ledger_account, unit, bucket_id, amount)
               VALUES (%s, %s, %s, %s, %s, %s, %s)""",
            [(account_id, entry_id, no, account, unit, bucket, amount)
             for no, (account, unit, bucket, amount) in enumerate(postings, 1)],
        )  # fmt: skip
    return entry_id


def post_many(
    connection: Connection, kind: str, entries: Sequence[tuple[UUID, str, Sequence[Posting]]]
) -> list[UUID]:
    """Write entries of one kind, given as (account, ref, postings). Each must balance, as in `post`. Returns their ids in order."""
    ids = [uuid7() for _ in entries]
    with connection.cursor() as cursor:
        with cursor.copy("COPY entry (account_id, entry_id, kind, ref) FROM STDIN") as copy:
            for entry_id, (account_id, ref, postings) in zip(ids, entries, strict=True):
                _check_balanced(kind, ref, postings)
                copy.write_row((account_id, entry_id, kind, ref))
        with cursor.copy(
            "COPY posting (account_id, entry_id, line_no, ledger_account, unit, bucket_id, amount) FROM STDIN"
        ) as copy:
            for entry_id, (account_id, _, postings) in zip(ids, entries, strict=True):
                for line_no, posting in enumerate(postings, 1):
                    copy.write_row((account_id, entry_id, line_no, *posting))
    return ids


def notify_hosts(connection: Connection, account_id: UUID) -> None:
    """Make the hosts that have grants of this account read it again."""
    connection.execute("INSERT INTO change (kind, ref) VALUES ('account', %s)", (account_id.hex,))
