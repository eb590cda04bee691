"""The SQL of protective limits, and of the leases that hosts have of them."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from psycopg import Connection
from psycopg.rows import DictRow, dict_row

from tokenworks.charging.host.limit_window import Lease
from tokenworks.charging.host.limits import LEASE_SPEND_S
from tokenworks.charging.ledger.host_store import HOST_SILENT_S
from tokenworks.charging.messages import Limit
from tokenworks.kernel import uuid7

# A lease counts against the limit for one minute after the last moment at which the host can spend it.
LEASE_COUNTS_S: Final = 60 + LEASE_SPEND_S
LIMITS_MAX: Final = 10_000


def set_limit(
    connection: Connection,
    scope: str,
    ref: str,
    account_id: UUID | None,
    requests_per_min: int | None,
    tokens_per_min: int | None,
    streams_max: int | None,
) -> UUID:
    """Set the one limit of a (scope, ref) and notify the hosts."""
    with connection.transaction():
        row = connection.execute(
            """INSERT INTO rate_limit (limit_id, scope, ref, account_id, requests_per_min, tokens_per_min, streams_max)
               VALUES (%s, %s, %s, %s, %s, %s, %s)
               ON CONFLICT (scope, ref) DO UPDATE SET requests_per_min = excluded.requests_per_min,
                   tokens_per_min = excluded.tokens_per_min, streams_max = excluded.streams_max
               RETURNING limit_id""",
            (uuid7(), scope, ref, account_id, requests_per_min, tokens_per_min, streams_max),
        ).fetchone()
        assert row is not None
        _notify(connection, account_id)
    return UUID(str(row[0]))


def remove_limit(connection: Connection, limit_id: UUID) -> bool:
    with connection.transaction():
        row = connection.execute(
            "DELETE FROM rate_limit WHERE limit_id = %s RETURNING account_id", (limit_id,)
        ).fetchone()
        if row is not None:
            _notify(connection, row[0])
    return row is not None


def _notify(connection: Connection, account_id: UUID | None) -> None:
    kind, ref = ("snapshot", "limit") if account_id is None else ("account", account_id.hex)
    connection.execute("INSERT INTO change (kind, ref) VALUES (%s, %s)", (kind, ref))


def limits(connection: Connection) -> list[DictRow]:
    """All limits, by scope and age."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            """SELECT limit_id, scope, ref, account_id, requests_per_min, tokens_per_min, streams_max FROM rate_limit
               ORDER BY scope, limit_id LIMIT %s""",
            (LIMITS_MAX,),
        ).fetchall()


def limits_of(connection: Connection, refs: Sequence[tuple[str, str]]) -> list[tuple[str, Limit]]:
    """(scope, limit) of each limit that applies to one of these (scope, ref)."""
    return [(scope, limit) for scope, _, limit in limits_by_ref(connection, refs)]


def limits_by_ref(connection: Connection, refs: Sequence[tuple[str, str]]) -> list[tuple[str, str, Limit]]:
    """(scope, ref, limit) of each limit that applies to one of these (scope, ref), ordered by the limit's id."""
    rows = connection.execute(
        """SELECT scope, ref, limit_id, requests_per_min, tokens_per_min, streams_max FROM rate_limit
           WHERE (scope, ref) IN (SELECT * FROM unnest(%s::text[], %s::text[])) ORDER BY limit_id""",
        ([scope for scope, _ in refs], [ref for _, ref in refs]),
    )
    return [
        (scope, ref, Limit(limit_id.hex, requests or 0, tokens or 0, streams or 0))
        for scope, ref, limit_id, requests, tokens, streams in rows
    ]


def deployment_limits(connection: Connection) -> dict[str, Limit]:
    """The limits of deployments, by the deployment's name."""
    rows = connection.execute(
        """SELECT ref, limit_id, requests_per_min, tokens_per_min, streams_max FROM rate_limit
           WHERE scope = 'deployment' LIMIT %s""",
        (LIMITS_MAX,),
    )
    return {
        ref: Limit(limit_id.hex, requests or 0, tokens or 0, streams or 0)
        for ref, limit_id, requests, tokens, streams in rows
    }


