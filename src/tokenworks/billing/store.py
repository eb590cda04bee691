"""The SQL of bills, payments, charge files, refunds and dunning."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import psycopg

from tokenworks.billing.model import Bill, CreditNote, Payment, Payout, Refund, Reversal
from tokenworks.charging import BillLine
from tokenworks.kernel import FORGOTTEN

Connection = psycopg.Connection[tuple[Any, ...]]
REJECTIONS_MAX: Final = 3

_BILL: Final = """bill_id, subscriber_id, account_id, bill_no, period_start, period_end, issued_at, due_at, currency, amount_nano,
    tax_nano, remaining_nano, state, channel"""


Due = tuple[UUID, UUID, datetime, datetime]
"""(subscriber, account, begin, end) of a bill that is due."""


def lock_due_subscribers(
    connection: Connection,
    days: Sequence[int],
    ends: Sequence[datetime],
    after: UUID,
    but: Sequence[UUID],
    limit: int,
) -> tuple[list[Due], UUID | None]:
    """The next ones who owe something for a period that has ended, but for some, locked, and the last one that was looked at,
    None where there are no more.

    `ends[i]` is the end of the period of those who are billed on `days[i]`. A period begins where the last bill's ended.
    Credits that exceed what is charged wait for the next bill.
    """
    # Runs at the same time take turns; and what an order does meanwhile is seen: looked at again once it is locked.
    connection.execute("SELECT pg_advisory_xact_lock(7461004)")
    found = next_due(connection, days, ends, after, but, limit)
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
    but: Sequence[UUID],
    limit: int,
) -> list[UUID]:
    """The next subscribers who owe something for a period that has ended, but for some, in ascending order."""
    where = "s.subscriber_id > %s AND s.subscriber_id <> ALL(%s::uuid[])"
    return [row[0] for row in _due(connection, days, ends, where, (after, list(but)), limit)]


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
        with cursor.copy(f"COPY bill ({_BILL}) FROM STDIN".encode()) as copy:
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
        f"SELECT {_BILL} FROM bill WHERE bill_id = %s {'FOR NO KEY UPDATE' if lock else ''}".encode(),
        (bill_id,),
    ).fetchone()
    return None if row is None else Bill(*row)


def bill_by_number(connection: Connection, bill_no: str) -> Bill | None:
    row = connection.execute(f"SELECT {_BILL} FROM bill WHERE bill_no = %s".encode(), (bill_no,)).fetchone()
    return None if row is None else Bill(*row)


def _page(
    connection: Connection,
    columns: str,
    table: str,
    order: str,
    subscriber_id: UUID | None,
    offset: int,
    limit: int,
) -> tuple[list[tuple[Any, ...]], int]:
    """A page of a subscriber's rows, or of all, and how many there are."""
    where = f"FROM {table} WHERE %(id)s::uuid IS NULL OR subscriber_id = %(id)s"
    names = {"id": subscriber_id, "offset": offset, "limit": limit}
    rows = connection.execute(
        f"SELECT {columns} {where} ORDER BY {order} OFFSET %(offset)s LIMIT %(limit)s".encode(), names
    ).fetchall()
    count = connection.execute(f"SELECT count(*) {where}".encode(), names).fetchone()
    assert count is not None
    return rows, int(count[0])


def bills(
    connection: Connection, subscriber_id: UUID | None, offset: int, limit: int
) -> tuple[list[Bill], int]:
    """Newest first."""
    rows, count = _page(connection, _BILL, "bill", "period_end DESC, bill_id", subscriber_id, offset, limit)
    return [Bill(*row) for row in rows], count


def lines(connection: Connection, bill_id: UUID) -> list[BillLine]:
    rows = connection.execute(
        """SELECT bill_id, line_no, account_id, product_id, offering_version, kind, description, description_zh, charges,
                  charged_nano, amount_nano, vat_percent, tax_nano, entry_id
           FROM bill_line WHERE bill_id = %s ORDER BY line_no""",
        (bill_id,),
    )
    return [BillLine(*row) for row in rows]


