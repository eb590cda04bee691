"""The SQL of sums of usage by day, model, member, key, protocol or tag: exact, from the usage records of one account."""

import json
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from psycopg import Connection

from tokenworks.catalog import TOKEN_CLASSES
from tokenworks.charging.ledger.usage_store import UsageFilter, within_clause

# The text of each group. A day is one of UTC+8, as of bills and caps.
_GROUPS: Final = {
    "day": "to_char((ended_at AT TIME ZONE 'UTC') + interval '8 hours', 'YYYY-MM-DD')",
    "model": "model",
    "member": "replace(member_id::text, '-', '')",
    "key": "replace(key_id::text, '-', '')",
    "protocol": "protocol",
}
GROUPS: Final = tuple(_GROUPS)
# The tags of a record: the routing note is a JSON object where the record has some.
_TAGS: Final = "(CASE WHEN choice LIKE '{%%' THEN choice::jsonb -> 'tags' END)"


class SumsFilter(NamedTuple):
    """Which records are summed: those of a member, of a key, with these tags."""

    within: UsageFilter
    member_id: UUID | None
    key_id: UUID | None
    tags: Mapping[str, str]


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
    where, names = within_clause(account_id, chosen.member_id, chosen.within, None)
    if chosen.key_id is not None:
        where += " AND key_id = %(key)s"
        names["key"] = chosen.key_id
    if chosen.tags:
        where += f" AND {_TAGS} @> %(tags)s::jsonb"
        names["tags"] = json.dumps(dict(chosen.tags))
    columns = []
    for at, name in enumerate(by):
        if name in _GROUPS:
            columns.append(_GROUPS[name])
        else:
            columns.append(f"coalesce({_TAGS} ->> %(tag{at})s, '')")
            names[f"tag{at}"] = name.removeprefix("tag:")
    group = f'ARRAY[{", ".join(columns)}]::text[] COLLATE "C"'
    beyond = "" if after is None else "WHERE g > %(after)s::text[]"
    rows = connection.execute(
        f"""WITH found AS MATERIALIZED (
                SELECT {group} AS g, parts, {", ".join(TOKEN_CLASSES)} FROM usage {where}),
            page AS (
                SELECT g, count(*) AS records, {", ".join(f"sum({name})::bigint AS {name}" for name in TOKEN_CLASSES)}
                FROM found {beyond} GROUP BY g ORDER BY g LIMIT %(limit)s),
            drawn AS (
                SELECT g, unit, sum(amount)::bigint AS amount FROM found JOIN page USING (g), LATERAL (
                    SELECT p->>3 AS unit, (p->>5)::bigint AS amount, p->>4 AS kind, n,
                           bool_or(p->>4 = 'balance') OVER () AS paid, min(n) FILTER (WHERE p->>4 = 'window') OVER () AS first_window
                    FROM jsonb_array_elements(parts) WITH ORDINALITY e(p, n)) part
                WHERE kind = 'balance' OR (NOT paid AND n = first_window) GROUP BY 1, 2)
            SELECT g, records, {", ".join(TOKEN_CLASSES)}, (SELECT jsonb_object_agg(unit, amount) FROM drawn d WHERE d.g = page.g)
            FROM page ORDER BY g""".encode(),
        names | {"after": None if after is None else list(after), "limit": limit},
    ).fetchall()
    return [(list(row[0]), [int(n) for n in row[1:-1]], dict(row[-1] or {})) for row in rows]