def lease_limit(
    connection: Connection, journal_id: UUID, limit: Limit, requests: int, tokens: int, streams: int
) -> Lease:
    """Lease up to this many requests and tokens to a host, and set its total claim of streams.

    Times are those of the database's clock. If less is left than requested, the lease has the milliseconds until more is available.
    """
    limit_id = UUID(limit.limit_id)
    with connection.transaction():
        # The row lock lets one host lease at a time.
        known = connection.execute(
            "SELECT 1 FROM rate_limit WHERE limit_id = %s FOR UPDATE", (limit_id,)
        ).fetchone()
        if known is None:
            return Lease(requests, tokens, streams, 0)  # the limit was removed meanwhile
        connection.execute(
            "DELETE FROM limit_lease WHERE limit_id = %s AND leased_at <= clock_timestamp() - make_interval(secs => %s)",
            (limit_id, LEASE_COUNTS_S),
        )
        row = connection.execute(
            """SELECT coalesce(sum(requests), 0)::bigint, coalesce(sum(tokens), 0)::bigint,
                      (extract(epoch FROM min(leased_at) - clock_timestamp()) * 1000)::bigint
               FROM limit_lease WHERE limit_id = %s AND requests + tokens > 0""",
            (limit_id,),
        ).fetchone()
        assert row is not None
        given_requests = min(requests, max(0, limit.requests_per_min - row[0]))
        given_tokens = min(tokens, max(0, limit.tokens_per_min - row[1]))
        wait_ms = 0
        if given_requests < min(1, requests) or given_tokens < tokens:
            wait_ms = max(1, int(row[2] or 0) + int(LEASE_COUNTS_S * 1000))
        if given_requests or given_tokens:
            connection.execute(
                "INSERT INTO limit_lease (limit_id, lease_id, journal_id, requests, tokens) VALUES (%s, %s, %s, %s, %s)",
                (limit_id, uuid7(), journal_id, given_requests, given_tokens),
            )
        if limit.streams_max:
            claimed = connection.execute(
                """SELECT coalesce(sum(streams), 0)::bigint FROM limit_streams
                   WHERE limit_id = %s AND journal_id <> %s AND seen_at > clock_timestamp() - make_interval(secs => %s)""",
                (limit_id, journal_id, HOST_SILENT_S),
            ).fetchone()
            assert claimed is not None
            given_streams = min(streams, max(0, limit.streams_max - claimed[0]))
            if given_streams < streams:
                wait_ms = wait_ms or 1000
            connection.execute(
                """INSERT INTO limit_streams (limit_id, journal_id, streams) VALUES (%s, %s, %s)
                   ON CONFLICT (limit_id, journal_id) DO UPDATE SET streams = excluded.streams, seen_at = clock_timestamp()""",
                (limit_id, journal_id, given_streams),
            )
            streams = given_streams
    return Lease(given_requests, given_tokens, streams, wait_ms)


def return_lease(
    connection: Connection, journal_id: UUID, limit_id: UUID, requests: int, tokens: int
) -> None:
    """Return what a host leased and did not spend. A negative `tokens` is what it spent beyond its leases."""
    with connection.transaction():
        if (
            connection.execute(
                "SELECT 1 FROM rate_limit WHERE limit_id = %s FOR UPDATE", (limit_id,)
            ).fetchone()
            is None
        ):
            return
        rows = connection.execute(
            """SELECT lease_id, requests, tokens FROM limit_lease WHERE limit_id = %s AND journal_id = %s
               ORDER BY leased_at DESC""",
            (limit_id, journal_id),
        ).fetchall()
        for lease_id, leased_requests, leased_tokens in rows:
            less_requests = max(0, min(requests, leased_requests))
            less_tokens = max(0, min(tokens, leased_tokens))
            if not less_requests and not less_tokens:
                continue
            connection.execute(
                """UPDATE limit_lease SET requests = requests - %s, tokens = tokens - %s
                   WHERE limit_id = %s AND lease_id = %s""",
                (less_requests, less_tokens, limit_id, lease_id),
            )
            requests -= less_requests
            tokens -= less_tokens
        if tokens < 0:
            connection.execute(
                "INSERT INTO limit_lease (limit_id, lease_id, journal_id, requests, tokens) VALUES (%s, %s, %s, 0, %s)",
                (limit_id, uuid7(), journal_id, -tokens),
            )