# Payments.

_PAYMENT: Final = "payment_id, subscriber_id, bill_id, method, amount_nano, currency, reference, paid_at"
_READ_PAYMENT: Final = f"""{_PAYMENT}, false, asked_nano,
    (SELECT reversed_at FROM payment_reversal r WHERE r.payment_id = payment.payment_id), reason"""


def find_payment(connection: Connection, method: str, reference: str) -> Payment | None:
    row = connection.execute(
        f"SELECT {_READ_PAYMENT} FROM payment WHERE method = %s AND reference = %s".encode(),
        (method, reference),
    ).fetchone()
    return None if row is None else Payment(*row)


def payment(connection: Connection, payment_id: UUID) -> Payment | None:
    row = connection.execute(
        f"SELECT {_READ_PAYMENT} FROM payment WHERE payment_id = %s".encode(), (payment_id,)
    ).fetchone()
    return None if row is None else Payment(*row)


def line_payments(connection: Connection, bill_id: UUID, reference: str) -> list[Payment]:
    """What was booked for a line of a charge file, oldest first: `reference`, and it with `#2` … where an answer changed."""
    rows = connection.execute(
        f"""SELECT {_READ_PAYMENT} FROM payment WHERE bill_id = %s AND method = 'phone_bill'
               AND (reference = %s OR starts_with(reference, %s)) ORDER BY payment_id""".encode(),
        (bill_id, reference, f"{reference}#"),
    )
    return [Payment(*row) for row in rows]


def write_offs(connection: Connection, bill_id: UUID) -> list[Payment]:
    """What of a bill is written off and not taken back, oldest first."""
    rows = connection.execute(
        f"""SELECT {_READ_PAYMENT} FROM payment WHERE bill_id = %s AND method = 'write_off'
               AND NOT EXISTS (SELECT 1 FROM payment_reversal r WHERE r.payment_id = payment.payment_id)
           ORDER BY payment_id""".encode(),
        (bill_id,),
    )
    return [Payment(*row) for row in rows]


def payments(
    connection: Connection, subscriber_id: UUID | None, offset: int, limit: int
) -> tuple[list[Payment], int]:
    """Newest first."""
    rows, count = _page(connection, _READ_PAYMENT, "payment", "payment_id DESC", subscriber_id, offset, limit)
    return [Payment(*row) for row in rows], count


def add_payment(connection: Connection, payment: Payment, account_id: UUID, entry_id: UUID) -> None:
    connection.execute(
        f"""INSERT INTO payment ({_PAYMENT}, account_id, entry_id, asked_nano, reason)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""".encode(),
        (payment.payment_id, payment.subscriber_id, payment.bill_id, payment.method, payment.amount_nano, payment.currency,
         payment.reference, payment.paid_at, account_id, entry_id, payment.asked_nano, payment.reason),
    )  # fmt: skip


_REVERSAL: Final = "reversal_id, payment_id, amount_nano, reason, reversed_at"


def add_reversal(connection: Connection, reversal: Reversal, account_id: UUID, entry_id: UUID) -> None:
    r = reversal
    connection.execute(
        f"INSERT INTO payment_reversal ({_REVERSAL}, account_id, entry_id) VALUES (%s, %s, %s, %s, %s, %s, %s)".encode(),
        (r.reversal_id, r.payment_id, r.amount_nano, r.reason, r.reversed_at, account_id, entry_id),
    )


# Payouts.


_PAYOUT: Final = "payout_id, subscriber_id, method, amount_nano, currency, reference, paid_at"


def find_payout(connection: Connection, method: str, reference: str) -> Payout | None:
    row = connection.execute(
        f"SELECT {_PAYOUT} FROM payout WHERE method = %s AND reference = %s".encode(), (method, reference)
    ).fetchone()
    return None if row is None else Payout(*row)


