"""The SQL of the outbox of notices (table `notification`) and of their deliveries (table `notice_delivery`)."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from tokenworks.kernel import uuid7
from tokenworks.subscriptions.hub.notice_kinds import due_from, kind_of

_NOTICE = "notification_id, subscriber_id, kind, ref, content, created_at"
_DELIVERY = """notice_delivery_id, notification_id, subscriber_id, person_id, kind, channel, state, cause, created_at, begun_at,
    next_at, attempts, resends, ended_at, read_at"""
_OF_DELIVERY = ", ".join(f"d.{name.strip()}" for name in _DELIVERY.split(","))


def add_notification(
    connection: Connection,
    subscriber_id: UUID,
    kind: str,
    ref: str,
    content: Mapping[str, object],
    at: datetime,
) -> bool:
    """Add a notice, once per (subscriber, kind, ref). Return False if it was there. `content` can be written as JSON."""
    row = connection.execute(
        """INSERT INTO notification (notification_id, subscriber_id, kind, ref, content, created_at, next_at)
           VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING 1""",
        (uuid7(), subscriber_id, kind, ref, Jsonb(content), at, due_from(kind_of(kind), at)),
    ).fetchone()
    return row is not None


def add_notifications(
    connection: Connection,
    kind: str,
    notices: Sequence[tuple[UUID, str, Mapping[str, object]]],
    at: datetime,
) -> int:
    """Add notices of one kind, each (subscriber, ref, content), that are not there. Return how many."""
    if not notices:
        return 0
    return connection.execute(
        """INSERT INTO notification (notification_id, subscriber_id, kind, ref, content, created_at, next_at)
           SELECT id, subscriber, %(kind)s, ref, content, %(at)s, %(due)s
           FROM unnest(%(ids)s::uuid[], %(subscribers)s::uuid[], %(refs)s::text[], %(contents)s::jsonb[])
               r(id, subscriber, ref, content) ON CONFLICT DO NOTHING""",
        {
            "ids": [uuid7() for _ in notices],
            "subscribers": [subscriber_id for subscriber_id, _, _ in notices],
            "refs": [ref for _, ref, _ in notices],
            "contents": [Jsonb(content) for _, _, content in notices],
            "kind": kind,
            "at": at,
            "due": due_from(kind_of(kind), at),
        },
    ).rowcount


def live_subscribers(connection: Connection, after: UUID, limit: int) -> list[UUID]:
    rows = connection.execute(
        """SELECT subscriber_id FROM subscriber WHERE subscriber_id > %s AND state <> 'closed'
           ORDER BY subscriber_id LIMIT %s""",
        (after, limit),
    )
    return [row[0] for row in rows]


def lock_notifications(connection: Connection, now: datetime, limit: int) -> list[TupleRow]:
    """Lock the notices without deliveries, oldest first."""
    return connection.execute(
        f"""SELECT {_NOTICE} FROM notification
            WHERE next_at <= %s AND delivered_at IS NULL AND given_up_at IS NULL
            ORDER BY next_at, notification_id LIMIT %s FOR UPDATE SKIP LOCKED""".encode(),
        (now, limit),
    ).fetchall()


def postpone_notification(connection: Connection, notification_id: UUID, at: datetime) -> None:
    connection.execute(
        "UPDATE notification SET next_at = %s, attempts = attempts + 1 WHERE notification_id = %s",
        (at, notification_id),
    )


def end_notification(connection: Connection, notification_id: UUID, at: datetime, *, wanted: bool) -> None:
    """Mark a notice whose deliveries are made, or that nobody gets (`wanted` is false)."""
    column = "delivered_at" if wanted else "given_up_at"
    connection.execute(
        f"UPDATE notification SET {column} = %s WHERE notification_id = %s".encode(), (at, notification_id)
    )


def admins(connection: Connection, subscriber_id: UUID, limit: int) -> list[UUID]:
    rows = connection.execute(
        """SELECT member_id FROM member WHERE subscriber_id = %s AND role = 'admin' AND state = 'active'
           ORDER BY member_id LIMIT %s""",
        (subscriber_id, limit),
    )
    return [row[0] for row in rows]


# Deliveries.


def add_deliveries(connection: Connection, rows: Sequence[tuple[object, ...]]) -> None:
    """Add deliveries, once per (notice, person, channel)."""
    with connection.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO notice_delivery (notice_delivery_id, notification_id, subscriber_id, person_id, kind, channel, state,
                   cause, created_at, begun_at, next_at, ended_at)
               VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING""",
            rows,
        )


def day_counts(
    connection: Connection, person_ids: Sequence[UUID], since: datetime
) -> dict[tuple[UUID, str, str], int]:
    """(person, kind, channel) -> deliveries since an instant that were not skipped."""
    rows = connection.execute(
        """SELECT person_id, kind, channel, count(*) FROM notice_delivery
           WHERE person_id = ANY(%s) AND created_at > %s AND state <> 'skipped' GROUP BY 1, 2, 3""",
        (list(person_ids), since),
    )
    return {(row[0], row[1], row[2]): int(row[3]) for row in rows}


