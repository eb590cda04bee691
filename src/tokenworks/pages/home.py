"""Home: what is left and how long it lasts, what it cost, and what the visitor has to do. Without a session, the shop."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from tokenworks import __version__
from tokenworks.kernel import format_tokens
from tokenworks.pages.balances import DAYS_SHOWN, Balance, balances, days_chart, pace
from tokenworks.pages.bill import so_far
from tokenworks.pages.page import Visitor, language_of, render, visitor_of
from tokenworks.pages.parts import Alert, Figure
from tokenworks.pages.phrases import yuan
from tokenworks.pages.products import notices
from tokenworks.pages.shop import shop_page
from tokenworks.pages.usage import own_cap
from tokenworks.pages.words import WORDS
from tokenworks.subscriptions import day_of
from tokenworks.texts import Language
from tokenworks.web.actions import key_owner
from tokenworks.web.principals import phone_of
from tokenworks.web.services import Services

router = APIRouter(include_in_schema=False)
ALERTS_SHOWN: Final = 8
BALANCES_SHOWN: Final = 6
BILLS_LOOKED_AT: Final = 12
# A key that ends within this many days is an alert.
KEY_ENDS_DAYS: Final = 7


@router.api_route("/", methods=["GET", "HEAD"])
def home(request: Request) -> Response:
    """A program that asks for JSON gets the service's name and version, also while the database is away."""
    if "json" in request.headers.get("accept", ""):
        return JSONResponse({"service": "tokenworks", "version": __version__})
    with request.app.state.open_services() as services:
        visitor = visitor_of(request, services, "owner", "admin", "member")
        if visitor is None:
            return shop_page(request, services, None)
        return _home(request, services, visitor)


def _home(request: Request, services: Services, visitor: Visitor) -> Response:
    language, now = language_of(request, visitor), services.clock.now()
    words = WORDS[language]
    days = services.ledger.usage_by_day(visitor.subscriber.account_id, now - timedelta(days=DAYS_SHOWN))
    left = balances(services, visitor, days, now, language)
    alerts = _alerts(services, visitor, left, now, language)
    return render(
        request, services, "home.html", "home", "home", visitor=visitor,
        figures=_figures(services, visitor, left, days, now, language), alerts=alerts[:ALERTS_SHOWN],
        balances=left[:BALANCES_SHOWN], more=len(left) > BALANCES_SHOWN, is_member=visitor.is_member,
        chart=None if visitor.is_member or not any(days.values()) else days_chart(days, now, language),
        cap=own_cap(services, visitor, language) if visitor.is_member else None,
        nothing=words["nothing_yet_member" if visitor.is_member else "nothing_yet"],
    )  # fmt: skip


def _figures(
    services: Services,
    visitor: Visitor,
    left: list[Balance],
    days: dict[str, int],
    now: datetime,
    language: Language,
) -> list[Figure]:
    words = WORDS[language]
    tokens = [balance for balance in left if balance.left_mtok]
    in_all = format_tokens(sum(balance.left_mtok for balance in tokens), "token", language)
    note = tokens[0].forecast if len(tokens) == 1 and not visitor.is_member else ""
    found = [Figure(words["home_left"], in_all, note, "/usage")]
    if visitor.is_member:
        return found
    a_day = format_tokens(pace(days, now) * 1000, "token", language)
    unbilled = yuan(sum(row.amount_nano for row in so_far(services, visitor.subscriber, language)))
    owed = yuan(services.charges.receivable(visitor.subscriber.account_id))
    return [
        *found,
        Figure(words["home_pace"], a_day, "", "/usage"),
        Figure(words["home_unbilled"], unbilled, "", "/bills"),
        Figure(words["home_owed"], owed, words["home_owed_note"], "/bills"),
    ]


def _alerts(
    services: Services, visitor: Visitor, left: list[Balance], now: datetime, language: Language
) -> list[Alert]:
    """What is to be done, the most urgent first. Bills, plans and the account's state are for those who may act on them."""
    words, found = WORDS[language], []
    if not visitor.is_member:
        found += [Alert(text, "/plans", words["see_products"], "warn") for text in notices(visitor, words)]
        found += _unpaid(services, visitor, now, words)
    for balance in left:
        if balance.is_low:
            text = words["low_balance"].format(name=balance.name, percent=balance.percent)
            found.append(Alert(text, "/usage", words["see_usage"]))
    if not visitor.is_member and visitor.subscriber.spend_locked:
        found.append(Alert(words["locked"], "/bills", words["see_bills"]))
    found += _of_keys(services, visitor, now, words)
    invited = sum(
        member.state == "invited"
        for member in services.members.memberships(phone_of(services, visitor.principal))
    )
    if invited:
        found.append(Alert(words["invited_alert"].format(count=invited), "/family", words["see_family"]))
    return found


def _unpaid(services: Services, visitor: Visitor, now: datetime, words: Mapping[str, str]) -> list[Alert]:
    bills, _ = services.bills.all(visitor.subscriber, 0, BILLS_LOOKED_AT)
    found = []
    for bill in bills:
        if bill.remaining_nano > 0:
            is_late = bill.due_at <= now
            text = words["bill_overdue" if is_late else "bill_unpaid"].format(
                number=bill.bill_no, amount=yuan(bill.remaining_nano), day=day_of(bill.due_at)
            )
            found.append(Alert(text, "/bills", words["see_bills"], "warn" if is_late else "note"))
    return found


def _of_keys(services: Services, visitor: Visitor, now: datetime, words: Mapping[str, str]) -> list[Alert]:
    """Keys that end soon; or that there is none, where there is something to use."""
    keys = services.access.keys(visitor.subscriber, key_owner(visitor.principal))
    live = [k for k in keys if k.revoked_at is None and (k.expires_at is None or k.expires_at > now)]
    if not live:
        return [Alert(words["no_key_alert"], "/keys", words["see_keys"])]
    soon = now + timedelta(days=KEY_ENDS_DAYS)
    return [
        Alert(words["key_ends"].format(name=key.name, day=day_of(key.expires_at)), "/keys", words["see_keys"])
        for key in live
        if key.expires_at is not None and key.expires_at < soon
    ]
