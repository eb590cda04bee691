"""The SQL of windows: a use returns to its window when the window's length has passed."""

import math
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from psycopg import Connection


def refill_windows(connection: Connection, account_id: UUID, now: datetime) -> None:
    """Return the uses that are older than their window's length: `total` and `remaining` grow by their amounts."""
    due = """FROM window_use u JOIN bucket b USING (account_id, bucket_id)
             WHERE u.account_id = %(account)s AND b.closing IS NULL
               AND u.used_at <= %(now)s::timestamptz - make_interval(secs => b.window_s)"""
    names = {"account": account_id, "now": now}
    if connection.execute(f"SELECT 1 {due} LIMIT 1".encode(), names).fetchone() is None:
        return
    with connection.transaction():
        # Buckets are locked in ascending order of their ids. Of two concurrent calls, the second finds no uses left.
        connection.execute(
            "SELECT 1 FROM bucket WHERE account_id = %s AND kind = 'window' ORDER BY bucket_id FOR UPDATE",
            (account_id,),
        )
        connection.execute(
            f"""WITH due AS (SELECT u.bucket_id, u.usage_id, u.amount {due}),
                     gone AS (DELETE FROM window_use w USING due WHERE w.account_id = %(account)s
                              AND w.bucket_id = due.bucket_id AND w.usage_id = due.usage_id
                              RETURNING w.bucket_id, w.amount),
                     back AS (SELECT bucket_id, sum(amount)::bigint AS amount FROM gone GROUP BY 1)
                UPDATE bucket b SET total = total + back.amount, remaining = remaining + back.amount
                FROM back WHERE b.account_id = %(account)s AND b.bucket_id = back.bucket_id""".encode(),
            names,
        )


def window_back_s(connection: Connection, account_id: UUID, bucket_ids: Sequence[UUID], now: datetime) -> int:
    row = connection.execute(
        """SELECT max(back) FROM (
               SELECT extract(epoch FROM min(u.used_at) + make_interval(secs => b.window_s) - %s::timestamptz) AS back
               FROM window_use u JOIN bucket b USING (account_id, bucket_id)
               WHERE u.account_id = %s AND u.bucket_id = ANY(%s::uuid[]) GROUP BY u.bucket_id, b.window_s) w""",
        (now, account_id, list(bucket_ids)),
    ).fetchone()
    return max(1, math.ceil(row[0])) if row is not None and row[0] is not None else 1
