"""The SQL of payments, their reversals and payouts."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.billing.bill_store import page_of_subscriber
from tokenworks.billing.model import Payment, Payout, Reversal
from tokenworks.kernel import FORGOTTEN

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
    """The payments of a charge file's line, oldest first: `reference`, then with `#2` … if later answers changed the result."""
    rows = connection.execute(
        f"""SELECT {_READ_PAYMENT} FROM payment WHERE bill_id = %s AND method = 'phone_bill'
               AND (reference = %s OR starts_with(reference, %s)) ORDER BY payment_id""".encode(),
        (bill_id, reference, f"{reference}#"),
    )
    return [Payment(*row) for row in rows]


def write_offs(connection: Connection, bill_id: UUID) -> list[Payment]:
    """The write-offs of a bill that are not reversed, oldest first."""
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
    rows, count = page_of_subscriber(
        connection, _READ_PAYMENT, "payment", "payment_id DESC", subscriber_id, offset, limit
    )
    return [Payment(*row) for row in rows], count


def add_payment(connection: Connection, payment: Payment, account_id: UUID, entry_id: UUID) -> None:
    connection.execute(
        f"""INSERT INTO payment ({_PAYMENT}, account_id, entry_id, asked_nano, reason)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""".encode(),
        (payment.payment_id, payment.subscriber_id, payment.bill_id, payment.method, payment.amount_nano, payment.currency,
         payment.reference, payment.paid_at, account_id, entry_id, payment.asked_nano, payment.reason),
    )  # fmt: skip


def add_payments(
    connection: Connection, payments: Sequence[tuple[Payment, UUID]], entry_ids: Sequence[UUID]
) -> None:
    """`payments`: (payment, account); `entry_ids`: the entry of each."""
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


_REVERSAL: Final = "reversal_id, payment_id, amount_nano, reason, reversed_at"


def add_reversal(connection: Connection, reversal: Reversal, account_id: UUID, entry_id: UUID) -> None:
    r = reversal
    connection.execute(
        f"INSERT INTO payment_reversal ({_REVERSAL}, account_id, entry_id) VALUES (%s, %s, %s, %s, %s, %s, %s)".encode(),
        (r.reversal_id, r.payment_id, r.amount_nano, r.reason, r.reversed_at, account_id, entry_id),
    )


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


def forget(connection: Connection, account_id: UUID) -> None:
    """Erase the free text. Nothing else of history can be changed (`refuse_change_but_forgetting`)."""
    connection.execute(
        "UPDATE payment SET reason = %s WHERE account_id = %s AND reason IS NOT NULL", (FORGOTTEN, account_id)
    )
    connection.execute(
        "UPDATE payment_reversal SET reason = %s WHERE account_id = %s", (FORGOTTEN, account_id)
    )
