"""The SQL of the phone bill's charge files and of the bills in them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.billing.bill_store import BILL_COLUMNS, BILL_OF_B
from tokenworks.billing.model import Bill
from tokenworks.kernel import FORGOTTEN

REJECTIONS_MAX: Final = 3


def lock_files(connection: Connection) -> None:
    """Make charge files one after the other, so that their numbers have no gap."""
    connection.execute("SELECT pg_advisory_xact_lock(7461003)")


def last_sequence(connection: Connection, layout: str) -> int:
    row = connection.execute(
        "SELECT coalesce(max(sequence_no), 0) FROM charge_file WHERE layout = %s", (layout,)
    ).fetchone()
    assert row is not None
    return int(row[0])


def bills_for_file(connection: Connection, limit: int) -> list[Bill]:
    """Lock the bills for a new file: open, collected by the phone bill, in no unanswered file, not rejected too often, and of a
    subscriber that is neither closed nor erased. The number of a closed subscriber may belong to another person by now.
    """
    rows = connection.execute(
        f"""SELECT {BILL_OF_B}
            FROM bill b JOIN subscriber s USING (subscriber_id)
            WHERE s.erased_at IS NULL AND b.state <> 'settled' AND b.remaining_nano > 0 AND b.channel = 'phone'
                AND s.state <> 'closed' AND b.file_failures < %s
                AND NOT EXISTS (SELECT 1 FROM charge_file_line l WHERE l.bill_id = b.bill_id AND l.state = 'sent')
            ORDER BY b.bill_id LIMIT %s FOR UPDATE OF b SKIP LOCKED""".encode(),
        (REJECTIONS_MAX, limit),
    )
    return [Bill(*row) for row in rows]


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
    """`content`: the text without phone numbers. `lines`: (line, bill, amount, encrypted phone number)."""
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


def files(connection: Connection, limit: int) -> list[dict[str, object]]:
    """Charge files by column name, newest first."""
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


def acknowledge_file(connection: Connection, file_id: UUID, at: datetime) -> None:
    connection.execute("UPDATE charge_file SET acknowledged_at = %s WHERE charge_file_id = %s", (at, file_id))


def accounts_of_file(connection: Connection, file_id: UUID) -> list[UUID]:
    rows = connection.execute(
        "SELECT b.account_id FROM charge_file_line l JOIN bill b USING (bill_id) WHERE l.charge_file_id = %s",
        (file_id,),
    )
    return [row[0] for row in rows]


def dunned_of_file(connection: Connection, file_id: UUID) -> list[UUID]:
    """The subscribers of a file's bills that have dunning steps, for these bills or for others."""
    rows = connection.execute(
        """SELECT DISTINCT b.subscriber_id FROM charge_file_line l JOIN bill b USING (bill_id)
           WHERE l.charge_file_id = %s AND EXISTS (SELECT 1 FROM dunning d WHERE d.subscriber_id = b.subscriber_id)""",
        (file_id,),
    )
    return [row[0] for row in rows]


def line_states(connection: Connection, file_id: UUID) -> dict[int, str]:
    """By line number: the state of each line of a file."""
    rows = connection.execute(
        "SELECT line_no, state FROM charge_file_line WHERE charge_file_id = %s", (file_id,)
    )
    return dict(rows.fetchall())


def lock_bills_of_file(
    connection: Connection, file_id: UUID, line_nos: Sequence[int]
) -> list[tuple[int, int, Bill]]:
    """(line, nano that was sent, bill) of some lines of a file, in the order of the lines. The bills are locked."""
    rows = connection.execute(
        f"""SELECT l.line_no, l.amount_nano, {BILL_OF_B}
            FROM charge_file_line l JOIN bill b USING (bill_id)
            WHERE l.charge_file_id = %s AND l.line_no = ANY(%s) ORDER BY b.bill_id FOR NO KEY UPDATE OF b""".encode(),
        (file_id, list(line_nos)),
    ).fetchall()
    return sorted(((row[0], row[1], Bill(*row[2:])) for row in rows), key=lambda found: found[0])


def answer_lines(
    connection: Connection, file_id: UUID, answers: Sequence[tuple[int, str, str | None]]
) -> None:
    """Store answers: (line, state, reason) of each."""
    connection.execute(
        """UPDATE charge_file_line l SET state = a.state, reason = a.reason
           FROM unnest(%s::int[], %s::text[], %s::text[]) AS a(line_no, state, reason)
           WHERE l.charge_file_id = %s AND l.line_no = a.line_no""",
        ([a[0] for a in answers], [a[1] for a in answers], [a[2] for a in answers], file_id),
    )


def reverse_line(connection: Connection, layout: str, sequence_no: int, line_no: int) -> None:
    """Mark a line as reversed whose collected amount the carrier took back. A line that a later answer rejected stays rejected."""
    connection.execute(
        """UPDATE charge_file_line l SET state = 'reversed' FROM charge_file f
           WHERE f.layout = %s AND f.sequence_no = %s AND l.charge_file_id = f.charge_file_id AND l.line_no = %s
               AND l.state = 'accepted'""",
        (layout, sequence_no, line_no),
    )


def is_sent(connection: Connection, bill_id: UUID) -> bool:
    """True if a bill is in a charge file that the carrier has not answered."""
    row = connection.execute(
        "SELECT 1 FROM charge_file_line WHERE bill_id = %s AND state = 'sent'", (bill_id,)
    ).fetchone()
    return row is not None


def add_failures(connection: Connection, bill_ids: Sequence[UUID]) -> list[Bill]:
    """Count a failed collection of each bill. Returns the bills that have now failed too often to be sent again automatically."""
    rows = connection.execute(
        f"""UPDATE bill SET file_failures = file_failures + 1 WHERE bill_id = ANY(%s)
            RETURNING {BILL_COLUMNS}, file_failures""".encode(),
        (list(bill_ids),),
    )
    return [Bill(*row[:-1]) for row in rows if row[-1] == REJECTIONS_MAX]


def forget_file_hashes(connection: Connection, subscriber_id: UUID) -> None:
    connection.execute(
        """UPDATE charge_file SET sha256_sealed = NULL WHERE charge_file_id IN
               (SELECT l.charge_file_id FROM charge_file_line l JOIN bill b USING (bill_id) WHERE b.subscriber_id = %s)""",
        (subscriber_id,),
    )


def forget_reasons(connection: Connection, subscriber_id: UUID) -> None:
    """Erase the carrier's free text about a subscriber."""
    connection.execute(
        """UPDATE charge_file_line SET reason = %s WHERE reason IS NOT NULL
               AND bill_id IN (SELECT bill_id FROM bill WHERE subscriber_id = %s)""",
        (FORGOTTEN, subscriber_id),
    )
