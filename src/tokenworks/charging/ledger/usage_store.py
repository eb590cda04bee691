"""The SQL of reading usage, for people and auditors. Only settlement writes usage."""

from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from psycopg import Connection
from psycopg.rows import DictRow, dict_row

from tokenworks.catalog import TOKEN_CLASSES
from tokenworks.charging.ledger.day_store import INPUT as _INPUT
from tokenworks.charging.ledger.day_store import OUTPUT as _OUTPUT
from tokenworks.charging.ledger.store import RECORDS_SHOWN_MAX, database_now
from tokenworks.charging.model import losses_shown
from tokenworks.charging.routing_note import read_note

# How many days an account's daily sum of losses is kept. The records keep their losses for longer.
LOSS_DAYS_KEPT: Final = 35

USAGE: Final = """usage_id, request_id, attempt_no, key_id, member_id, protocol, model, deployment, state, reason, counted_by,
    started_at, ended_at, first_byte_ms, latency_ms, fresh_input, cached_input, cache_write, audio_input, output, reasoning,
    audio_output, cache_write_1h, provider_total, parts, loss, flags, upstream_id, prompt, asked, choice, replay_of,
    replay_percent"""


class UsageFilter(NamedTuple):
    """A filter for records that ended in [begin, end). `floor` and `below` bound the ids that such records can have."""

    begin: datetime | None = None
    end: datetime | None = None
    floor: UUID | None = None
    below: UUID | None = None


def shown_record(row: DictRow) -> DictRow:
    """A usage row in the form for display: with named losses, and with the parts of the column `choice`."""
    row["loss"] = losses_shown(row["loss"])
    if "choice" in row:
        way = read_note(row["choice"])
        row["choice"] = way.choice
        row["tried"] = [{"deployment": deployment, "cause": cause} for deployment, cause in way.tried]
        row["client_request_id"] = way.client_request_id
        row["tags"] = dict(way.tags)
    return row


def usage(
    connection: Connection, account_id: UUID, floor: UUID | None, limit: int, member_id: UUID | None = None
) -> list[DictRow]:
    """Usage records, newest first."""
    within = UsageFilter(floor=floor)
    return usage_page(connection, account_id, member_id, within, None, 0, min(limit, RECORDS_SHOWN_MAX))


def usage_page(
    connection: Connection,
    account_id: UUID,
    member_id: UUID | None,
    within: UsageFilter,
    before: UUID | None,
    offset: int,
    limit: int,
) -> list[DictRow]:
    """A page of usage records, newest first. `before`: only ids below this one, so that a page of any age costs the same."""
    where, names = _within(account_id, member_id, within, before)
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(
            f"SELECT {USAGE} FROM usage {where} ORDER BY usage_id DESC OFFSET %(offset)s LIMIT %(limit)s".encode(),
            names | {"offset": offset, "limit": limit},
        ).fetchall()
    return [shown_record(row) for row in found]


def usage_count(
    connection: Connection, account_id: UUID, member_id: UUID | None, within: UsageFilter, most: int
) -> int | None:
    """How many records the filter matches; None if more than `most`."""
    where, names = _within(account_id, member_id, within, None)
    row = connection.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM usage {where} LIMIT %(most)s) found".encode(),
        names | {"most": most + 1},
    ).fetchone()
    assert row is not None
    return None if row[0] > most else int(row[0])


def _within(
    account_id: UUID, member_id: UUID | None, within: UsageFilter, before: UUID | None
) -> tuple[str, dict[str, object]]:
    """(a WHERE clause, its parameters). A filter that is not given has no condition, since `x IS NULL OR …` would prevent an index."""
    begin, end, floor, below = within
    most = UUID(int=2**128 - 1)
    names: dict[str, object] = {
        "account": account_id,
        "floor": floor or UUID(int=0),
        "below": min(before or most, below or most),
    }
    where = "WHERE account_id = %(account)s AND usage_id >= %(floor)s AND usage_id < %(below)s"
    for name, value, condition in (
        (
            "member",
            member_id,
            "member_id = %(member)s AND uuid_hash_extended(member_id, 0) = uuid_hash_extended(%(member)s, 0)",
        ),
        ("begin", begin, "ended_at >= %(begin)s"),
        ("end", end, "ended_at < %(end)s"),
    ):
        if value is not None:
            names[name] = value
            where += f" AND {condition}"
    return where, names


