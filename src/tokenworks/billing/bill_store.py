"""The SQL of bills, their lines and their numbers."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow

from tokenworks.billing.model import Bill
from tokenworks.charging import BillLine

BILL_COLUMNS: Final = """bill_id, subscriber_id, account_id, bill_no, period_start, period_end, issued_at, due_at, currency, amount_nano,
    tax_nano, remaining_nano, state, channel"""
BILL_OF_B: Final = ", ".join("b." + name.strip() for name in BILL_COLUMNS.split(","))

Due = tuple[UUID, UUID, datetime, datetime]
"""(subscriber, account, begin, end) of a bill that is due."""


def lock_due_subscribers(
    connection: Connection,
    days: Sequence[int],
    ends: Sequence[datetime],
    after: UUID,
    excluded: Sequence[UUID],
    limit: int,
) -> tuple[list[Due], UUID | None]:
    """Lock the next subscribers that owe something for a period that has ended. Returns what is due, and the last subscriber that was
    read, or None if there are no more.

    `ends[i]` is the end of the period of subscribers that are billed on `days[i]`. A period begins at the end of the last bill's period.
    If credits exceed charges, they wait for the next bill.
    """
    # Concurrent runs take turns. What is due is read again under the lock, because an order may have changed it.
    connection.execute("SELECT pg_advisory_xact_lock(7461004)")
    found = next_due(connection, days, ends, after, excluded, limit)
    connection.execute(
        "SELECT 1 FROM subscriber WHERE subscriber_id = ANY(%s) ORDER BY subscriber_id FOR NO KEY UPDATE",
        (found,),
    )
    due = _due(connection, days, ends, "s.subscriber_id = ANY(%s)", (found,), limit)
    return due, found[-1] if len(found) == limit else None


def next_due(
    connection: Connection,
    days: Sequence[int],
    ends: Sequence[datetime],
    after: UUID,
    excluded: Sequence[UUID],
    limit: int,
) -> list[UUID]:
    """The next subscribers that owe something for a period that has ended, without the excluded ones, in ascending order."""
    where = "s.subscriber_id > %s AND s.subscriber_id <> ALL(%s::uuid[])"
    return [row[0] for row in _due(connection, days, ends, where, (after, list(excluded)), limit)]


def _due(
    connection: Connection,
    days: Sequence[int],
    ends: Sequence[datetime],
    which: str,
    values: tuple[object, ...],
    limit: int,
) -> list[Due]:
    return connection.execute(
        f"""SELECT s.subscriber_id, s.account_id, coalesce(l.ends, x.first), e.ends
           FROM subscriber s JOIN unnest(%s::int[], %s::timestamptz[]) AS e(day, ends) ON e.day = s.bill_day
           CROSS JOIN LATERAL (SELECT max(b.period_end) AS ends FROM bill b WHERE b.subscriber_id = s.subscriber_id) l
           CROSS JOIN LATERAL (
               SELECT sum(c.amount_nano) AS nano, min(c.charged_at) AS first FROM charge c
               WHERE c.account_id = s.account_id AND c.subscriber_id = s.subscriber_id AND c.bill_id IS NULL
                   AND c.settles_bill_id IS NULL AND c.charged_at < e.ends) x
           WHERE {which} AND (l.ends IS NULL OR l.ends < e.ends) AND x.nano > 0
           ORDER BY s.subscriber_id LIMIT %s""".encode(),
        (list(days), list(ends), *values, limit),
    ).fetchall()


def count_due(connection: Connection, days: Sequence[int], ends: Sequence[datetime]) -> tuple[int, int]:
    """(subscribers, nano) that a run would bill."""
    row = connection.execute(
        """SELECT count(*), coalesce(sum(nano), 0)::bigint FROM (
               SELECT s.subscriber_id, sum(c.amount_nano) AS nano
               FROM charge c JOIN subscriber s USING (subscriber_id)
               JOIN unnest(%s::int[], %s::timestamptz[]) AS e(day, ends) ON e.day = s.bill_day
               WHERE c.bill_id IS NULL AND c.settles_bill_id IS NULL AND c.charged_at < e.ends
                   AND NOT EXISTS (SELECT 1 FROM bill b WHERE b.subscriber_id = s.subscriber_id AND b.period_end >= e.ends)
               GROUP BY 1 HAVING sum(c.amount_nano) > 0) d""",
        (list(days), list(ends)),
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def next_numbers(connection: Connection, kind: str, count: int) -> list[int]:
    """The next numbers of a kind of document. Whoever makes one next waits for this transaction: what it rolls back has no number."""
    row = connection.execute(
        "UPDATE document_number SET last = last + %s WHERE kind = %s RETURNING last", (count, kind)
    ).fetchone()
    assert row is not None, f"documents of kind {kind} have no number"
    return list(range(int(row[0]) - count + 1, int(row[0]) + 1))


def add_bills(connection: Connection, bills: Sequence[Bill], lines: Sequence[BillLine]) -> None:
    with connection.cursor() as cursor:
        with cursor.copy(f"COPY bill ({BILL_COLUMNS}) FROM STDIN".encode()) as copy:
            for b in bills:
                copy.write_row((
                    b.bill_id, b.subscriber_id, b.account_id, b.bill_no, b.period_start, b.period_end, b.issued_at, b.due_at,
                    b.currency, b.amount_nano, b.tax_nano, b.remaining_nano, b.state, b.channel,
                ))  # fmt: skip
        with cursor.copy(
            """COPY bill_line (bill_id, line_no, account_id, product_id, offering_version, kind, description, description_zh,
                               charges, charged_nano, amount_nano, vat_percent, tax_nano, entry_id) FROM STDIN"""
        ) as copy:
            for n in lines:
                copy.write_row((
                    n.bill_id, n.line_no, n.account_id, n.product_id, n.offering_version, n.kind, n.description,
                    n.description_zh, n.charges, n.charged_nano, n.amount_nano, n.vat_percent, n.tax_nano, n.entry_id,
                ))  # fmt: skip


def find_bill(connection: Connection, bill_id: UUID, *, lock: bool = False) -> Bill | None:
    row = connection.execute(
        f"SELECT {BILL_COLUMNS} FROM bill WHERE bill_id = %s {'FOR NO KEY UPDATE' if lock else ''}".encode(),
        (bill_id,),
    ).fetchone()
    return None if row is None else Bill(*row)


def bill_by_number(connection: Connection, bill_no: str) -> Bill | None:
    row = connection.execute(
        f"SELECT {BILL_COLUMNS} FROM bill WHERE bill_no = %s".encode(), (bill_no,)
    ).fetchone()
    return None if row is None else Bill(*row)


def bills(
    connection: Connection, subscriber_id: UUID | None, offset: int, limit: int
) -> tuple[list[Bill], int]:
    """Newest first."""
    rows, count = page_of_subscriber(
        connection, BILL_COLUMNS, "bill", "period_end DESC, bill_id", subscriber_id, offset, limit
    )
    return [Bill(*row) for row in rows], count


def direct_bills(connection: Connection, offset: int, limit: int) -> tuple[list[Bill], int]:
    """Open bills that are not collected by the phone bill, oldest first: of closed subscribers, or moved to the direct channel."""
    where = """FROM bill b JOIN subscriber s USING (subscriber_id)
        WHERE b.state <> 'settled' AND (b.channel = 'direct' OR s.state = 'closed')"""
    rows = connection.execute(
        f"SELECT {BILL_OF_B} {where} ORDER BY b.due_at, b.bill_id OFFSET %s LIMIT %s".encode(),
        (offset, limit),
    ).fetchall()
    count = connection.execute(f"SELECT count(*) {where}".encode()).fetchone()
    assert count is not None
    return [Bill(*row) for row in rows], int(count[0])


def has_unpaid(connection: Connection, subscriber_id: UUID) -> bool:
    row = connection.execute(
        "SELECT 1 FROM bill WHERE subscriber_id = %s AND remaining_nano > 0 LIMIT 1", (subscriber_id,)
    ).fetchone()
    return row is not None


def lines(connection: Connection, bill_id: UUID) -> list[BillLine]:
    rows = connection.execute(
        """SELECT bill_id, line_no, account_id, product_id, offering_version, kind, description, description_zh, charges,
                  charged_nano, amount_nano, vat_percent, tax_nano, entry_id
           FROM bill_line WHERE bill_id = %s ORDER BY line_no""",
        (bill_id,),
    )
    return [BillLine(*row) for row in rows]


def set_channel(connection: Connection, bill_id: UUID, channel: str) -> None:
    """Set a bill's channel and reset its count of rejections."""
    connection.execute(
        "UPDATE bill SET channel = %s, file_failures = 0 WHERE bill_id = %s", (channel, bill_id)
    )


def page_of_subscriber(
    connection: Connection,
    columns: str,
    table: str,
    order: str,
    subscriber_id: UUID | None,
    offset: int,
    limit: int,
) -> tuple[list[TupleRow], int]:
    """A page of the rows of one subscriber, or of all subscribers, and how many there are."""
    where = f"FROM {table} WHERE %(id)s::uuid IS NULL OR subscriber_id = %(id)s"
    names = {"id": subscriber_id, "offset": offset, "limit": limit}
    rows = connection.execute(
        f"SELECT {columns} {where} ORDER BY {order} OFFSET %(offset)s LIMIT %(limit)s".encode(), names
    ).fetchall()
    count = connection.execute(f"SELECT count(*) {where}".encode(), names).fetchone()
    assert count is not None
    return rows, int(count[0])
