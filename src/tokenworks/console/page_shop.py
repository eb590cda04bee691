"""The shop: what is on sale, for strangers too; the confirmation, which says what is charged and until when; the order."""

from dataclasses import replace
from datetime import date, timedelta
from itertools import groupby, takewhile
from typing import Annotated, Any, Final, NamedTuple

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from tokenworks.catalog import Offering, SoldOffering
from tokenworks.charging import CreditLimitReached
from tokenworks.console.account import issue_key
from tokenworks.console.page import (
    Text,
    Visitor,
    ask_to_sign_in,
    brings,
    fen,
    language_of,
    name_of,
    page_at,
    price_of,
    render,
    visitor_of,
    yuan,
)
from tokenworks.console.web import Asked, Rooms, audit, reached_at
from tokenworks.console.words import WORDS, Language, refusal
from tokenworks.kernel import (
    Conflict,
    Invalid,
    TokenworksError,
    format_money,
    format_tokens,
    parse_money,
    uuid7,
)
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

router = APIRouter(include_in_schema=False)
LIVE: Final = frozenset({"active", "suspended", "pendingActive"})
# Whom the shop is for; what is for others alone is sold by people.
_AUDIENCES: Final = ("person", "family", "developer", "small_business")
# What can be done later with an offering of each kind.
_TERMS: Final = {
    "plan": "on_phone_bill",
    "pay_as_you_go": "on_phone_bill_pause",
    "trial": "on_phone_bill_pause",
    "bundle": "on_phone_bill_cancel",
    "add_on": "on_phone_bill_cancel",
}
_RANK: Final = {"plan": 0, "pay_as_you_go": 1, "bundle": 2, "trial": 3, "add_on": 4}


class OfferingChanged(Conflict):
    """The offering is not what the confirmation showed."""


def on_sale(rooms: Rooms, visitor: Visitor | None) -> list[SoldOffering]:
    """What can be ordered here now: plans first, a household's before others', and cheapest first. A first month's price is left
    out for whoever has had the offering.
    """
    mine = None if visitor is None else visitor.subscriber.audiences
    found = [
        _without_first_price(sold)
        if visitor is not None
        and sold.offering.first_price is not None
        and rooms.orders.has_had(visitor.subscriber, sold.offering.id)
        else sold
        for sold in rooms.offerings.for_sale(mine)
        if set(_AUDIENCES if mine is None else mine) & set(sold.offering.audiences)
    ]
    return sorted(found, key=lambda sold: _place(sold.offering))


def _without_first_price(sold: SoldOffering) -> SoldOffering:
    return replace(sold, offering=sold.offering.model_copy(update={"first_price": None}))


def _place(o: Offering) -> tuple[int, int, int]:
    """Where an offering stands in the shop."""
    first = min((_AUDIENCES.index(a) for a in o.audiences if a in _AUDIENCES), default=len(_AUDIENCES))
    return _RANK[o.kind], first, price_of(o)


# Cards: one for a plan, with its tiers.


class _Kinship(NamedTuple):
    """What tiers of one plan have in common."""

    seller: str
    kind: str
    audiences: tuple[str, ...]
    cycle: str
    rate_card: str
    windows: tuple[tuple[str, str | None], ...]
    # An offering that is no plan has a card of its own.
    alone: str


def _kinship(o: Offering) -> _Kinship:
    windows = tuple((bucket.unit, bucket.window) for bucket in o.buckets)
    alone = "" if o.kind == "plan" else o.id
    return _Kinship(o.carrier, o.kind, o.audiences, o.cycle, o.rate_card, windows, alone)


def cards(offered: list[Offering], had: set[str], language: Language) -> list[dict[str, Any]]:
    """Tiers of one plan are one card, cheapest first; cards stand in the order of their cheapest tier."""
    order: dict[_Kinship, int] = {}
    for offering in offered:
        order.setdefault(_kinship(offering), len(order))
    found = sorted(offered, key=lambda o: order[_kinship(o)])
    return [_card(list(tiers), had, language) for _, tiers in groupby(found, _kinship)]


