"""Notices and their deliveries as they are passed on, and their texts. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from tokenworks.kernel import format_money
from tokenworks.subscriptions.days import day_of
from tokenworks.subscriptions.hub.notice_kinds import MARKETING, Channel
from tokenworks.texts import CATALOGUES, Language

NoticeState = Literal["waits", "sent", "failed", "skipped"]
# Why a delivery was skipped.
NO_PORT: Final = "no_port"
DAY_LIMIT: Final = "day_limit"
NOT_WANTED: Final = "not_wanted"
NO_ADDRESS: Final = "no_address"
NO_MEMBER: Final = "no_member"


@dataclass(frozen=True, slots=True)
class Notice:
    """A notice in the outbox. `ref` tells notices of one kind apart; `content` has the values of its text, as JSON, and `person_id`
    where the notice is to one member.
    """

    notification_id: UUID
    subscriber_id: UUID
    kind: str
    ref: str
    content: Mapping[str, object]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NoticeDelivery:
    """A notice to one person by one channel. `cause`: a code that says why it was skipped, or why its last attempt failed."""

    delivery_id: UUID
    notification_id: UUID
    subscriber_id: UUID
    person_id: UUID
    kind: str
    channel: Channel
    state: NoticeState
    cause: str | None
    created_at: datetime
    begun_at: datetime
    next_at: datetime
    attempts: int
    resends: int
    ended_at: datetime | None
    read_at: datetime | None
    ref: str = ""
    content: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class ShownNotice:
    """A notice in a person's console."""

    notice_id: UUID
    kind: str
    title: str
    text: str
    ref: str
    created_at: datetime
    read_at: datetime | None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What one delivery says, and to which phone number, e-mail address or URL. `secrets`: those that sign a webhook. `token`: of the
    link that confirms an address, or that ends notices of the kind by e-mail.
    """

    to: str
    title: str
    text: str
    language: Language
    secrets: tuple[bytes, ...] = ()
    token: str | None = None


class NoticeSkipped(Exception):
    """A delivery must not be sent. `cause`: why, as a code."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


def notice_text(kind: str, content: Mapping[str, object], language: Language) -> str:
    """The text message of a notice."""
    at = content.get("at")
    return (
        CATALOGUES[language]
        .notices[_text_name(kind)]
        .format(
            percent=content.get("percent"),
            bill_no=content.get("bill_no"),
            line_no=content.get("line_no"),
            hint=content.get("hint"),
            spent=_money(content, "spent_nano"),
            cap=_money(content, "cap_nano"),
            left=_money(content, "remaining_nano"),
            amount=_money(content, "amount_nano"),
            name=content.get("name") or content.get("offering"),
            name_zh=content.get("name_zh") or content.get("offering"),
            from_price=_money(content, "from_price_nano"),
            to_price=_money(content, "to_price_nano"),
            date=day_of(datetime.fromisoformat(at)) if isinstance(at, str) else None,
            said=content.get("said") or "",
            said_zh=content.get("said_zh") or "",
        )
    )


def notice_title(kind: str, language: Language) -> str:
    """The title of a kind of notice, for lists and for the subject of a mail."""
    return CATALOGUES[language].notice_titles[_text_name(kind)]


def _text_name(kind: str) -> str:
    return MARKETING if kind.startswith(f"{MARKETING}.") else kind


def _money(content: Mapping[str, object], name: str) -> str:
    amount_nano = content.get(name, 0)
    assert isinstance(amount_nano, int)
    return format_money(amount_nano)
