"""The SQL of looking up one request: its records, their entries, and the buckets they drew on. Each statement names the account."""

import json
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from psycopg import Connection
from psycopg.rows import DictRow, dict_row

from tokenworks.charging.ledger import chain
from tokenworks.charging.ledger.chain_store import digests_of_usage
from tokenworks.charging.ledger.settle_rows import ALL_USAGE_COLUMNS
from tokenworks.charging.ledger.usage_store import USAGE, shown_record

# The most records that one client id may match: a client can send the same id more than once.
NAMED_MAX: Final = 20
_RECORD: Final = f"{USAGE}, journal_id, seq, entry_id, settled_at"


def of_request(
    connection: Connection, account_id: UUID, request_id: str, floor: UUID, below: UUID
) -> list[DictRow]:
    """The records of a request, by attempt number; their ids are in [floor, below)."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            f"""SELECT {_RECORD} FROM usage WHERE account_id = %s AND usage_id >= %s AND usage_id < %s AND request_id = %s
                ORDER BY attempt_no""".encode(),
            (account_id, floor, below, request_id),
        ).fetchall()
    return [shown_record(row) for row in rows]


def request_of(connection: Connection, account_id: UUID, usage_id: UUID) -> str | None:
    """The request id of a record."""
    row = connection.execute(
        "SELECT request_id FROM usage WHERE account_id = %s AND usage_id = %s", (account_id, usage_id)
    ).fetchone()
    return None if row is None else str(row[0])


def requests_named(
    connection: Connection, account_id: UUID, floor: UUID, upstream_id: str, mark: str
) -> list[str]:
    """Request ids since `floor` whose record has this upstream id, or `mark` in its column `choice`; newest first."""
    rows = connection.execute(
        """SELECT request_id FROM usage WHERE account_id = %s AND usage_id >= %s
               AND (upstream_id = %s OR (choice LIKE '{%%' AND position(%s IN choice) > 0))
           ORDER BY usage_id DESC LIMIT %s""",
        (account_id, floor, upstream_id, mark, NAMED_MAX),
    ).fetchall()
    return list(dict.fromkeys(str(row[0]) for row in rows))


def in_quarantine(connection: Connection, id_: str) -> list[DictRow]:
    """Quarantined records that contain an id, in any state. The table is small, so it is scanned."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            """SELECT quarantine_id, account_id, usage_id, state, reason, quarantined_at FROM quarantine
               WHERE position(%s IN record) > 0 ORDER BY quarantine_id LIMIT %s""",
            (json.dumps(id_, ensure_ascii=False), NAMED_MAX),
        ).fetchall()


def host_of(connection: Connection, journal_id: UUID) -> str | None:
    row = connection.execute("SELECT host FROM journal WHERE journal_id = %s", (journal_id,)).fetchone()
    return None if row is None else str(row[0])


def entry(connection: Connection, account_id: UUID, entry_id: UUID) -> DictRow | None:
    """An entry with its postings in line order."""
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(
            "SELECT entry_id, kind, ref, posted_at FROM entry WHERE account_id = %s AND entry_id = %s",
            (account_id, entry_id),
        ).fetchone()
        if found is None:
            return None
        postings = cursor.execute(
            """SELECT line_no, ledger_account, unit, bucket_id, amount FROM posting
               WHERE account_id = %s AND entry_id = %s ORDER BY line_no""",
            (account_id, entry_id),
        ).fetchall()
    return {**found, "postings": postings}


def link(
    connection: Connection, account_id: UUID, chain_ids: Sequence[UUID], entry_id: UUID
) -> tuple[UUID, int, bytes, dict[str, bytes]] | None:
    """(chain, link number, hash, digests by usage id) of the link of an entry; None if the entry is in no chain yet."""
    row = connection.execute(
        """SELECT chain_id, link_no, hash, rows FROM chain_link
           WHERE account_id = %s AND chain_id = ANY(%s) AND entry_id = %s""",
        (account_id, list(chain_ids), entry_id),
    ).fetchone()
    return None if row is None else (row[0], int(row[1]), bytes(row[2]), chain.digests_of(bytes(row[3])))


def digests(connection: Connection, account_id: UUID, usage_ids: Sequence[UUID]) -> dict[str, bytes]:
    """The digests of these records as they are now, by usage id."""
    rows = connection.execute(
        f"SELECT {ALL_USAGE_COLUMNS} FROM usage WHERE account_id = %s AND usage_id = ANY(%s)".encode(),
        (account_id, list(usage_ids)),
    )
    return {usage_id: digest for _, usage_id, digest in digests_of_usage(rows)}


def buckets(connection: Connection, account_id: UUID, bucket_ids: Sequence[UUID]) -> list[DictRow]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            """SELECT bucket_id, kind, unit, product_id, charge_id, rate_version FROM bucket
               WHERE account_id = %s AND bucket_id = ANY(%s)""",
            (account_id, list(bucket_ids)),
        ).fetchall()
