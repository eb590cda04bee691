"""The SQL of what is open on bills."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from psycopg import Connection

from tokenworks.charging import by_shard


def settlements(
    connection: Connection, subscriber_ids: Sequence[UUID]
) -> list[tuple[UUID, UUID, int, int, int, str, bool]]:
    """(subscriber, bill, billed, billed less credits and payments, stored open amount, stored state, whether it is in an unanswered
    charge file) of every bill of these subscribers, the oldest of each first. Amounts in nano.
    """
    accounts = connection.execute(
        "SELECT account_id FROM subscriber WHERE subscriber_id = ANY(%s)", (list(subscriber_ids),)
    ).fetchall()
    credited: list[tuple[UUID, int]] = []
    for shard, some in by_shard([row[0] for row in accounts]):
        credited += connection.execute(
            """SELECT settles_bill_id, sum(settled_nano)::bigint FROM charge
               WHERE shard_of(account_id) = %s AND account_id = ANY(%s::uuid[]) AND settles_bill_id IS NOT NULL GROUP BY 1""",
            (shard, some),
        )
    return connection.execute(
        """WITH paid AS (
               SELECT bill_id, sum(amount_nano) AS nano FROM payment p
               WHERE subscriber_id = ANY(%(whose)s::uuid[]) AND bill_id IS NOT NULL
                   AND NOT EXISTS (SELECT 1 FROM payment_reversal r WHERE r.payment_id = p.payment_id) GROUP BY 1
           ), credited AS (
               SELECT * FROM unnest(%(bills)s::uuid[], %(nano)s::bigint[]) AS c (bill_id, nano)
           )
           SELECT b.subscriber_id, b.bill_id, b.amount_nano,
               (b.amount_nano - coalesce(c.nano, 0) - coalesce(p.nano, 0))::bigint, b.remaining_nano, b.state,
               EXISTS (SELECT 1 FROM charge_file_line l WHERE l.bill_id = b.bill_id AND l.state = 'sent')
           FROM bill b LEFT JOIN paid p USING (bill_id) LEFT JOIN credited c USING (bill_id)
           WHERE b.subscriber_id = ANY(%(whose)s::uuid[]) ORDER BY b.subscriber_id, b.period_end, b.bill_id""",
        {
            "whose": list(subscriber_ids),
            "bills": [row[0] for row in credited],
            "nano": [row[1] for row in credited],
        },
    ).fetchall()


def beside_bills(connection: Connection, subscriber_ids: Sequence[UUID]) -> dict[UUID, int]:
    """By subscriber: payments for no bill less payouts, in nano; subscribers without either are left out."""
    rows = connection.execute(
        """SELECT subscriber_id, sum(nano)::bigint FROM (
               SELECT subscriber_id, amount_nano AS nano FROM payment p
               WHERE subscriber_id = ANY(%(whose)s::uuid[]) AND bill_id IS NULL
                   AND NOT EXISTS (SELECT 1 FROM payment_reversal r WHERE r.payment_id = p.payment_id)
               UNION ALL
               SELECT subscriber_id, -amount_nano FROM payout WHERE subscriber_id = ANY(%(whose)s::uuid[])) m GROUP BY 1""",
        {"whose": list(subscriber_ids)},
    )
    return {row[0]: int(row[1]) for row in rows}


def set_open(connection: Connection, bills: Sequence[tuple[UUID, int, str]], at: datetime) -> None:
    """Write (bill, open, state) of each. Dunning of a paid bill that is open again begins from `at`."""
    connection.execute(
        """UPDATE bill b SET remaining_nano = u.nano, state = u.state,
               reopened_at = CASE WHEN b.remaining_nano = 0 AND u.nano > 0 THEN %s ELSE b.reopened_at END
           FROM unnest(%s::uuid[], %s::bigint[], %s::text[]) AS u(bill_id, nano, state) WHERE b.bill_id = u.bill_id""",
        (at, [b[0] for b in bills], [b[1] for b in bills], [b[2] for b in bills]),
    )


def lines_left(connection: Connection, bill_ids: Sequence[UUID]) -> dict[UUID, tuple[int, int]]:
    """By bill: (amount, VAT in it) of its lines, less their credits."""
    bills = connection.execute(
        "SELECT bill_id, account_id, amount_nano, tax_nano FROM bill WHERE bill_id = ANY(%s)",
        (list(bill_ids),),
    ).fetchall()
    credited: dict[UUID, tuple[int, int]] = {}
    for shard, accounts in by_shard({bill[1] for bill in bills}):
        rows = connection.execute(
            """SELECT settles_bill_id, sum(settled_nano)::bigint, sum(settled_tax_nano)::bigint FROM charge
               WHERE shard_of(account_id) = %s AND account_id = ANY(%s::uuid[]) AND settles_bill_id = ANY(%s) GROUP BY 1""",
            (shard, accounts, [bill[0] for bill in bills]),
        )
        credited |= {row[0]: (row[1], row[2]) for row in rows}
    none = (0, 0)
    return {
        bill_id: (nano - credited.get(bill_id, none)[0], tax - credited.get(bill_id, none)[1])
        for bill_id, _, nano, tax in bills
    }
