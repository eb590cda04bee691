"""The SQL of charges: adding and reading them, recognising revenue, putting them on bills, settling credits."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from tokenworks.charging.ledger.model import by_shard
from tokenworks.charging.money.model import BillLine, Charge

_CHARGE: Final = """charge_id, account_id, subscriber_id, product_id, offering_version, kind, number, charged_at, period_start,
    period_end, description, description_zh, price_nano, share_num, share_den, amount_nano, vat_percent, tax_nano, currency,
    entry_id, of_charge_id, quantity, recognise, recognised_nano, broken_nano, refunded_nano, credited_nano, closed_at,
    bill_id, line_no, settles_bill_id, settles_line_no, settled_nano, settled_tax_nano, settled_entry_id"""


def add_charge(connection: Connection, charge: Charge) -> None:
    c = charge
    assert c.amount_nano, "a zero is not a row"
    connection.execute(
        f"INSERT INTO charge ({_CHARGE}) VALUES ({', '.join(['%s'] * 35)})".encode(),
        (c.charge_id, c.account_id, c.subscriber_id, c.product_id, c.offering_version, c.kind, c.number, c.charged_at,
         c.period_start, c.period_end, c.description, c.description_zh, c.price_nano, c.share_num, c.share_den, c.amount_nano,
         c.vat_percent, c.tax_nano, c.currency, c.entry_id, c.of_charge_id, c.quantity, c.recognise, c.recognised_nano,
         c.broken_nano, c.refunded_nano, c.credited_nano, c.closed_at, c.bill_id, c.line_no, c.settles_bill_id, c.settles_line_no,
         c.settled_nano, c.settled_tax_nano, c.settled_entry_id),
    )  # fmt: skip


def _charges(connection: Connection, where: str, values: Sequence[object]) -> list[Charge]:
    with connection.cursor(row_factory=class_row(Charge)) as cursor:
        return cursor.execute(f"SELECT {_CHARGE} FROM charge WHERE {where}".encode(), values).fetchall()


def lock_accounts(connection: Connection, account_ids: Sequence[UUID]) -> None:
    """Lock accounts before their charges are changed, shard by shard and in ascending order. No statement waits for a charge's row.

    (PostgreSQL 18.6 crashed when a statement waited for rows of a partitioned table and then rechecked them.)
    """
    for shard, accounts in by_shard(account_ids):
        connection.execute(
            """SELECT 1 FROM account WHERE shard_of(account_id) = %s AND account_id = ANY(%s::uuid[])
               ORDER BY account_id FOR NO KEY UPDATE""",
            (shard, accounts),
        )


def lock_account(connection: Connection, account_id: UUID) -> None:
    """As `lock_accounts`, for one account."""
    connection.execute("SELECT 1 FROM account WHERE account_id = %s FOR NO KEY UPDATE", (account_id,))


def lock_charge(connection: Connection, account_id: UUID, charge_id: UUID) -> Charge | None:
    lock_account(connection, account_id)
    found = _charges(connection, "account_id = %s AND charge_id = %s", (account_id, charge_id))
    return found[0] if found else None


def find_charge(connection: Connection, account_id: UUID, charge_id: UUID) -> Charge | None:
    found = _charges(connection, "account_id = %s AND charge_id = %s", (account_id, charge_id))
    return found[0] if found else None


def charges(
    connection: Connection, account_id: UUID, subscriber_id: UUID, *, unbilled: bool, limit: int
) -> list[Charge]:
    more = "AND bill_id IS NULL AND settles_bill_id IS NULL" if unbilled else ""
    return _charges(
        connection,
        f"account_id = %s AND subscriber_id = %s {more} ORDER BY charged_at, charge_id LIMIT %s",
        (account_id, subscriber_id, limit),
    )


def charges_of_bill(
    connection: Connection, account_id: UUID, bill_id: UUID, after: UUID, limit: int
) -> list[Charge]:
    return _charges(
        connection,
        "account_id = %s AND bill_id = %s AND charge_id > %s ORDER BY charge_id LIMIT %s",
        (account_id, bill_id, after, limit),
    )


def unbilled_between(
    connection: Connection,
    account_id: UUID,
    subscriber_id: UUID,
    begin: datetime,
    end: datetime,
    after: UUID,
    limit: int,
) -> list[Charge]:
    return _charges(
        connection,
        """account_id = %s AND subscriber_id = %s AND bill_id IS NULL AND charged_at >= %s AND charged_at < %s
           AND charge_id > %s ORDER BY charge_id LIMIT %s""",
        (account_id, subscriber_id, begin, end, after, limit),
    )


def charges_of_line(connection: Connection, account_id: UUID, bill_id: UUID, line_no: int) -> list[Charge]:
    return _charges(
        connection,
        "account_id = %s AND bill_id = %s AND line_no = %s ORDER BY charged_at, charge_id",
        (account_id, bill_id, line_no),
    )


def charges_of_product(connection: Connection, account_id: UUID, product_id: UUID) -> list[Charge]:
    return _charges(
        connection,
        "account_id = %s AND product_id = %s ORDER BY charged_at, charge_id",
        (account_id, product_id),
    )


def add_refunded(
    connection: Connection, account_id: UUID, charge_id: UUID, owed_nano: int, amount_nano: int, now: datetime
) -> None:
    connection.execute(
        """UPDATE charge SET refunded_nano = refunded_nano + %s, credited_nano = credited_nano + %s
           WHERE account_id = %s AND charge_id = %s""",
        (owed_nano, amount_nano, account_id, charge_id),
    )


_RECOGNISE: Final = """
WITH open AS MATERIALIZED (
    SELECT account_id, charge_id, currency, recognise, quantity, period_start, period_end,
           amount_nano - tax_nano AS net, recognised_nano,
           amount_nano - tax_nano - recognised_nano - broken_nano - refunded_nano AS room
    FROM charge WHERE closed_at IS NULL AND shard_of(account_id) = %(shard)s AND account_id = ANY(%(accounts)s::uuid[])
), held AS MATERIALIZED (
    SELECT b.account_id, b.charge_id, sum(b.used + coalesce(g.used, 0)) AS used,
           sum(b.remaining + b.granted - coalesce(g.used, 0)) AS live
    FROM bucket b LEFT JOIN LATERAL (
        SELECT sum(used)::bigint AS used FROM grants g
        WHERE shard_of(g.account_id) = %(shard)s AND g.account_id = b.account_id AND g.bucket_id = b.bucket_id
            AND g.state = 'open') g ON true
    WHERE shard_of(b.account_id) = %(shard)s AND b.account_id = ANY(%(accounts)s::uuid[]) AND b.charge_id IS NOT NULL GROUP BY 1, 2
), state AS (
    SELECT o.*, CASE
            WHEN recognise = 'usage' THEN div(net::numeric * least(coalesce(h.used, 0), quantity), quantity)
            WHEN period_end IS NULL OR %(now)s >= period_end THEN net
            ELSE div(net::numeric * greatest(0, extract(epoch FROM %(now)s::timestamptz - period_start)::bigint),
                     greatest(1, extract(epoch FROM period_end - period_start)::bigint)) END::bigint AS earned,
        CASE WHEN recognise = 'usage' THEN coalesce(h.live, 0) = 0 ELSE period_end IS NULL OR %(now)s >= period_end END AS ended
    FROM open o LEFT JOIN held h USING (account_id, charge_id)
), step AS MATERIALIZED (
    SELECT *, greatest(0, least(earned - recognised_nano, room)) AS more,
        CASE WHEN ended THEN room - greatest(0, least(earned - recognised_nano, room)) ELSE 0 END AS broken,
        gen_random_uuid() AS entry_id
    FROM state
), moved AS MATERIALIZED (
    SELECT * FROM step WHERE more > 0 OR ended
), entered AS (
    INSERT INTO entry (account_id, entry_id, kind, ref)
    SELECT account_id, entry_id, 'recognise', charge_id::text FROM moved WHERE more + broken > 0
), posted AS (
    INSERT INTO posting (account_id, entry_id, line_no, ledger_account, unit, bucket_id, amount)
    SELECT account_id, entry_id, side, CASE side WHEN 1 THEN 'customer_liability' WHEN 2 THEN 'revenue' ELSE 'breakage' END,
        currency, NULL, CASE side WHEN 1 THEN more + broken WHEN 2 THEN -more ELSE -broken END
    FROM moved, generate_series(1, 3) side
    WHERE CASE side WHEN 1 THEN more + broken WHEN 2 THEN more ELSE broken END > 0
)
UPDATE charge c SET recognised_nano = c.recognised_nano + m.more, broken_nano = c.broken_nano + m.broken,
    closed_at = CASE WHEN m.ended THEN %(now)s::timestamptz END
