"""The SQL of sums of usage by day, model, member, key, protocol or tag: exact, from the usage records of one account."""

import json
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from psycopg import Connection

from tokenworks.catalog import TOKEN_CLASSES
from tokenworks.charging.ledger.usage_store import UsageFilter

GROUPS: Final = ("day", "model", "member", "key", "protocol")
"""What records can be grouped by, beside `tag:<name>`. A day is one of UTC+8, as of bills and caps."""
GROUPS_MAX: Final = 3
# The routing note is a JSON object where a record has tags.
_TAGS: Final = "(CASE WHEN choice LIKE '{%%' THEN choice::jsonb -> 'tags' END)"


def _text_of(at: int) -> str:
    """The SQL of a record's text for what is grouped by in place `at`; the empty text where nothing is."""
    return f"""CASE %(by{at})s::text WHEN '' THEN '' WHEN 'model' THEN model WHEN 'protocol' THEN protocol
        WHEN 'day' THEN to_char((ended_at AT TIME ZONE 'UTC') + interval '8 hours', 'YYYY-MM-DD')
        WHEN 'member' THEN replace(member_id::text, '-', '') WHEN 'key' THEN replace(key_id::text, '-', '')
        ELSE coalesce({_TAGS} ->> substr(%(by{at})s::text, 5), '') END"""


_GROUP: Final = ", ".join(_text_of(at) for at in range(GROUPS_MAX))
_CLASSES: Final = ", ".join(TOKEN_CLASSES)
_SUMS: Final = ", ".join(f"sum({name})::bigint AS {name}" for name in TOKEN_CLASSES)


class SumsFilter(NamedTuple):
    """Which records are summed: those of a time, of a member, of a key, with these tags."""

    within: UsageFilter
    member_id: UUID | None
    key_id: UUID | None
    tags: Mapping[str, str]


def records_at_most(connection: Connection, account_id: UUID, within: UsageFilter, most: int) -> int:
    """How many records an account has with ids of this time; `most` + 1 if there are more. Reads the primary key alone, and at most
    `most` + 1 of its entries.
    """
    row = connection.execute(
        """SELECT count(*) FROM (SELECT FROM usage WHERE account_id = %s AND usage_id >= %s AND usage_id < %s LIMIT %s) few""",
        (account_id, *_ids(within), most + 1),
    ).fetchone()
    assert row is not None
    return int(row[0])


def _ids(within: UsageFilter) -> tuple[UUID, UUID]:
    """[first id, end of the ids) of a time."""
    return within.floor or UUID(int=0), within.below or UUID(int=2**128 - 1)


def usage_sums(
    connection: Connection,
    account_id: UUID,
    by: Sequence[str],
    chosen: SumsFilter,
    after: Sequence[str] | None,
    limit: int,
) -> list[tuple[list[str], list[int], dict[str, int]]]:
    """A page of groups in the order of their texts: (the group, [records, tokens of each class], drawn amounts in thousandths by unit).

    `by`: names of `GROUPS`, or `tag:<name>`; a record without the tag is in the group of the empty text. `after`: the last group of the
    previous page. A record that draws on windows alone counts there in its first window.
    """
    begin, end, *_ = chosen.within
    floor, below = _ids(chosen.within)
    unused = [""] * (GROUPS_MAX - len(by))
    names = {f"by{at}": name for at, name in enumerate((*by, *unused))}
    rows = connection.execute(
        f"""WITH found AS MATERIALIZED (
                SELECT ARRAY[{_GROUP}]::text[] COLLATE "C" AS g, parts, {_CLASSES} FROM usage
                WHERE account_id = %(account)s AND usage_id >= %(floor)s AND usage_id < %(below)s
                    AND (%(begin)s::timestamptz IS NULL OR ended_at >= %(begin)s) AND (%(end)s::timestamptz IS NULL OR ended_at < %(end)s)
                    AND (%(member)s::uuid IS NULL OR member_id = %(member)s) AND (%(key)s::uuid IS NULL OR key_id = %(key)s)
                    AND (%(tags)s::jsonb = '{{}}' OR {_TAGS} @> %(tags)s::jsonb)),
            page AS (
                SELECT g, count(*) AS records, {_SUMS} FROM found
                WHERE %(after)s::text[] IS NULL OR g > %(after)s::text[] GROUP BY g ORDER BY g LIMIT %(limit)s),
            drawn AS MATERIALIZED (
                SELECT g, unit, sum(amount)::bigint AS amount FROM found, LATERAL (
                    SELECT p->>3 AS unit, (p->>5)::bigint AS amount, p->>4 AS kind, n,
                           bool_or(p->>4 = 'balance') OVER () AS paid, min(n) FILTER (WHERE p->>4 = 'window') OVER () AS first_window
                    FROM jsonb_array_elements(parts) WITH ORDINALITY e(p, n)) part
                -- A page is a range of groups. A join with it would compare every record with every group.
                WHERE g >= (SELECT min(g) FROM page) AND g <= (SELECT max(g) FROM page)
                    AND (kind = 'balance' OR (NOT paid AND n = first_window)) GROUP BY 1, 2)
            SELECT g, records, {_CLASSES}, (SELECT jsonb_object_agg(unit, amount ORDER BY unit) FROM drawn d WHERE d.g = page.g)
            FROM page ORDER BY g""".encode(),
        names | {
            "account": account_id, "floor": floor, "below": below, "begin": begin, "end": end,
            "member": chosen.member_id, "key": chosen.key_id, "tags": json.dumps(dict(chosen.tags)),
            "after": None if after is None else [*after, *unused], "limit": limit,
        },
    ).fetchall()  # fmt: skip
    return [(list(row[0])[: len(by)], [int(n) for n in row[1:-1]], dict(row[-1] or {})) for row in rows]
