"""The SQL of usage by day. A trigger keeps it (schema 0024), in the statement that inserts usage; nothing else writes it.

A day is one of UTC+8, where a request ended. What a host settled is in rows of its own: hosts never wait for each other's.
"""

from collections.abc import Iterable
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

from tokenworks.charging.store import Connection

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
        """SELECT member_id, unit, sum(amount)::bigint FROM usage_day_charged
           WHERE account_id = %s AND day >= %s GROUP BY 1, 2""",
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


def _used(rows: Iterable[tuple[Any, ...]]) -> list[Used]:
    return [(member, int(records), int(given), int(made)) for member, records, given, made in rows]


def _charged(rows: Iterable[tuple[Any, ...]]) -> list[Charged]:
    return [(member, str(unit), int(amount)) for member, unit, amount in rows]


_DAY: Final = "(ended_at AT TIME ZONE 'UTC' + interval '8 hours')::date"
_SAME: Final = "account_id, day, member_id, key_id, model, journal_id"
_FINDINGS: Final = f"""
WITH counted AS (
    SELECT account_id, {_DAY} AS day, member_id, key_id, model, journal_id, count(*) AS records, sum({INPUT}) AS input_tokens,
           sum({OUTPUT}) AS output_tokens
    FROM usage WHERE %(account)s::uuid IS NULL OR account_id = %(account)s GROUP BY 1, 2, 3, 4, 5, 6
), kept AS (
    SELECT * FROM usage_day WHERE %(account)s::uuid IS NULL OR account_id = %(account)s
), counted_charged AS (
    SELECT account_id, {_DAY} AS day, member_id, key_id, model, journal_id, p->>3 AS unit, sum((p->>5)::bigint) AS amount
    FROM usage, jsonb_array_elements(parts) p
    WHERE p->>4 = 'balance' AND (%(account)s::uuid IS NULL OR account_id = %(account)s) GROUP BY 1, 2, 3, 4, 5, 6, 7
), kept_charged AS (
    SELECT * FROM usage_day_charged WHERE %(account)s::uuid IS NULL OR account_id = %(account)s
)
SELECT account_id, day, format('%%s records, %%s + %%s tokens, of %%s records, %%s + %%s tokens', coalesce(k.records, 0),
       coalesce(k.input_tokens, 0), coalesce(k.output_tokens, 0), coalesce(c.records, 0), coalesce(c.input_tokens, 0),
       coalesce(c.output_tokens, 0))
FROM counted c FULL JOIN kept k USING ({_SAME})
WHERE (c.records, c.input_tokens, c.output_tokens) IS DISTINCT FROM (k.records, k.input_tokens, k.output_tokens)
UNION ALL
SELECT account_id, day, format('%%s of %%s %%s that were charged', coalesce(k.amount, 0), coalesce(c.amount, 0), unit)
FROM counted_charged c FULL JOIN kept_charged k USING ({_SAME}, unit) WHERE c.amount IS DISTINCT FROM k.amount
ORDER BY 1, 2 LIMIT %(limit)s"""


def rollup_findings(
    connection: Connection, limit: int, account_id: UUID | None = None
) -> list[tuple[UUID, date, str]]:
    """(account, day, what is kept of what is there) where usage by day is not the sum of its records: none, ever. Of one
    account, or of all: then it reads every record.
    """
    return connection.execute(_FINDINGS.encode(), {"account": account_id, "limit": limit}).fetchall()