FROM moved m WHERE shard_of(c.account_id) = %(shard)s AND c.account_id = m.account_id AND c.charge_id = m.charge_id
"""


def accounts_with_open_charges(
    connection: Connection, account_ids: Sequence[UUID] | None, after: UUID, limit: int
) -> list[UUID]:
    """The next accounts above `after` with open charges, ascending: of all accounts, or of `account_ids`."""
    rows = connection.execute(
        """SELECT DISTINCT account_id FROM charge WHERE closed_at IS NULL AND account_id > %s
               AND (%s::uuid[] IS NULL OR account_id = ANY(%s::uuid[])) ORDER BY account_id LIMIT %s""",
        (after, account_ids and list(account_ids), account_ids and list(account_ids), limit),
    )
    return [row[0] for row in rows]


def recognise(
    connection: Connection, now: datetime, account_ids: Sequence[UUID] | None, after: UUID, limit: int
) -> tuple[int, UUID | None]:
    """Post the revenue earned since the last call, for the open charges of the next batch of accounts above `after`.

    Returns (charges changed, last account of the batch or None after the last batch).
    """
    accounts = accounts_with_open_charges(connection, account_ids, after, limit)
    if not accounts:
        return 0, None
    lock_accounts(connection, accounts)
    moved = sum(
        connection.execute(_RECOGNISE, {"shard": shard, "accounts": of_shard, "now": now}).rowcount
        for shard, of_shard in by_shard(accounts)
    )
    return moved, accounts[-1] if len(accounts) == limit else None


def stop(connection: Connection, account_id: UUID, product_id: UUID, now: datetime) -> None:
    lock_account(connection, account_id)
    connection.execute(
        """UPDATE charge SET period_end = greatest(period_start, %(now)s)
           WHERE account_id = %(account)s AND product_id = %(product)s AND recognise = 'time' AND closed_at IS NULL
               AND (period_end IS NULL OR period_end > %(now)s)""",
        {"now": now, "account": account_id, "product": product_id},
    )


def kept_quantity(connection: Connection, account_id: UUID, charge_id: UUID, now: datetime) -> int:
    # At most the charge's quantity, since an adjustment's addition was not paid for. A bucket past its validity counts as expired, even
    # before the job that expires it has run.
    row = connection.execute(
        """SELECT least(c.quantity, coalesce(sum(b.used + CASE WHEN b.valid_until <= %s THEN 0 ELSE b.remaining + b.granted END),
                                            0)::bigint)
           FROM charge c LEFT JOIN bucket b USING (account_id, charge_id)
           WHERE c.account_id = %s AND c.charge_id = %s GROUP BY c.quantity""",
        (now, account_id, charge_id),
    ).fetchone()
    assert row is not None
    return int(row[0])


def unused(connection: Connection, account_id: UUID, charge_id: UUID, kept: int) -> tuple[int, int]:
    """(free, granted): the unused quantity that a charge brought. Hosts can still use the granted part."""
    row = connection.execute(
        """SELECT greatest(0, %s::bigint - coalesce(sum(used + granted), 0)::bigint), coalesce(sum(granted), 0)::bigint
           FROM bucket WHERE account_id = %s AND charge_id = %s""",
        (kept, account_id, charge_id),
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def was_charged(connection: Connection, account_id: UUID, offering_id: str) -> bool:
    row = connection.execute(
        """SELECT 1 FROM charge c JOIN offering o USING (offering_version)
           WHERE c.account_id = %s AND o.offering_id = %s AND c.kind IN ('cycle', 'change')
               AND c.credited_nano < c.amount_nano LIMIT 1""",
        (account_id, offering_id),
    ).fetchone()
    return row is not None


def used(connection: Connection, account_id: UUID, charge_id: UUID) -> int:
    row = connection.execute(
        """SELECT coalesce(sum(b.used + coalesce((SELECT sum(g.used) FROM grants g WHERE g.account_id = %(account)s
                  AND g.bucket_id = b.bucket_id AND g.state = 'open'), 0)), 0)::bigint
           FROM bucket b WHERE b.account_id = %(account)s AND b.charge_id = %(charge)s""",
        {"account": account_id, "charge": charge_id},
    ).fetchone()
    assert row is not None
    return int(row[0])


def step_charges_since(connection: Connection, account_id: UUID, since: datetime) -> int:
    row = connection.execute(
        """SELECT coalesce(sum(amount_nano - credited_nano), 0)::bigint FROM charge
           WHERE account_id = %s AND kind = 'step' AND charged_at >= %s""",
        (account_id, since),
    ).fetchone()
    assert row is not None
    return int(row[0])


def receivable(connection: Connection, account_id: UUID) -> int:
    row = connection.execute(
        """SELECT coalesce(sum(amount), 0)::bigint FROM posting
           WHERE account_id = %s AND ledger_account = 'receivable'""",
        (account_id,),
    ).fetchone()
    assert row is not None
    return int(row[0])


# The amount of a line is rounded to whole fen, half away from zero; so is the tax that it includes.
_PUT_ON_BILLS: Final = """
WITH bills AS (
    SELECT * FROM unnest(%(subscribers)s::uuid[], %(accounts)s::uuid[], %(bills)s::uuid[], %(ends)s::timestamptz[])
        AS t(subscriber_id, account_id, bill_id, ends)
), due AS MATERIALIZED (
    SELECT c.account_id, c.charge_id, b.bill_id, c.product_id, c.offering_version, c.kind, c.vat_percent, c.description,
           c.description_zh, c.amount_nano, c.tax_nano,
           dense_rank() OVER (PARTITION BY b.bill_id ORDER BY c.product_id, c.kind, c.description, c.description_zh,
                              c.vat_percent, c.offering_version)::int AS line_no
    FROM bills b JOIN charge c ON shard_of(c.account_id) = %(shard)s AND c.account_id = b.account_id
        AND c.subscriber_id = b.subscriber_id AND c.bill_id IS NULL AND c.settles_bill_id IS NULL AND c.charged_at < b.ends
), grouped AS (
    SELECT bill_id, line_no, account_id, product_id, offering_version, kind, description, description_zh, vat_percent,
           count(*)::int AS charges, sum(amount_nano)::bigint AS charged, sum(tax_nano)::bigint AS charged_tax
    FROM due GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
), rounded AS (
    SELECT *, sign(charged)::bigint * ((abs(charged) + 5000000) / 10000000) AS fen FROM grouped
), line AS MATERIALIZED (
    SELECT *, fen * 10000000 AS amount, gen_random_uuid() AS entry_id,
        sign(fen)::bigint * 10000000 * div(2::numeric * abs(fen) * vat_percent + 100 + vat_percent, 2 * (100 + vat_percent))::bigint
            AS tax
    FROM rounded
), moved AS (
    SELECT *, amount - charged AS more, tax - charged_tax AS more_tax FROM line
    WHERE amount <> charged OR tax <> charged_tax
), entered AS (
    INSERT INTO entry (account_id, entry_id, kind, ref)
    SELECT account_id, entry_id, 'round', bill_id || ':' || line_no FROM moved
), posted AS (
    INSERT INTO posting (account_id, entry_id, line_no, ledger_account, unit, bucket_id, amount)
    SELECT account_id, entry_id, side, CASE side WHEN 1 THEN 'receivable' WHEN 2 THEN 'tax' ELSE 'rounding' END, 'CNY', NULL,
        CASE side WHEN 1 THEN more WHEN 2 THEN -more_tax ELSE more_tax - more END
    FROM moved, generate_series(1, 3) side
), marked AS (
    UPDATE charge c SET bill_id = due.bill_id, line_no = due.line_no
    FROM due WHERE shard_of(c.account_id) = %(shard)s AND c.account_id = due.account_id AND c.charge_id = due.charge_id
)
SELECT bill_id, line_no, account_id, product_id, offering_version, kind, description, description_zh, charges,
    charged AS charged_nano, amount AS amount_nano, vat_percent, tax AS tax_nano,
    CASE WHEN amount <> charged OR tax <> charged_tax THEN entry_id END AS entry_id
