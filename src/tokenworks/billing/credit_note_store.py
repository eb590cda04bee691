"""The SQL of credit notes."""

from dataclasses import replace
from typing import Final
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow

from tokenworks.billing.model import CreditNote
from tokenworks.kernel import FORGOTTEN

_NOTE: Final = "credit_note_id, credit_note_no, bill_id, charge_id, amount_nano, tax_nano, reason, issued_at, line_no, credit_charge_ids"


def add_credit_note(
    connection: Connection, note: CreditNote, account_id: UUID, idempotency_key: str | None
) -> bool:
    """Return False if another credit note has the idempotency key."""
    row = connection.execute(
        """INSERT INTO credit_note (credit_note_id, credit_note_no, bill_id, account_id, charge_id, amount_nano, tax_nano, reason,
                                    issued_at, idempotency_key, line_no, credit_charge_ids)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (idempotency_key) DO NOTHING RETURNING 1""",
        (note.credit_note_id, note.credit_note_no, note.bill_id, account_id, note.charge_id, note.amount_nano, note.tax_nano,
         note.reason, note.issued_at, idempotency_key, note.line_no, list(note.credit_charge_ids or ())),
    ).fetchone()  # fmt: skip
    return row is not None


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


def _note(row: TupleRow) -> CreditNote:
    """A credit note from a row; it is not new."""
    *fields, credit_ids = row
    ids = None if credit_ids is None else tuple(credit_ids)
    return replace(CreditNote(*fields), credit_charge_ids=ids, new=False)


def forget(connection: Connection, account_id: UUID) -> None:
    """Erase the free text. Nothing else of history can be changed (`refuse_change_but_forgetting`)."""
    connection.execute("UPDATE credit_note SET reason = %s WHERE account_id = %s", (FORGOTTEN, account_id))
