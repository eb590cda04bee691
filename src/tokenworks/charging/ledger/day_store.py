"""The SQL of usage by day. Only a trigger (schema 0029) writes this table, in the statement that inserts usage.

A request counts for the day in UTC+8 on which it ended. Each host has rows of its own, so hosts never wait for each other.
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
    """Tokens of each day (YYYY-MM-DD) from `first` on, all classes together."""
    rows = connection.execute(
        """SELECT to_char(day, 'YYYY-MM-DD'), sum(input_tokens + output_tokens)::bigint FROM usage_day
           WHERE account_id = %s AND day >= %s GROUP BY day""",
        (account_id, first),
    )
    return dict(rows.fetchall())


MemberTokens = tuple[UUID, int, int, int]
"""(member, records, input tokens, output tokens)"""
MemberAmount = tuple[UUID, str, int]
"""(member, unit, amount in thousandths)"""


def by_member(
    connection: Connection, account_id: UUID, first: date
) -> tuple[list[MemberTokens], list[MemberAmount]]:
    """What each member used on whole days, from `first` on."""
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
    return _member_tokens(used), _member_amounts(charged)


def drawn_by_member(connection: Connection, account_id: UUID, member_id: UUID, first: date) -> dict[str, int]:
    """What one member drew from balances on whole days, from `first` on: unit -> amount in thousandths."""
    rows = connection.execute(
        """SELECT unit, sum(amount)::bigint FROM usage_day
           WHERE account_id = %s AND day >= %s AND member_id = %s AND unit <> '' GROUP BY unit""",
        (account_id, first, member_id),
    )
    return dict(rows.fetchall())


def rows_by_member(
    connection: Connection, account_id: UUID, begin: datetime, end: datetime, floor: UUID
) -> tuple[list[MemberTokens], list[MemberAmount]]:
    """As `by_member`, for requests that ended in [begin, end), a part of a day; read from the usage records. `floor`: no id of
    such a record is smaller.
    """
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
    return _member_tokens(used), _member_amounts(charged)


def _member_tokens(rows: Iterable[TupleRow]) -> list[MemberTokens]:
    return [
        (member, int(records), int(input_tokens), int(output_tokens))
        for member, records, input_tokens, output_tokens in rows
    ]


def _member_amounts(rows: Iterable[TupleRow]) -> list[MemberAmount]:
    return [(member, str(unit), int(amount)) for member, unit, amount in rows]


# The same sums computed from usage records. A record counts in the row of its first part's unit ('' if that part is no balance); what
# its other parts drew from balances is in the rows of their units.
SUMS: Final = f"""SELECT account_id, member_id, (ended_at AT TIME ZONE 'UTC' + interval '8 hours')::date AS day,
        CASE WHEN p->>4 = 'balance' THEN p->>3 ELSE '' END AS unit, count(*) FILTER (WHERE n IS NULL OR n = 1) AS records,
        coalesce(sum({INPUT}) FILTER (WHERE n IS NULL OR n = 1), 0) AS input_tokens,
        coalesce(sum({OUTPUT}) FILTER (WHERE n IS NULL OR n = 1), 0) AS output_tokens,
        coalesce(sum((p->>5)::bigint) FILTER (WHERE p->>4 = 'balance'), 0) AS amount
    FROM usage LEFT JOIN LATERAL jsonb_array_elements(parts) WITH ORDINALITY e(p, n) ON n = 1 OR p->>4 = 'balance'
    GROUP BY 1, 2, 3, 4"""