FROM line ORDER BY bill_id, line_no
"""


def put_on_bills(
    connection: Connection, bills: Sequence[tuple[UUID, UUID, UUID, datetime]]
) -> list[BillLine]:
    lock_accounts(connection, [bill[1] for bill in bills])
    of_account: dict[UUID, list[tuple[UUID, UUID, UUID, datetime]]] = {}
    for bill in bills:
        of_account.setdefault(bill[1], []).append(bill)
    lines: list[BillLine] = []
    with connection.cursor(row_factory=class_row(BillLine)) as cursor:
        # The charges of each bill are found and marked by index. A hash join would read all unbilled charges in every batch.
        cursor.execute("SET LOCAL enable_hashjoin = off")
        cursor.execute("SET LOCAL enable_mergejoin = off")
        # One generic plan for all shards and batches, since sixteen plans per batch cost more than they save.
        cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        for shard, accounts in by_shard(list(of_account)):
            of_shard = [bill for account_id in accounts for bill in of_account[account_id]]
            lines += cursor.execute(
                _PUT_ON_BILLS,
                {
                    "shard": shard,
                    "subscribers": [bill[0] for bill in of_shard],
                    "accounts": [bill[1] for bill in of_shard],
                    "bills": [bill[2] for bill in of_shard],
                    "ends": [bill[3] for bill in of_shard],
                },
            )
    return sorted(lines, key=lambda line: (line.bill_id, line.line_no))


# Credits of a line are rounded to fen cumulatively, half away from zero: several credits take off the line what one credit of their
# sum would, and a line whose charges are all credited in full is credited in full, including its rounding.
_SETTLE_CREDITS: Final = """
WITH late AS MATERIALIZED (
    SELECT k.account_id, k.charge_id, k.subscriber_id, -k.amount_nano AS nano, -k.tax_nano AS tax, c.bill_id, c.line_no, c.vat_percent
    FROM charge k JOIN charge c ON shard_of(c.account_id) = %(shard)s AND c.account_id = k.account_id AND c.charge_id = k.of_charge_id
    WHERE shard_of(k.account_id) = %(shard)s AND k.account_id = ANY(%(accounts)s::uuid[]) AND k.of_charge_id IS NOT NULL AND k.bill_id IS NULL
        AND k.settles_bill_id IS NULL AND c.bill_id IS NOT NULL
), line AS MATERIALIZED (
    SELECT c.account_id, c.bill_id, c.line_no, sum(c.amount_nano)::bigint AS charged, sum(c.credited_nano)::bigint AS credited
    FROM charge c JOIN (SELECT DISTINCT account_id, bill_id, line_no FROM late) l USING (account_id, bill_id, line_no)
    WHERE shard_of(c.account_id) = %(shard)s GROUP BY 1, 2, 3
), step AS (
    SELECT late.*, charged, (charged + 5000000) / 10000000 AS line_fen,
        (credited - sum(nano) OVER (PARTITION BY late.account_id, late.bill_id, late.line_no)
            + sum(nano) OVER (PARTITION BY late.account_id, late.bill_id, late.line_no ORDER BY charge_id))::bigint AS after
    FROM late JOIN line USING (account_id, bill_id, line_no)
), fen AS (
    SELECT *, CASE WHEN after = charged THEN line_fen ELSE least(line_fen, (after + 5000000) / 10000000) END AS after_fen,
        least(line_fen, (after - nano + 5000000) / 10000000) AS before_fen
    FROM step
), made AS MATERIALIZED (
    SELECT account_id, charge_id, subscriber_id, nano, tax, bill_id, line_no, 10000000 * (after_fen - before_fen) AS settled,
        10000000 * (div(2::numeric * after_fen * vat_percent + 100 + vat_percent, 2 * (100 + vat_percent))
            - div(2::numeric * before_fen * vat_percent + 100 + vat_percent, 2 * (100 + vat_percent)))::bigint AS settled_tax,
        gen_random_uuid() AS entry_id
    FROM fen
), moved AS (
    SELECT *, nano - settled AS more, settled_tax - tax AS more_tax FROM made WHERE settled <> nano OR settled_tax <> tax
), entered AS (
    INSERT INTO entry (account_id, entry_id, kind, ref) SELECT account_id, entry_id, 'round', 'credit:' || charge_id FROM moved
), posted AS (
    INSERT INTO posting (account_id, entry_id, line_no, ledger_account, unit, bucket_id, amount)
    SELECT account_id, entry_id, side, CASE side WHEN 1 THEN 'receivable' WHEN 2 THEN 'tax' ELSE 'rounding' END, 'CNY', NULL,
        CASE side WHEN 1 THEN more WHEN 2 THEN more_tax ELSE -more - more_tax END
    FROM moved, generate_series(1, 3) side
), marked AS (
    UPDATE charge k SET settles_bill_id = m.bill_id, settles_line_no = m.line_no, settled_nano = m.settled,
        settled_tax_nano = m.settled_tax,
        settled_entry_id = CASE WHEN m.settled <> m.nano OR m.settled_tax <> m.tax THEN m.entry_id END
    FROM made m WHERE shard_of(k.account_id) = %(shard)s AND k.account_id = m.account_id AND k.charge_id = m.charge_id
)
SELECT DISTINCT subscriber_id FROM made
"""


def settle_credits(connection: Connection, account_ids: Sequence[UUID]) -> list[UUID]:
    """Settle the credits that are on no bill but whose charges are on one: each takes its amount off its charge's bill line. Returns
    the subscribers of these credits. The accounts must be locked.
    """
    return [
        row[0]
        for shard, accounts in by_shard(account_ids)
        for row in connection.execute(_SETTLE_CREDITS, {"shard": shard, "accounts": accounts})
    ]


def line_left(connection: Connection, account_id: UUID, bill_id: UUID, line_no: int) -> tuple[int, int]:
    """The exact sums (charged, credited) of the charges of a bill's line, in nano."""
    row = connection.execute(
        """SELECT coalesce(sum(amount_nano), 0)::bigint, coalesce(sum(credited_nano), 0)::bigint FROM charge
           WHERE account_id = %s AND bill_id = %s AND line_no = %s""",
        (account_id, bill_id, line_no),
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def quantities(connection: Connection, account_id: UUID, bill_id: UUID) -> dict[int, tuple[int, str]]:
    rows = connection.execute(
        """SELECT c.line_no, sum(b.total)::bigint, min(b.unit) FROM charge c JOIN bucket b USING (account_id, charge_id)
           WHERE c.account_id = %s AND c.bill_id = %s AND c.recognise = 'usage'
               AND NOT EXISTS (SELECT 1 FROM bucket r WHERE r.account_id = b.account_id AND r.rollover_to = b.bucket_id)
           GROUP BY 1""",
        (account_id, bill_id),
    )
    return {line_no: (quantity, unit) for line_no, quantity, unit in rows}
