"""The outbox of notices: which text goes to which phone. The sender (`app.ports.notify`) leases notices, sends them and marks
them; a failed notice is tried again with growing waits, for a day.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.kernel import Clock, format_money
from tokenworks.subscriptions.days import day_of
from tokenworks.subscriptions.hub import notice_store
from tokenworks.subscriptions.people.consents import Consents
from tokenworks.subscriptions.service import Subscriptions
from tokenworks.texts import CATALOGUES, Language

LEASE: Final = timedelta(seconds=60)
FIRST_WAIT: Final = timedelta(seconds=10)
WAIT_MAX: Final = timedelta(hours=1)
GIVE_UP_AFTER: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Notice:
    """A notice in the outbox. `ref` tells notices of one kind apart; `content` has the values of its text, as JSON."""

    notification_id: UUID
    subscriber_id: UUID
    kind: str
    ref: str
    content: Mapping[str, object]
    created_at: datetime
    attempts: int


def notice_text(kind: str, content: Mapping[str, object], language: Language) -> str:
    """The text message of a notice."""
    at = content.get("at")
    return (
        CATALOGUES[language]
        .notices[kind]
        .format(
            percent=content.get("percent"),
            bill_no=content.get("bill_no"),
            line_no=content.get("line_no"),
            spent=_money(content, "spent_nano"),
            cap=_money(content, "cap_nano"),
            left=_money(content, "remaining_nano"),
            name=content.get("name") or content.get("offering"),
            name_zh=content.get("name_zh") or content.get("offering"),
            from_price=_money(content, "from_price_nano"),
            to_price=_money(content, "to_price_nano"),
            date=day_of(datetime.fromisoformat(at)) if isinstance(at, str) else None,
        )
    )


def _money(content: Mapping[str, object], name: str) -> str:
    amount_nano = content.get(name, 0)
    assert isinstance(amount_nano, int)
    return format_money(amount_nano)


class Notices:
    """Leases and marks notices, on one connection."""

    def __init__(
        self, connection: Connection, clock: Clock, subscriptions: Subscriptions, consents: Consents
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._subscriptions = subscriptions
        self._consents = consents

    def is_wanted(self, notice: Notice) -> bool:
        """False for marketing that the subscriber does not agree to when it is sent."""
        return not notice.kind.startswith("marketing.") or self._consents.agrees_to_marketing(
            notice.subscriber_id
        )

    def message(self, notice: Notice) -> tuple[str, str] | None:
        """(phone, text) of a notice; None if its kind has no text, or the subscriber no longer has the number."""
        subscriber = self._subscriptions.find_exact(str(notice.subscriber_id))
        if notice.kind not in CATALOGUES[subscriber.language].notices:
            return None
        if not subscriber.phone or not self._subscriptions.has_number(subscriber):
            return None
        return subscriber.phone, notice_text(notice.kind, notice.content, subscriber.language)

    def lease(self, limit: int) -> list[Notice]:
        """Lease the notices that are due, oldest first: no other process sends them for a minute."""
        now = self._clock.now()
        return [
            Notice(*row)
            for row in notice_store.lease_notifications(self._connection, now, now + LEASE, limit)
        ]

    def mark_delivered(self, notice: Notice) -> None:
        """Mark a notice as sent."""
        notice_store.end_notification(
            self._connection, notice.notification_id, "delivered_at", self._clock.now()
        )

    def give_up(self, notice: Notice) -> None:
        """Give up a notice that must not be sent."""
        notice_store.end_notification(
            self._connection, notice.notification_id, "given_up_at", self._clock.now()
        )

    def postpone(self, notice: Notice) -> None:
        """Make a notice that was not tried due again at once."""
        notice_store.retry_notification(self._connection, notice.notification_id, self._clock.now())

    def mark_failed(self, notice: Notice) -> None:
        """Make a failed notice due again after a growing wait, or give it up after a day."""
        now = self._clock.now()
        if now - notice.created_at >= GIVE_UP_AFTER:
            notice_store.end_notification(self._connection, notice.notification_id, "given_up_at", now)
        else:
            wait = min(WAIT_MAX, FIRST_WAIT * 2 ** min(notice.attempts, 20))
            notice_store.retry_notification(self._connection, notice.notification_id, now + wait)