def invited_count(connection: Connection, subscriber_id: UUID, kind: str, since: datetime) -> int:
    """An account's deliveries of a kind since an instant, whoever got them."""
    row = connection.execute(
        """SELECT count(*) FROM notice_delivery
           WHERE subscriber_id = %s AND kind = %s AND created_at > %s AND state <> 'skipped'""",
        (subscriber_id, kind, since),
    ).fetchone()
    return 0 if row is None else int(row[0])


def lease(
    connection: Connection, channels: Sequence[str], now: datetime, until: datetime, limit: int
) -> list[TupleRow]:
    return connection.execute(
        f"""WITH due AS (SELECT notice_delivery_id FROM notice_delivery
                         WHERE state = 'waits' AND channel = ANY(%(channels)s) AND next_at <= %(now)s
                         ORDER BY next_at, notice_delivery_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
            UPDATE notice_delivery d SET next_at = %(until)s, attempts = d.attempts + 1 FROM due, notification n
            WHERE d.notice_delivery_id = due.notice_delivery_id AND n.notification_id = d.notification_id
            RETURNING {_OF_DELIVERY}, n.ref, n.content""".encode(),
        {"channels": list(channels), "now": now, "until": until, "limit": limit},
    ).fetchall()


def end(
    connection: Connection, delivery_id: UUID, attempts: int, state: str, cause: str | None, at: datetime
) -> None:
    """End a delivery. `attempts`: those of the lease; another process that has leased the delivery since then ends it."""
    connection.execute(
        """UPDATE notice_delivery SET state = %s, cause = %s, ended_at = %s
           WHERE notice_delivery_id = %s AND attempts = %s AND state = 'waits'""",
        (state, cause, at, delivery_id, attempts),
    )


def retry(
    connection: Connection, delivery_id: UUID, attempts: int, next_at: datetime, cause: str | None
) -> None:
    connection.execute(
        """UPDATE notice_delivery SET next_at = %s, cause = %s
           WHERE notice_delivery_id = %s AND attempts = %s AND state = 'waits'""",
        (next_at, cause, delivery_id, attempts),
    )


def postpone(connection: Connection, delivery_id: UUID, attempts: int, next_at: datetime) -> None:
    """Take back the attempt of a delivery that was leased and not tried."""
    connection.execute(
        """UPDATE notice_delivery SET next_at = %s, attempts = attempts - 1
           WHERE notice_delivery_id = %s AND attempts = %s AND state = 'waits'""",
        (next_at, delivery_id, attempts),
    )


def end_waiting(
    connection: Connection, channels: Sequence[str], cause: str, before: datetime, at: datetime
) -> None:
    """Skip the deliveries by some channels that have waited since before an instant."""
    connection.execute(
        """UPDATE notice_delivery SET state = 'skipped', cause = %s, ended_at = %s
           WHERE state = 'waits' AND channel = ANY(%s) AND next_at < %s AND begun_at < %s""",
        (cause, at, list(channels), before, before),
    )


def lock_delivery(connection: Connection, delivery_id: UUID) -> TupleRow | None:
    return connection.execute(
        f"SELECT {_DELIVERY} FROM notice_delivery WHERE notice_delivery_id = %s FOR UPDATE".encode(),
        (delivery_id,),
    ).fetchone()


def resend(connection: Connection, delivery_id: UUID, at: datetime) -> None:
    connection.execute(
        """UPDATE notice_delivery SET state = 'waits', cause = NULL, ended_at = NULL, begun_at = %s, next_at = %s, attempts = 0,
               resends = resends + 1 WHERE notice_delivery_id = %s""",
        (at, at, delivery_id),
    )


def deliveries(
    connection: Connection,
    subscriber_id: UUID | None,
    state: str | None,
    channel: str | None,
    offset: int,
    limit: int,
) -> tuple[list[TupleRow], int]:
    where = """FROM notice_delivery WHERE (%(subscriber)s::uuid IS NULL OR subscriber_id = %(subscriber)s)
        AND (%(state)s::text IS NULL OR state = %(state)s) AND (%(channel)s::text IS NULL OR channel = %(channel)s)"""
    values = {
        "subscriber": subscriber_id,
        "state": state,
        "channel": channel,
        "offset": offset,
        "limit": limit,
    }
    rows = connection.execute(
        f"SELECT {_DELIVERY} {where} ORDER BY notice_delivery_id DESC OFFSET %(offset)s LIMIT %(limit)s".encode(),
        values,
    ).fetchall()
    count = connection.execute(f"SELECT count(*) {where}".encode(), values).fetchone()
    assert count is not None
    return rows, int(count[0])