def add_payout(connection: Connection, payout: Payout, account_id: UUID, entry_id: UUID) -> None:
    connection.execute(
        f"INSERT INTO payout ({_PAYOUT}, account_id, entry_id) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)".encode(),
        (payout.payout_id, payout.subscriber_id, payout.method, payout.amount_nano, payout.currency, payout.reference,
         payout.paid_at, account_id, entry_id),
    )  # fmt: skip


def has_unpaid(connection: Connection, subscriber_id: UUID) -> bool:
    row = connection.execute(
        "SELECT 1 FROM bill WHERE subscriber_id = %s AND remaining_nano > 0 LIMIT 1", (subscriber_id,)
    ).fetchone()
    return row is not None


# Corrections.


def add_credit_note(
    connection: Connection, note: CreditNote, account_id: UUID, idempotency_key: str | None
) -> bool:
    """False where another one has the key by now."""
    row = connection.execute(
        """INSERT INTO credit_note (credit_note_id, credit_note_no, bill_id, account_id, charge_id, amount_nano, tax_nano, reason,
                                    issued_at, idempotency_key, line_no, credit_charge_ids)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (idempotency_key) DO NOTHING RETURNING 1""",
        (note.credit_note_id, note.credit_note_no, note.bill_id, account_id, note.charge_id, note.amount_nano, note.tax_nano,
         note.reason, note.issued_at, idempotency_key, note.line_no, list(note.credit_charge_ids or ())),
    ).fetchone()  # fmt: skip
    return row is not None


_NOTE: Final = "credit_note_id, credit_note_no, bill_id, charge_id, amount_nano, tax_nano, reason, issued_at, line_no, credit_charge_ids"


def _note(row: tuple[Any, ...]) -> CreditNote:
    """One that was there before."""
    *fields, credit_ids = row
    ids = None if credit_ids is None else tuple(credit_ids)
    return replace(CreditNote(*fields), credit_charge_ids=ids, new=False)


def credit_notes(connection: Connection, bill_id: UUID) -> list[CreditNote]:
    rows = connection.execute(
        f"SELECT {_NOTE} FROM credit_note WHERE bill_id = %s ORDER BY credit_note_id".encode(), (bill_id,)
    )
    return [_note(row) for row in rows]


def credit_note_of_key(connection: Connection, idempotency_key: str) -> CreditNote | None:
    row = connection.execute(
        f"SELECT {_NOTE} FROM credit_note WHERE idempotency_key = %s".encode(), (idempotency_key,)
    ).fetchone()
    return None if row is None else _note(row)


_REFUND: Final = """refund_id, order_id, account_id, charge_id, part, asked_nano, reason, state, amount_nano, asked_at, done_at,
    batch_id, kept"""


def add_refund(connection: Connection, refund: Refund, idempotency_key: str | None) -> bool:
    """False where the charge is refunded already."""
    r = refund
    row = connection.execute(
        f"""INSERT INTO refund ({_REFUND}, idempotency_key) VALUES ({", ".join(["%s"] * 14)})
            ON CONFLICT DO NOTHING RETURNING 1""".encode(),
        (r.refund_id, r.order_id, r.account_id, r.charge_id, r.part, r.asked_nano, r.reason, r.state, r.amount_nano, r.asked_at,
         r.done_at, r.batch_id, r.kept, idempotency_key),
    ).fetchone()  # fmt: skip
    return row is not None


def refunds_of_order(connection: Connection, order_id: UUID) -> list[Refund]:
    rows = connection.execute(
        f"SELECT {_REFUND} FROM refund WHERE order_id = %s ORDER BY refund_id".encode(), (order_id,)
    )
    return [Refund(*row) for row in rows]


def refund_by_id(connection: Connection, refund_id: UUID) -> Refund | None:
    row = connection.execute(
        f"SELECT {_REFUND} FROM refund WHERE refund_id = %s".encode(), (refund_id,)
    ).fetchone()
    return None if row is None else Refund(*row)


