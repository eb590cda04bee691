"""The outbox of notices: leased, sent by whoever wires the ports, marked; tried again with growing waits for a day."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from tokenworks.kernel import Clock
from tokenworks.subscriptions.hub import hub_store, notice_store

LEASE: Final = timedelta(seconds=60)
FIRST_WAIT: Final = timedelta(seconds=10)
WAIT_MAX: Final = timedelta(hours=1)
GIVE_UP_AFTER: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Notice:
    notification_id: UUID
    subscriber_id: UUID
    kind: str
    ref: str
    content: dict[str, Any]
    created_at: datetime
    attempts: int


class Notices:
    def __init__(self, connection: hub_store.Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def lease(self, limit: int) -> list[Notice]:
        """What is due, oldest first; nobody else sends it within a minute."""
        now = self._clock.now()
        return [
            Notice(*row)
            for row in notice_store.lease_notifications(self._connection, now, now + LEASE, limit)
        ]

    def delivered(self, notice: Notice) -> None:
        notice_store.end_notification(
            self._connection, notice.notification_id, "delivered_at", self._clock.now()
        )

    def dropped(self, notice: Notice) -> None:
        """It is not to be sent any more."""
        notice_store.end_notification(
            self._connection, notice.notification_id, "given_up_at", self._clock.now()
        )

    def later(self, notice: Notice) -> None:
        """It was not tried: due again at once."""
        notice_store.retry_notification(self._connection, notice.notification_id, self._clock.now())

    def failed(self, notice: Notice) -> None:
        """Again later, or, after a day, never."""
        now = self._clock.now()
        if now - notice.created_at >= GIVE_UP_AFTER:
            notice_store.end_notification(self._connection, notice.notification_id, "given_up_at", now)
        else:
            wait = min(WAIT_MAX, FIRST_WAIT * 2 ** min(notice.attempts, 20))
            notice_store.retry_notification(self._connection, notice.notification_id, now + wait)
