"""The SQL of usage by day. A trigger keeps it (schema 0029), in the statement that inserts usage; nothing else writes it.

A day is one of UTC+8, where a request ended. What a host settled is in rows of its own: hosts never wait for each other's.
"""

from collections.abc import Iterable
from datetime import date, datetime
from typing import Final
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow

INPUT: Final = "fresh_input + cached_input + cache_write + audio_input + cache_write_1h"
OUTPUT: Final = "output + reasoning + audio_output"


def tokens_by_day(connection: Connection, account_id: UUID, first: date) -> dict[str, int]:
    """Tokens of each day (YYYY-MM-DD) from one on, all classes together."""
    rows = connection.execute(
        """SELECT to_char(day, 'YYYY-MM-DD'), sum(input_tokens + output_tokens)::bigint FROM usage_day
           WHERE account_id = %s AND day >= %s GROUP BY day""",
        (account_id, first),
    )
    return dict(rows.fetchall())


Used = tuple[UUID, int, int, int]
"""(member, records, input tokens, output tokens)"""
Charged = tuple[UUID, str, int]
"""(member, unit, amount in thousandths)"""


def by_member(connection: Connection, account_id: UUID, first: date) -> tuple[list[Used], list[Charged]]:
    """What each member used of whole days, from one on."""
    used = connection.execute(
        """SELECT member_id, sum(records)::bigint, sum(input_tokens)::bigint, sum(output_tokens)::bigint FROM usage_day
           WHERE account_id = %s AND day >= %s GROUP BY 1""",
        (account_id, first),
    ).fetchall()
    charged = connection.execute(
        """SELECT member_id, unit, sum(amount)::bigint FROM usage_day
           WHERE account_id = %s AND day >= %s AND unit <> '' GROUP BY 1, 2""",
        (account_id, first),
    ).fetchall()
    return _used(used), _charged(charged)


def rows_by_member(
    connection: Connection, account_id: UUID, begin: datetime, end: datetime, floor: UUID
) -> tuple[list[Used], list[Charged]]:
    """The same of what ended in [begin, end), a part of a day, from the records themselves. `floor`: below it is no id of them."""
    names = {"account": account_id, "begin": begin, "end": end, "floor": floor}
    found = """FROM usage WHERE account_id = %(account)s AND usage_id >= %(floor)s AND ended_at >= %(begin)s AND ended_at < %(end)s"""
    used = connection.execute(
        f"""SELECT member_id, count(*), sum({INPUT})::bigint, sum({OUTPUT})::bigint {found} GROUP BY 1""".encode(),
        names,
    ).fetchall()
    charged = connection.execute(
        f"""SELECT member_id, p->>3, sum((p->>5)::bigint)::bigint
            FROM (SELECT member_id, parts {found}) u, jsonb_array_elements(parts) p WHERE p->>4 = 'balance' GROUP BY 1, 2""".encode(),
        names,
    ).fetchall()
    return _used(used), _charged(charged)


def _used(rows: Iterable[TupleRow]) -> list[Used]:
    return [(member, int(records), int(given), int(made)) for member, records, given, made in rows]


def _charged(rows: Iterable[TupleRow]) -> list[Charged]:
    return [(member, str(unit), int(amount)) for member, unit, amount in rows]


# Of usage: a record is counted in the row of what its first part was drawn from (a balance's unit, or ''); what its further parts drew
# from balances is in rows of their units.
SUMS: Final = f"""SELECT account_id, member_id, (ended_at AT TIME ZONE 'UTC' + interval '8 hours')::date AS day,
        CASE WHEN p->>4 = 'balance' THEN p->>3 ELSE '' END AS unit, count(*) FILTER (WHERE n IS NULL OR n = 1) AS records,
        coalesce(sum({INPUT}) FILTER (WHERE n IS NULL OR n = 1), 0) AS input_tokens,
        coalesce(sum({OUTPUT}) FILTER (WHERE n IS NULL OR n = 1), 0) AS output_tokens,
        coalesce(sum((p->>5)::bigint) FILTER (WHERE p->>4 = 'balance'), 0) AS amount
    FROM usage LEFT JOIN LATERAL jsonb_array_elements(parts) WITH ORDINALITY e(p, n) ON n = 1 OR p->>4 = 'balance'
    GROUP BY 1, 2, 3, 4"""