def refunds_of_key(connection: Connection, idempotency_key: str) -> list[Refund]:
    """All of the request that had this key, of whichever order."""
    rows = connection.execute(
        f"""SELECT {_REFUND}, false FROM refund WHERE batch_id = (SELECT batch_id FROM refund WHERE idempotency_key = %s)
            ORDER BY refund_id""".encode(),
        (idempotency_key,),
    )
    return [Refund(*row) for row in rows]


def pending_refunds(connection: Connection, but: Sequence[UUID], limit: int) -> list[UUID]:
    """Oldest first, but for some."""
    rows = connection.execute(
        """SELECT refund_id FROM refund WHERE state = 'pending' AND refund_id <> ALL(%s::uuid[])
           ORDER BY refund_id LIMIT %s""",
        (list(but), limit),
    )
    return [row[0] for row in rows]


def lock_pending_refund(connection: Connection, refund_id: UUID) -> Refund | None:
    """None where somebody else has it, or it is done."""
    row = connection.execute(
        f"SELECT {_REFUND} FROM refund WHERE refund_id = %s AND state = 'pending' FOR UPDATE SKIP LOCKED".encode(),
        (refund_id,),
    ).fetchone()
    return None if row is None else Refund(*row)


def end_refund(
    connection: Connection, refund_id: UUID, credit_charge_id: UUID | None, amount_nano: int, at: datetime
) -> None:
    connection.execute(
        "UPDATE refund SET state = 'done', credit_charge_id = %s, amount_nano = %s, done_at = %s WHERE refund_id = %s",
        (credit_charge_id, amount_nano, at, refund_id),
    )


# Charge files.


def bills_for_file(connection: Connection, limit: int) -> list[Bill]:
    """What is open and collected by phone, that no file waits for an answer of, and that was not rejected too often, of living
    subscribers who are not erased; locked. A closed one's number may be somebody else's.
    """
    rows = connection.execute(
        f"""SELECT {", ".join("b." + name.strip() for name in _BILL.split(","))}
            FROM bill b JOIN subscriber s USING (subscriber_id)
            WHERE s.erased_at IS NULL AND b.state <> 'settled' AND b.remaining_nano > 0 AND b.channel = 'phone'
                AND s.state <> 'closed' AND b.file_failures < %s
                AND NOT EXISTS (SELECT 1 FROM charge_file_line l WHERE l.bill_id = b.bill_id AND l.state = 'sent')
            ORDER BY b.bill_id LIMIT %s FOR UPDATE OF b SKIP LOCKED""".encode(),
        (REJECTIONS_MAX, limit),
    )
    return [Bill(*row) for row in rows]


def lock_files(connection: Connection) -> None:
    """Files are made one after the other: their numbers have no gap."""
    connection.execute("SELECT pg_advisory_xact_lock(7461003)")


def last_sequence(connection: Connection, layout: str) -> int:
    row = connection.execute(
        "SELECT coalesce(max(sequence_no), 0) FROM charge_file WHERE layout = %s", (layout,)
    ).fetchone()
    assert row is not None
    return int(row[0])


def add_file(
    connection: Connection,
    file_id: UUID,
    layout: str,
    sequence_no: int,
    amount_nano: int,
    sha256_sealed: bytes,
    content: str,
    made_at: datetime,
    lines: Sequence[tuple[int, UUID, int, bytes | None]],
) -> None:
    """`content` is the text without the phone numbers: those are encrypted beside it, the last of each of `lines`."""
    connection.execute(
        """INSERT INTO charge_file (charge_file_id, layout, sequence_no, lines, amount_nano, sha256_sealed, content, made_at, phones_apart)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, true)""",
        (file_id, layout, sequence_no, len(lines), amount_nano, sha256_sealed, content, made_at),
    )
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "COPY charge_file_line (charge_file_id, line_no, bill_id, amount_nano, phone_sealed) FROM STDIN"
        ) as copy,
    ):
        for line in lines:
            copy.write_row((file_id, *line))
    connection.execute(
        "UPDATE bill SET state = 'sent' WHERE state = 'new' AND bill_id = ANY(%s)",
        ([line[1] for line in lines],),
    )