def consumed(
    connection: Connection, account_id: UUID, floor: UUID, below: UUID, begin: datetime, end: datetime
) -> list[DictRow]:
    """The amounts drawn from an account's buckets by requests that ended in [begin, end), in thousandths, by charge, product, member,
    model, unit and rate version. `floor` and `below` bound the ids that are read. A request that draws on windows alone counts once,
    in its first window.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            """WITH found AS (
                   SELECT usage_id, member_id, model, p, at,
                          bool_or(p->>4 = 'balance') OVER (PARTITION BY usage_id) AS paid,
                          min(at) FILTER (WHERE p->>4 = 'window') OVER (PARTITION BY usage_id) AS first_window
                   FROM usage, jsonb_array_elements(parts) WITH ORDINALITY AS t(p, at)
                   WHERE account_id = %(account)s AND usage_id >= %(floor)s AND usage_id < %(below)s
                       AND ended_at >= %(begin)s AND ended_at < %(end)s)
               SELECT b.charge_id, b.product_id, f.member_id, f.model, f.p->>3 AS unit, f.p->>2 AS rate_version,
                      sum((f.p->>5)::bigint)::bigint AS amount, count(DISTINCT f.usage_id)::int AS requests
               FROM found f JOIN bucket b ON b.account_id = %(account)s AND b.bucket_id = (f.p->>0)::uuid
               WHERE f.p->>4 = 'balance' OR (NOT f.paid AND f.at = f.first_window)
               GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 2, 1, 3, 4, 5, 6""",
            {"account": account_id, "floor": floor, "below": below, "begin": begin, "end": end},
        ).fetchall()


def usage_record(connection: Connection, account_id: UUID, usage_id: UUID) -> DictRow | None:
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(
            f"SELECT {USAGE} FROM usage WHERE account_id = %s AND usage_id = %s".encode(),
            (account_id, usage_id),
        ).fetchone()
    return None if found is None else shown_record(found)


def flagged(
    connection: Connection, floor: UUID | None, limit: int, before: UUID | None = None
) -> list[DictRow]:
    """Records with flags (figures that do not add up, were not reported, came late or were waived), newest first. The operator
    reconciles them with the deployment's own figures. `before`: only ids below this one, so that every page costs the same.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            f"""SELECT usage_id, account_id, deployment, model, upstream_id, started_at, counted_by, flags, provider_total,
                       ({_INPUT})::bigint AS input_tokens, ({_OUTPUT})::bigint AS output_tokens, loss
                FROM usage WHERE flags <> '{{}}' AND usage_id >= %s AND usage_id < %s ORDER BY usage_id DESC LIMIT %s""".encode(),
            (floor or UUID(int=0), before or UUID(int=2**128 - 1), min(limit, RECORDS_SHOWN_MAX)),
        ).fetchall()
    return [shown_record(row) for row in rows]


def owns_upstream_id(connection: Connection, account_id: UUID, upstream_id: str) -> tuple[str, int] | None:
    """(the deployment that gave this account a response, the tokens of the response's record). None if the account received no such
    response.
    """
    row = connection.execute(
        f"""SELECT deployment, {" + ".join(TOKEN_CLASSES)} FROM usage
            WHERE account_id = %(account)s AND upstream_id = %(id)s AND protocol = 'responses'
                AND hashtextextended(upstream_id, 0) = hashtextextended(%(id)s, 0) ORDER BY usage_id DESC LIMIT 1""".encode(),
        {"account": account_id, "id": upstream_id},
    ).fetchone()
    return None if row is None else (str(row[0]), int(row[1]))


def losses_of_today(
    connection: Connection, journal_id: UUID, above_tokens: int, limit: int
) -> tuple[int, int, list[tuple[str, int]]]:
    """In one snapshot: (days since 1970 by the database's clock, the journal's settled sequence, [(account, tokens)] of accounts with
    more than `above_tokens` tokens at risk today, most first).
    """
    row = connection.execute(
        """WITH today AS (SELECT (now() AT TIME ZONE 'UTC')::date AS day),
                found AS (SELECT account_id, risk_tokens FROM account_loss JOIN today USING (day)
                          WHERE risk_tokens > %s ORDER BY risk_tokens DESC LIMIT %s)
           SELECT day - date '1970-01-01', (SELECT settled_seq FROM journal WHERE journal_id = %s),
                  (SELECT coalesce(array_agg(account_id), '{}') FROM found), (SELECT coalesce(array_agg(risk_tokens), '{}') FROM found)
           FROM today""",
        (above_tokens, limit, journal_id),
    ).fetchone()
    assert row is not None
    day, settled_seq, accounts, tokens = row
    return int(day), int(settled_seq or 0), [(a.hex, int(n)) for a, n in zip(accounts, tokens, strict=True)]


def delete_old_account_losses(connection: Connection) -> None:
    oldest = database_now(connection).astimezone(UTC) - timedelta(days=LOSS_DAYS_KEPT)
    connection.execute("DELETE FROM account_loss WHERE day < %s", (oldest.date(),))


def losses(
    connection: Connection, floor: UUID | None, account_id: UUID | None, offset: timedelta
) -> list[DictRow]:
    """The operator's losses by day (newest first) and cause (most tokens first): records, requests, tokens by class. `offset`: the time
    zone's distance from UTC.
    """
    whose = "" if account_id is None else "AND account_id = %(account)s"
    classes = ", ".join(
        f"sum((l->2->>{at})::bigint)::bigint AS {name}" for at, name in enumerate(TOKEN_CLASSES)
    )
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            f"""SELECT to_char((ended_at AT TIME ZONE 'UTC') + %(offset)s, 'YYYY-MM-DD') AS day, l->>0 AS cause, count(*) AS records,
                       sum((l->>1)::bigint)::bigint AS requests, {classes}
                FROM usage, jsonb_array_elements(CASE WHEN jsonb_typeof(loss->0) = 'number'
                    THEN jsonb_build_array(jsonb_build_array('unnamed', loss->0, loss->1)) ELSE loss END) l
                WHERE loss IS NOT NULL AND usage_id >= %(floor)s {whose}
                GROUP BY 1, 2""".encode(),
            {"floor": floor or UUID(int=0), "account": account_id, "offset": offset},
        ).fetchall()
    found = [
        {name: row[name] for name in ("day", "cause", "records", "requests")}
        | {"tokens": sum(row[name] or 0 for name in TOKEN_CLASSES)}
        | {"counts": {name: row[name] for name in TOKEN_CLASSES if row[name]}}
        for row in rows
    ]
    found.sort(key=lambda row: (-row["tokens"], row["cause"]))
    found.sort(key=lambda row: str(row["day"]), reverse=True)
    return found