def _card(tiers: list[Offering], had: set[str], language: Language) -> dict[str, Any]:
    words = WORDS[language]
    title = common_name([name_of(o, language) for o in tiers])
    whom = [a for a in tiers[0].audiences if a in {*_AUDIENCES, "enterprise"}]
    return {
        "title": title,
        "audience": words["for_whom"].format(
            audience=_and([words["family_audience" if a == "family" else a] for a in whom], words)
        ),
        "tiers": [
            {
                **offer(o, language),
                "label": _label(name_of(o, language), title) if len(tiers) > 1 else "",
                "have": o.id in had,
            }
            for o in tiers
        ],
    }


def _and(parts: list[str], words: dict[str, str]) -> str:
    """A list in a sentence: individuals, families and developers."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{words['list_comma'].join(parts[:-1])}{words['and']}{parts[-1]}"


def _label(name: str, title: str) -> str:
    """What tells a tier from its siblings."""
    label = name.removeprefix(title).strip()
    return label[:1].upper() + label[1:]


def common_name(names: list[str]) -> str:
    """What tiers of a plan are called together: China Telecom of China Telecom Light and China Telecom Premium."""
    if len(names) == 1:
        return names[0]
    alike = takewhile(lambda chars: len(set(chars)) == 1, zip(*names, strict=False))
    common = _whole_words("".join(chars[0] for chars in alike))
    if any(name[len(common) :].lstrip()[:1].isdigit() for name in names):
        # A number goes with its word: tier 1, 第 1 档.
        common = _whole_words(common.rstrip().removesuffix("第"))
    return common.strip() or names[0]


def _whole_words(text: str) -> str:
    """Up to the last space, where words have spaces between them."""
    return text[: text.rfind(" ") + 1] if text.isascii() else text


def offer(o: Offering, language: Language) -> dict[str, Any]:
    """An offering as people choose it."""
    words = WORDS[language]
    price = price_of(o)
    per = words["per_month"] if o.cycle != "once" else ""
    first, text = None, brings(o, language)
    if o.kind == "pay_as_you_go":
        per = words["per_step"]
        text = words["in_steps"].format(
            quantity=format_tokens(o.buckets[0].quantity * 1000, o.buckets[0].unit, language)
        )
    if o.kind == "add_on":
        text = words["delivered_later"]
    if o.first_price is not None:
        first = words["first_month"].format(
            first=_bare(parse_money(o.first_price).amount_nano, language), price=_bare(price, language)
        )
    return {
        "id": o.id, "name": name_of(o, language), "brings": text, "price": yuan(price) if price else words["free"],
        "per": per if price else "", "first": first,
    }  # fmt: skip


def _bare(amount_nano: int, language: Language) -> str:
    """An amount without its sign: 7.9 in a Chinese sentence, 7.90 in an English one."""
    text = format_money(fen(amount_nano))
    return text.rstrip("0").rstrip(".") if language == "zh" else text


# Pages.


@router.get("/order")
def order(
    request: Request, rooms: Asked, offering: Annotated[str | None, Query(max_length=64)] = None
) -> Response:
    return _choose(request, rooms, visitor_of(request, rooms), offering)


def _choose(
    request: Request,
    rooms: Rooms,
    visitor: Visitor | None,
    offering: str | None,
    error: TokenworksError | None = None,
) -> Response:
    language = language_of(request, visitor)
    offered = on_sale(rooms, visitor)
    chosen = next((sold for sold in offered if sold.offering.id == offering), None)
    if chosen is None and visitor is not None and offering is not None:
        # What is for others alone is shown with why it can't be had.
        chosen = next(
            (
                sold
                for sold in rooms.offerings.all()
                if sold.offering.id == offering and rooms.offerings.can_be_ordered(sold.offering)
            ),
            None,
        )
    if chosen is not None:
        return _confirm(request, rooms, visitor, chosen, error=error)
    products = [] if visitor is None else rooms.orders.products(visitor.subscriber)
    had = {p.offering_id for p in products if p.state in LIVE and p.parent_id is None}
    return render(
        request, rooms, "order.html", "order", "choose", visitor=visitor, error=error,
        cards=cards([sold.offering for sold in offered], had, language),
    )  # fmt: skip


def _confirm(
    request: Request,
    rooms: Rooms,
    visitor: Visitor | None,
    chosen: SoldOffering,
    *,
    error: TokenworksError | None,
) -> Response:
    """What is ordered, what is charged today, until when it runs and when it renews: before the order."""
    language, o = language_of(request, visitor), chosen.offering
    words = WORDS[language]
    card = offer(o, language)
    if o.parts:
        names = {s.offering.id: name_of(s.offering, language) for s in rooms.offerings.all()}
        card["brings"] = words["bundle_of"].format(parts=words["list_comma"].join(names[p] for p in o.parts))
    facts, today, refused, twice = [], 0, None, False
    if visitor is None:
        facts.append((words["renewal"], _renewal(o, yuan(price_of(o)) + words["per_month"], words)))
    else:
        subscriber = visitor.subscriber
        delivery = o.deliveries[0] if o.deliveries else None
        try:
            found = rooms.quotes.place(subscriber, o.id, delivery=delivery, confirm=None)
        except TokenworksError as why:
            refused = why
        else:
            today, twice = found.now_nano, found.second
            if o.first_price is not None and today > parse_money(o.first_price).amount_nano:
                card["first"] = None  # a contract has another price
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
    today_day = rooms.clock.now().astimezone(BILLING_ZONE).date()
    do = words["order_for"].format(price=yuan(today)) if today else words["order_free"]
    return render(
        request, rooms, "confirm.html", "order", "confirm", visitor=visitor, error=error,
        o=card, facts=facts, do=do, why=None if refused is None else refusal(refused, language), twice=twice, version=chosen.offering_version,
        deliveries=[(name, words[name]) for name in o.deliveries] if len(o.deliveries) > 1 else [],
        idempotency_key=uuid7().hex, terms=words[_TERMS[o.kind]],
        asks_broadband=isinstance(refused, BroadbandMissing), steps=[] if refused is None else _next_steps(rooms, refused, language),
        first_day=today_day, last_start=today_day + timedelta(days=START_DAYS_MAX),
    )  # fmt: skip


# Where what an order lacks is given, or seen: the first kind that a refusal is.
_STEPS: Final[tuple[tuple[type[TokenworksError], str, str], ...]] = (
    (ConsentNeeded, "/privacy", "to_privacy"),
    (RealNameNeeded, "/privacy", "to_privacy"),
    (CreditLimitReached, "/bill", "to_bill"),
    (SubscriberNotActive, "/products", "to_products"),
    (DeliveredAlready, "/products", "to_products"),
    (StepsThere, "/products", "to_products"),
)


def _next_steps(rooms: Rooms, refused: TokenworksError, language: Language) -> list[tuple[str, str]]:
    """(page, what to do there) for what is refused. Other plans are linked below in any case."""
    words = WORDS[language]
    if isinstance(refused, NeedsFirst):
        known = {sold.offering.id: sold.offering for sold in rooms.offerings.all()}
        return [
            (f"/order?offering={id_}", words["order_first"].format(name=name_of(known[id_], language)))
            for id_ in refused.requires
            if id_ in known and rooms.offerings.can_be_ordered(known[id_])
        ]
    return [(page, words[word]) for kind, page, word in _STEPS if isinstance(refused, kind)][:1]


def _today(found: Quote, words: dict[str, str]) -> str:
    """What is charged at once; what another system delivers is charged when it has."""
    if found.waits_for is None:
        return yuan(found.now_nano)
    later = yuan(found.later_nano)
    if found.now_nano > 0:
        return words["rest_later"].format(price=yuan(found.now_nano), rest=later)
    return words["after_delivery"].format(price=later)


def _renewal(o: Offering, price: str, words: dict[str, str]) -> str:
    if o.kind == "pay_as_you_go":
        return words["billed_by_step"]
    if o.cycle == "once":
        return words["no_renewal"]
    return words["renews_calendar" if o.cycle == "calendar_month" else "renews_anniversary"].format(
        price=price
    )


@router.post("/order")
def place(
    request: Request,
    rooms: Asked,
    offering: Text,
    key: Text,
    version: Text = "",
    delivery: Text = "",
    second: Text = "",
    start: Text = "",
) -> Response:
    visitor = visitor_of(request, rooms)
    if visitor is None:
        return ask_to_sign_in(request, rooms, f"/order?offering={offering}")
    try:
        day = _day(start)
        with rooms.connection.transaction():
            if version and rooms.offerings.on_sale(offering).offering_version != version:
                raise OfferingChanged("the offering has changed: look at it again")
            made = rooms.orders.place(
                visitor.subscriber,
                offering,
                key,
                delivery=delivery or None,
                confirm=second == "yes",
                start=day,
            )
            text = None
            if made.new:
                audit(rooms, visitor.who, "order.add", made.order_id, None, {"offering": made.offering_id})
                text = _first_key(request, rooms, visitor)
    except TokenworksError as error:
        return _choose(request, rooms, visitor, offering, error)
    begins = ""
    if made.starts_at is not None:
        words = WORDS[language_of(request, visitor)]
        begins = words["begins_later"].format(day=day_of(made.starts_at))
    return show_key(request, rooms, visitor, text, "ordered", waits=made.state != "completed", begins=begins)


def _day(text: str) -> date | None:
    """Raises `Invalid`."""
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise Invalid("a start is a day such as 2027-05-01") from None


@router.post("/order/broadband")
def set_broadband(request: Request, rooms: Asked, offering: Text, number: Text) -> Response:
    """The number of the broadband account, where none is known, and on to the order that needs it."""
    visitor = visitor_of(request, rooms)
    to = page_at(f"/order?offering={offering}")
    if visitor is None:
        return ask_to_sign_in(request, rooms, to)
    found = visitor.subscriber
    if found.broadband is None:
        try:
            with rooms.connection.transaction():
                rooms.subscriptions.set_profile(found, broadband=number.strip())
                audit(
                    rooms, visitor.who, "subscriber.set", found.subscriber_id, {"broadband": None}, {"broadband": number.strip()}
                )  # fmt: skip
        except TokenworksError as error:
            return _choose(request, rooms, visitor, offering, error)
    return RedirectResponse(to, 303)


def _first_key(request: Request, rooms: Rooms, visitor: Visitor) -> str | None:
    """A key to begin with; none for who has all the keys that one may have: the order does not depend on it."""
    name = WORDS[language_of(request, visitor)]["from_order_page"]
    try:
        return issue_key(rooms, visitor.who, visitor.subscriber, name)[1]
    except Invalid:
        return None


def show_key(
    request: Request,
    rooms: Rooms,
    visitor: Visitor,
    key: str | None,
    title: str,
    *,
    waits: bool = False,
    begins: str = "",
) -> Response:
    """A key that is shown this once, and where to enter it."""
    base, shown = reached_at(), key or "twk_…"
    set_ups = [
        (
            "OpenAI SDK · Cline · Cherry Studio · LobeChat",
            f"OPENAI_BASE_URL={base}/v1\nOPENAI_API_KEY={shown}",
        ),
        ("Anthropic SDK · Claude Code", f"ANTHROPIC_BASE_URL={base}\nANTHROPIC_AUTH_TOKEN={shown}"),
        ("curl", f"curl {base}/v1/models -H 'Authorization: Bearer {shown}'"),
    ]
    page = "order" if title == "ordered" else "keys"
    return render(
        request,
        rooms,
        "ordered.html",
        page,
        title,
        visitor=visitor,
        key=key,
        set_ups=set_ups,
        waits=waits,
        begins=begins,
    )