def direct_bills(connection: Connection, offset: int, limit: int) -> tuple[list[Bill], int]:
    """What is open and not collected by phone, oldest first: of closed subscribers, and what was moved."""
    where = """FROM bill b JOIN subscriber s USING (subscriber_id)
        WHERE b.state <> 'settled' AND (b.channel = 'direct' OR s.state = 'closed')"""
    columns = ", ".join("b." + name.strip() for name in _BILL.split(","))
    rows = connection.execute(
        f"SELECT {columns} {where} ORDER BY b.due_at, b.bill_id OFFSET %s LIMIT %s".encode(), (offset, limit)
    ).fetchall()
    count = connection.execute(f"SELECT count(*) {where}".encode()).fetchone()
    assert count is not None
    return [Bill(*row) for row in rows], int(count[0])


def is_sent(connection: Connection, bill_id: UUID) -> bool:
    """Whether the carrier has been asked for a bill and has not answered."""
    row = connection.execute(
        "SELECT 1 FROM charge_file_line WHERE bill_id = %s AND state = 'sent'", (bill_id,)
    ).fetchone()
    return row is not None


def set_channel(connection: Connection, bill_id: UUID, channel: str) -> None:
    """A bill begins anew in its channel."""
    connection.execute(
        "UPDATE bill SET channel = %s, file_failures = 0 WHERE bill_id = %s", (channel, bill_id)
    )


def add_failures(connection: Connection, bill_ids: Sequence[UUID]) -> list[Bill]:
    """The carrier did not collect these, or gave it back. Returns those that are not sent again by themselves."""
    rows = connection.execute(
        f"""UPDATE bill SET file_failures = file_failures + 1 WHERE bill_id = ANY(%s)
            RETURNING {_BILL}, file_failures""".encode(),
        (list(bill_ids),),
    )
    return [Bill(*row[:-1]) for row in rows if row[-1] == REJECTIONS_MAX]


def lock_file(
    connection: Connection, layout: str, sequence_no: int
) -> tuple[UUID, int, datetime | None] | None:
    """(id, lines, when it was acknowledged), locked."""
    row = connection.execute(
        """SELECT charge_file_id, lines, acknowledged_at FROM charge_file WHERE layout = %s AND sequence_no = %s
           FOR UPDATE""",
        (layout, sequence_no),
    ).fetchone()
    return None if row is None else (row[0], row[1], row[2])


def file_content(connection: Connection, layout: str, sequence_no: int) -> tuple[UUID, str] | None:
    """(id, text without the phone numbers)."""
    row = connection.execute(
        "SELECT charge_file_id, content FROM charge_file WHERE layout = %s AND sequence_no = %s",
        (layout, sequence_no),
    ).fetchone()
    return None if row is None else (row[0], str(row[1]))


def phones_of_file(connection: Connection, file_id: UUID) -> list[tuple[int, UUID, bytes | None]]:
    """(line, subscriber, its encrypted phone number)."""
    rows = connection.execute(
        """SELECT l.line_no, b.subscriber_id, l.phone_sealed FROM charge_file_line l JOIN bill b USING (bill_id)
           WHERE l.charge_file_id = %s ORDER BY l.line_no""",
        (file_id,),
    )
    return [(row[0], row[1], None if row[2] is None else bytes(row[2])) for row in rows]


