"""The SQL of what a worker must know about the holders of keys: for many keys at once, without any text that names a person."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from psycopg import Connection

from tokenworks.subscriptions.model import CapPeriod, SuspensionCause

DEPARTMENT_LEVELS: Final = 4


class ServedSubscriber(NamedTuple):
    """What serving needs of a subscriber. `newest_version`: the offering version of its newest active product, else of its newest
    product. `live_versions`: those of its live products. `consents`: the last answer to each purpose.
    """

    subscriber_id: UUID
    account_id: UUID
    cap_nano: int
    spend_locked: bool
    restricted: bool
    spill_over: bool
    regions: tuple[str, ...] | None
    home_region: str | None
    suspended_by: tuple[SuspensionCause, ...]
    consents: dict[str, bool]
    newest_version: str | None
    live_versions: tuple[str, ...]


class SpendingMember(NamedTuple):
    """A member, or a department above it."""

    member_id: UUID
    account_id: UUID
    cap_tokens: int | None
    cap_period: CapPeriod | None
    created_at: datetime


def holders(
    connection: Connection, account_ids: Sequence[UUID], live: Sequence[str]
) -> dict[UUID, ServedSubscriber]:
    """Subscribers by account. `live`: the states of live products."""
    rows = connection.execute(
        """SELECT s.subscriber_id, s.account_id, s.cap_nano, s.spend_locked, s.restricted, s.spill_over, s.regions, s.home_region,
                  s.suspended_by,
                  (SELECT coalesce(jsonb_object_agg(purpose, given), '{}') FROM (
                       SELECT DISTINCT ON (purpose) purpose, given FROM consent c WHERE c.subscriber_id = s.subscriber_id
                       ORDER BY purpose, consent_id DESC) said),
                  (SELECT p.offering_version FROM product p WHERE p.subscriber_id = s.subscriber_id
                   ORDER BY (p.state = 'active') DESC, p.started_at DESC, p.product_id DESC LIMIT 1),
                  ARRAY(SELECT DISTINCT p.offering_version FROM product p
                        WHERE p.subscriber_id = s.subscriber_id AND p.state = ANY(%s::text[]))
           FROM subscriber s WHERE s.account_id = ANY(%s)""",
        (list(live), list(account_ids)),
    )
    return {
        row[1]: ServedSubscriber(
            row[0],
            row[1],
            row[2],
            row[3],
            row[4],
            row[5],
            None if row[6] is None else tuple(row[6]),
            row[7],
            tuple(row[8]),
            row[9],
            row[10],
            tuple(row[11]),
        )
        for row in rows
    }


def lines(connection: Connection, member_ids: Sequence[UUID]) -> dict[UUID, list[SpendingMember]]:
    """By member id: the member and the departments above it, upwards."""
    rows = connection.execute(
        """WITH RECURSIVE up AS (
               SELECT member_id AS first, 1 AS level, member_id, account_id, cap_tokens, cap_period, created_at, parent_id
               FROM member WHERE member_id = ANY(%s)
               UNION ALL
               SELECT up.first, level + 1, m.member_id, m.account_id, m.cap_tokens, m.cap_period, m.created_at, m.parent_id
               FROM member m JOIN up ON m.member_id = up.parent_id WHERE level < %s)
           SELECT first, member_id, account_id, cap_tokens, cap_period, created_at FROM up ORDER BY first, level""",
        (list(member_ids), DEPARTMENT_LEVELS),
    )
    found: dict[UUID, list[SpendingMember]] = {}
    for first, *row in rows:
        found.setdefault(first, []).append(SpendingMember(*row))
    return found
