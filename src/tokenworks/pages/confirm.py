"""The page before an order: the offering, what is charged today, the end of the period, or why the order is refused."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from fastapi import Request, Response

from tokenworks.catalog import Offering, SoldOffering
from tokenworks.charging import CreditLimitReached
from tokenworks.kernel import TokenworksError, parse_money, uuid7
from tokenworks.pages.offers import offer
from tokenworks.pages.page import Visitor, language_of, render
from tokenworks.pages.phrases import name_of, price_of, yuan
from tokenworks.pages.words import WORDS, refusal
from tokenworks.subscriptions import (
    BILLING_ZONE,
    START_DAYS_MAX,
    BroadbandMissing,
    ConsentNeeded,
    DeliveredAlready,
    NeedsFirst,
    Quote,
    RealNameNeeded,
    StepsThere,
    SubscriberNotActive,
    day_of,
    last_day,
)
from tokenworks.texts import Language
from tokenworks.web.services import Services

# The text that says what a subscriber can do later with an offering of each kind.
_TERMS: Final = {
    "plan": "on_phone_bill",
    "pay_as_you_go": "on_phone_bill_pause",
    "trial": "on_phone_bill_pause",
    "bundle": "on_phone_bill_cancel",
    "add_on": "on_phone_bill_cancel",
}


def confirm_page(
    request: Request,
    services: Services,
    visitor: Visitor | None,
    chosen: SoldOffering,
    *,
    error: TokenworksError | None,
) -> Response:
    """The confirmation of an order: the offering, what is charged today, when the period ends and when it renews."""
    language, o = language_of(request, visitor), chosen.offering
    words = WORDS[language]
    card = offer(o, language)
    if o.parts:
        names = {s.offering.id: name_of(s.offering, language) for s in services.offerings.all()}
        card["brings"] = words["bundle_of"].format(parts=words["list_comma"].join(names[p] for p in o.parts))
    facts, today, refused, twice = [], 0, None, False
    if visitor is None:
        facts.append((words["renewal"], _renewal(o, yuan(price_of(o)) + words["per_month"], words)))
    else:
        subscriber = visitor.subscriber
        delivery = o.deliveries[0] if o.deliveries else None
        try:
            found = services.quotes.place(subscriber, o.id, delivery=delivery, confirm=None)
        except TokenworksError as why:
            refused = why
        else:
            today, twice = found.now_nano, found.second
            if o.first_price is not None and today > parse_money(o.first_price).amount_nano:
                card["first"] = None  # a contract price replaces the first month's
            facts.append((words["charged_today"], _today(found, words)))
            if found.ends_at is not None:
                facts.append((words["runs_until"], last_day(found.ends_at)))
                renews = words["no_renewal"]
                if found.renews_at is not None and found.renewal_nano is not None:
                    price = yuan(found.renewal_nano) + words["per_month"]
                    renews = words["renews"].format(day=day_of(found.renews_at), price=price)
                facts.append((words["renewal"], renews))
            else:
                facts.append((words["renewal"], _renewal(o, card["price"], words)))
    today_day = services.clock.now().astimezone(BILLING_ZONE).date()
    do = words["order_for"].format(price=yuan(today)) if today else words["order_free"]
    return render(
        request, services, "confirm.html", "order", "confirm", visitor=visitor, error=error,
        o=card, facts=facts, do=do, why=None if refused is None else refusal(refused, language), twice=twice, version=chosen.offering_version,
        deliveries=[(name, words[name]) for name in o.deliveries] if len(o.deliveries) > 1 else [],
        idempotency_key=uuid7().hex, terms=words[_TERMS[o.kind]],
        asks_broadband=isinstance(refused, BroadbandMissing), steps=[] if refused is None else _next_steps(services, refused, language),
        first_day=today_day, last_start=today_day + timedelta(days=START_DAYS_MAX),
    )  # fmt: skip


# By kind of refusal: the page where the subscriber can resolve it. The first match counts.
_STEPS: Final[tuple[tuple[type[TokenworksError], str, str], ...]] = (
    (ConsentNeeded, "/privacy", "to_privacy"),
    (RealNameNeeded, "/privacy", "to_privacy"),
    (CreditLimitReached, "/bill", "to_bill"),
    (SubscriberNotActive, "/products", "to_products"),
    (DeliveredAlready, "/products", "to_products"),
    (StepsThere, "/products", "to_products"),
)


def _next_steps(services: Services, refused: TokenworksError, language: Language) -> list[tuple[str, str]]:
    """(page, text of the link) by which a refusal can be resolved. The link to other plans is always below."""
    words = WORDS[language]
    if isinstance(refused, NeedsFirst):
        known = {sold.offering.id: sold.offering for sold in services.offerings.all()}
        return [
            (f"/order?offering={id_}", words["order_first"].format(name=name_of(known[id_], language)))
            for id_ in refused.requires
            if id_ in known and services.offerings.can_be_ordered(known[id_])
        ]
    return [(page, words[word]) for kind, page, word in _STEPS if isinstance(refused, kind)][:1]


def _today(found: Quote, words: Mapping[str, str]) -> str:
    """What is charged today. An offering that another system delivers is charged on delivery."""
    if found.waits_for is None:
        return yuan(found.now_nano)
    later = yuan(found.later_nano)
    if found.now_nano > 0:
        return words["rest_later"].format(price=yuan(found.now_nano), rest=later)
    return words["after_delivery"].format(price=later)


def _renewal(o: Offering, price: str, words: Mapping[str, str]) -> str:
    if o.kind == "pay_as_you_go":
        return words["billed_by_step"]
    if o.cycle == "once":
        return words["no_renewal"]
    return words["renews_calendar" if o.cycle == "calendar_month" else "renews_anniversary"].format(
        price=price
    )
