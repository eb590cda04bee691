"""The outbox of notices: leased, sent by whoever wires the ports, marked; tried again with growing waits for a day. What is said, and
to whom, is decided here.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
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
    notification_id: UUID
    subscriber_id: UUID
    kind: str
    ref: str
    content: dict[str, Any]
    created_at: datetime
    attempts: int


def notice_text(kind: str, content: dict[str, Any], language: Language) -> str:
    """What a phone is told."""
    return (
        CATALOGUES[language]
        .notices[kind]
        .format(
            percent=content.get("percent"),
            bill_no=content.get("bill_no"),
            line_no=content.get("line_no"),
            spent=format_money(content.get("spent_nano", 0)),
            cap=format_money(content.get("cap_nano", 0)),
            left=format_money(content.get("remaining_nano", 0)),
            name=content.get("name") or content.get("offering"),
            name_zh=content.get("name_zh") or content.get("offering"),
            from_price=format_money(content.get("from_price_nano", 0)),
            to_price=format_money(content.get("to_price_nano", 0)),
            date=day_of(datetime.fromisoformat(content["at"])) if "at" in content else None,
        )
    )


class Notices:
    """On one connection, with the rooms that it uses."""

    def __init__(
        self, connection: Connection, clock: Clock, subscriptions: Subscriptions, consents: Consents
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._subscriptions = subscriptions
        self._consents = consents

    def is_wanted(self, notice: Notice) -> bool:
        """Marketing goes only to those who agree to it when it is sent."""
        return not notice.kind.startswith("marketing.") or self._consents.agrees_to_marketing(
            notice.subscriber_id
        )

    def message(self, notice: Notice) -> tuple[str, str] | None:
        """(phone, text) of a notice; None where it has no text, or the number is none of the subscriber's any more."""
        subscriber = self._subscriptions.find_exact(str(notice.subscriber_id))
        if notice.kind not in CATALOGUES[subscriber.language].notices:
            return None
        if not subscriber.phone or not self._subscriptions.has_number(subscriber):
            return None
        return subscriber.phone, notice_text(notice.kind, notice.content, subscriber.language)

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