def files(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """Newest first."""
    cursor = connection.execute(
        """SELECT charge_file_id, sequence_no, layout, lines, amount_nano, made_at, acknowledged_at, sha256_sealed,
                  (SELECT count(*) FROM charge_file_line l WHERE l.charge_file_id = f.charge_file_id AND state = 'rejected')
                      AS rejected
           FROM charge_file f ORDER BY sequence_no DESC LIMIT %s""",
        (limit,),
    )
    assert cursor.description is not None
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def forget_file_hashes(connection: Connection, subscriber_id: UUID) -> None:
    connection.execute(
        """UPDATE charge_file SET sha256_sealed = NULL WHERE charge_file_id IN
               (SELECT l.charge_file_id FROM charge_file_line l JOIN bill b USING (bill_id) WHERE b.subscriber_id = %s)""",
        (subscriber_id,),
    )


def forget_texts(connection: Connection, subscriber_id: UUID, account_id: UUID) -> None:
    """What was written about a person in free text. Of history nothing else can be changed (`refuse_change_but_forgetting`)."""
    names = {"gone": FORGOTTEN, "subscriber": subscriber_id, "account": account_id}
    for statement in (
        "UPDATE credit_note SET reason = %(gone)s WHERE account_id = %(account)s",
        "UPDATE payment SET reason = %(gone)s WHERE account_id = %(account)s AND reason IS NOT NULL",
        "UPDATE payment_reversal SET reason = %(gone)s WHERE account_id = %(account)s",
        "UPDATE refund SET reason = %(gone)s WHERE account_id = %(account)s",
        """UPDATE reconciliation_case SET resolution = %(gone)s
           WHERE subscriber_id = %(subscriber)s AND resolution IS NOT NULL""",
        """UPDATE charge_file_line SET reason = %(gone)s WHERE reason IS NOT NULL
               AND bill_id IN (SELECT bill_id FROM bill WHERE subscriber_id = %(subscriber)s)""",
    ):
        connection.execute(statement.encode(), names)


def accounts_of_file(connection: Connection, file_id: UUID) -> list[UUID]:
    rows = connection.execute(
        "SELECT b.account_id FROM charge_file_line l JOIN bill b USING (bill_id) WHERE l.charge_file_id = %s",
        (file_id,),
    )
    return [row[0] for row in rows]


def dunned_of_file(connection: Connection, file_id: UUID) -> list[UUID]:
    """The subscribers of a file's bills that were dunned, for these or for others."""
    rows = connection.execute(
        """SELECT DISTINCT b.subscriber_id FROM charge_file_line l JOIN bill b USING (bill_id)
           WHERE l.charge_file_id = %s AND EXISTS (SELECT 1 FROM dunning d WHERE d.subscriber_id = b.subscriber_id)""",
        (file_id,),
    )
    return [row[0] for row in rows]


def line_states(connection: Connection, file_id: UUID) -> dict[int, str]:
    """What is known of each line of a file, by its number."""
    rows = connection.execute(
        "SELECT line_no, state FROM charge_file_line WHERE charge_file_id = %s", (file_id,)
    )
    return dict(rows.fetchall())


def reverse_line(connection: Connection, layout: str, sequence_no: int, line_no: int) -> None:
    """The carrier took back what it had collected for a line. Where it says that it has not, the line is rejected already."""
    connection.execute(
        """UPDATE charge_file_line l SET state = 'reversed' FROM charge_file f
           WHERE f.layout = %s AND f.sequence_no = %s AND l.charge_file_id = f.charge_file_id AND l.line_no = %s
               AND l.state = 'accepted'""",
        (layout, sequence_no, line_no),
    )


def lock_bills_of_file(
    connection: Connection, file_id: UUID, line_nos: Sequence[int]
) -> list[tuple[int, int, Bill]]:
    """(line, nano that was sent, its bill) of some lines of a file, the bills locked, in the order of the lines."""
    rows = connection.execute(
        f"""SELECT l.line_no, l.amount_nano, {", ".join("b." + name.strip() for name in _BILL.split(","))}
            FROM charge_file_line l JOIN bill b USING (bill_id)
            WHERE l.charge_file_id = %s AND l.line_no = ANY(%s) ORDER BY b.bill_id FOR NO KEY UPDATE OF b""".encode(),
        (file_id, list(line_nos)),
    ).fetchall()
    return sorted(((row[0], row[1], Bill(*row[2:])) for row in rows), key=lambda found: found[0])


def answer_lines(
    connection: Connection, file_id: UUID, answers: Sequence[tuple[int, str, str | None]]
) -> None:
    """(line, state, reason) of each."""
    connection.execute(
        """UPDATE charge_file_line l SET state = a.state, reason = a.reason
           FROM unnest(%s::int[], %s::text[], %s::text[]) AS a(line_no, state, reason)
           WHERE l.charge_file_id = %s AND l.line_no = a.line_no""",
        ([a[0] for a in answers], [a[1] for a in answers], [a[2] for a in answers], file_id),
    )


def add_payments(
    connection: Connection, payments: Sequence[tuple[Payment, UUID]], entry_ids: Sequence[UUID]
) -> None:
    """(payment, account) of each, with its entry."""
    with (
        connection.cursor() as cursor,
        cursor.copy(
            f"COPY payment ({_PAYMENT}, account_id, entry_id, asked_nano) FROM STDIN".encode()
        ) as copy,
    ):
        for (p, account_id), entry_id in zip(payments, entry_ids, strict=True):
            copy.write_row((
                p.payment_id, p.subscriber_id, p.bill_id, p.method, p.amount_nano, p.currency, p.reference, p.paid_at,
                account_id, entry_id, p.asked_nano,
            ))  # fmt: skip


def acknowledge_file(connection: Connection, file_id: UUID, at: datetime) -> None:
    connection.execute("UPDATE charge_file SET acknowledged_at = %s WHERE charge_file_id = %s", (at, file_id))


# Dunning.


def overdue(connection: Connection, due_before: datetime, step: str, limit: int) -> list[tuple[UUID, UUID]]:
    """(bill, subscriber) of unpaid bills that were due before a time and have not come to a step yet. Not of those that a
    charge file has which the carrier has not answered.
    """
    return connection.execute(
        """SELECT b.bill_id, b.subscriber_id FROM bill b JOIN subscriber s USING (subscriber_id)
           WHERE b.state <> 'settled' AND greatest(b.due_at, b.reopened_at) < %s AND s.state <> 'closed'
               AND NOT EXISTS (SELECT 1 FROM dunning d WHERE d.bill_id = b.bill_id AND d.step = %s)
               AND NOT EXISTS (SELECT 1 FROM charge_file_line l WHERE l.bill_id = b.bill_id AND l.state = 'sent')
           ORDER BY b.bill_id LIMIT %s""",
        (due_before, step, limit),
    ).fetchall()


def add_dunning(connection: Connection, bill_id: UUID, step: str, subscriber_id: UUID, at: datetime) -> bool:
    row = connection.execute(
        """INSERT INTO dunning (bill_id, step, subscriber_id, taken_at) VALUES (%s, %s, %s, %s)
           ON CONFLICT DO NOTHING RETURNING 1""",
        (bill_id, step, subscriber_id, at),
    ).fetchone()
    return row is not None


def follow_dunning(connection: Connection, subscriber_id: UUID, at: datetime) -> set[str] | None:
    """Steps end with what is open on their bills, and are in force again with it. Returns those in force, None where none
    changed.
    """
    changed = connection.execute(
        """UPDATE dunning d SET lifted_at = CASE WHEN b.remaining_nano = 0 THEN %s::timestamptz END FROM bill b
           WHERE d.subscriber_id = %s AND b.bill_id = d.bill_id AND (d.lifted_at IS NULL) = (b.remaining_nano = 0)""",
        (at, subscriber_id),
    ).rowcount
    if not changed:
        return None
    rows = connection.execute(
        "SELECT DISTINCT step FROM dunning WHERE subscriber_id = %s AND lifted_at IS NULL", (subscriber_id,)
    )
    return {row[0] for row in rows}


def dunned_for_nothing(connection: Connection, limit: int) -> list[UUID]:
    """Subscribers with steps in force for bills on which nothing is open any more: a credit from elsewhere settled them."""
    rows = connection.execute(
        """SELECT DISTINCT d.subscriber_id FROM dunning d JOIN bill b USING (bill_id)
           WHERE d.lifted_at IS NULL AND b.remaining_nano = 0 ORDER BY 1 LIMIT %s""",
        (limit,),
    )
    return [row[0] for row in rows]