# The console.


def shown(
    connection: Connection, person_id: UUID, *, unread: bool, offset: int, limit: int
) -> tuple[list[TupleRow], int]:
    """A page of a person's notices in the console, newest first, with their content; and the count of all."""
    where = """FROM notice_delivery d JOIN notification n USING (notification_id)
        WHERE d.person_id = %(person)s AND d.channel = 'console' AND d.state = 'sent' AND (NOT %(unread)s OR d.read_at IS NULL)"""
    values = {"person": person_id, "unread": unread, "offset": offset, "limit": limit}
    rows = connection.execute(
        f"""SELECT {_OF_DELIVERY}, n.ref, n.content {where}
            ORDER BY d.notice_delivery_id DESC OFFSET %(offset)s LIMIT %(limit)s""".encode(),
        values,
    ).fetchall()
    count = connection.execute(f"SELECT count(*) {where}".encode(), values).fetchone()
    assert count is not None
    return rows, int(count[0])


def unread(connection: Connection, person_id: UUID, limit: int) -> int:
    """A person's unread notices in the console, counted up to `limit`."""
    row = connection.execute(
        """SELECT count(*) FROM (SELECT 1 FROM notice_delivery
           WHERE person_id = %s AND channel = 'console' AND state = 'sent' AND read_at IS NULL LIMIT %s) found""",
        (person_id, limit),
    ).fetchone()
    return 0 if row is None else int(row[0])


def mark_read(connection: Connection, person_id: UUID, delivery_id: UUID, at: datetime | None) -> bool:
    """Mark one notice of a person as read, or (None) as unread. False if the person has no such notice."""
    return bool(
        connection.execute(
            """UPDATE notice_delivery SET read_at = CASE WHEN %s::timestamptz IS NULL THEN NULL ELSE coalesce(read_at, %s) END
               WHERE notice_delivery_id = %s AND person_id = %s AND channel = 'console' AND state = 'sent'""",
            (at, at, delivery_id, person_id),
        ).rowcount
    )


def mark_all_read(connection: Connection, person_id: UUID, last_id: UUID, at: datetime) -> int:
    """Mark a person's notices up to one of them, the newest that the person has seen, as read. Return how many."""
    return connection.execute(
        """UPDATE notice_delivery SET read_at = %s
           WHERE person_id = %s AND channel = 'console' AND state = 'sent' AND read_at IS NULL AND notice_delivery_id <= %s""",
        (at, person_id, last_id),
    ).rowcount


# Upkeep.


def standing(connection: Connection, now: datetime, since: datetime) -> list[TupleRow]:
    """(channel, seconds since the oldest delivery that is due began, failed deliveries since an instant) of each channel."""
    return connection.execute(
        """SELECT c.channel,
               coalesce((SELECT floor(extract(epoch FROM %(now)s - min(d.begun_at))) FROM notice_delivery d
                         WHERE d.state = 'waits' AND d.channel = c.channel AND d.next_at <= %(now)s), 0)::bigint,
               (SELECT count(*) FROM notice_delivery d
                WHERE d.state = 'failed' AND d.channel = c.channel AND d.ended_at > %(since)s)
           FROM unnest(ARRAY['sms', 'email', 'webhook']) c(channel)""",
        {"now": now, "since": since},
    ).fetchall()


def delete_old(connection: Connection, before: datetime, limit: int) -> int:
    """Delete a batch of notices of before an instant with their deliveries, without those that still wait. Return how many."""
    return connection.execute(
        """WITH old AS (SELECT notification_id FROM notification n WHERE n.created_at < %(before)s
                           AND (n.delivered_at IS NOT NULL OR n.given_up_at IS NOT NULL)
                           AND NOT EXISTS (SELECT 1 FROM notice_delivery d
                                           WHERE d.notification_id = n.notification_id AND d.state = 'waits')
                        ORDER BY n.created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED),
                gone AS (DELETE FROM notice_delivery d USING old WHERE d.notification_id = old.notification_id)
           DELETE FROM notification n USING old WHERE n.notification_id = old.notification_id""",
        {"before": before, "limit": limit},
    ).rowcount


def forget(connection: Connection, subscriber_id: UUID | None, person_id: UUID | None, at: datetime) -> None:
    """Delete what was sent to an erased subscriber with its members, or to one erased member (`person_id`), also what waits."""
    # A notice that has no deliveries yet must not get any. First, since it waits for a job that makes them at this moment.
    connection.execute(
        """UPDATE notification SET given_up_at = %s
           WHERE (subscriber_id = %s OR content ->> 'person_id' = %s) AND delivered_at IS NULL AND given_up_at IS NULL""",
        (at, subscriber_id, None if person_id is None else str(person_id)),
    )
    connection.execute(
        "DELETE FROM notice_delivery WHERE subscriber_id = %s OR person_id = %s", (subscriber_id, person_id)
    )
