"""Three pages that a person needs: order, usage, bill. Plain forms and links, no script; Chinese and English; phone first."""

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import AfterValidator

from tokenworks.catalog import TOKEN_CLASSES, Offering
from tokenworks.charging import Bucket, Charge
from tokenworks.console.account import (
    check_control,
    request_code,
    send_later,
    set_challenge,
    set_cookie,
    sign_in,
)
from tokenworks.console.tmf_bills import BILL
from tokenworks.console.web import (
    COOKIE,
    Asked,
    Rooms,
    audit,
    client_address,
    is_secure,
    own,
    principal_of,
    reached_at,
)
from tokenworks.console.words import REFUSALS_ZH, WORDS, Language
from tokenworks.kernel import (
    NotFound,
    TokenworksError,
    flaw,
    format_money,
    format_tokens,
    parse_money,
    shown,
    uuid7,
)
from tokenworks.subscriptions import BILLING_ZONE, Subscriber
from tokenworks.trust import NotAllowed, NotSignedIn, Principal

router = APIRouter(include_in_schema=False)
LANGUAGE_COOKIE: Final = "tokenworks_language"
DAYS_SHOWN: Final = 30
RECORDS_SHOWN: Final = 20
BILLS_SHOWN: Final = 12
FORECAST_DAYS: Final = 7
_BACK: Final = frozenset({"order", "usage", "bill", "privacy"})
_RING: Final = 2 * math.pi * 50
# Nothing but our own style sheet and pictures; no script, no frame, forms to ourselves alone.
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def _harmless(value: object) -> object:
    """What a page says: beside the escaping of HTML, nothing that turns the direction of the text around it."""
    return shown(value, lines=True) if isinstance(value, str) and not isinstance(value, Markup) else value


_templates = Environment(
    loader=PackageLoader("tokenworks.console"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    finalize=_harmless,
)  # fmt: skip
_STATIC: Final = {"tokenworks.css": "text/css", "icon.svg": "image/svg+xml"}
_static = {name: files("tokenworks.console").joinpath(f"static/{name}").read_bytes() for name in _STATIC}


@router.get("/static/{name}")
def static(name: str) -> Response:
    if name not in _STATIC:
        raise NotFound("there is no such file")
    headers = {"Cache-Control": "max-age=300", "X-Content-Type-Options": "nosniff"}
    return Response(_static[name], media_type=_STATIC[name], headers=headers)


def language_of(request: Request, subscriber: Subscriber | None = None) -> Language:
    """What was chosen, else the subscriber's own, else the browser's."""
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    if chosen not in {"zh", "en"}:
        chosen = subscriber.language if subscriber else request.headers.get("accept-language", "zh")[:2]
    return "en" if chosen == "en" else "zh"


def _page(
    request: Request,
    rooms: Rooms,
    template: str,
    page: str,
    title: str,
    *,
    subscriber: Subscriber | None = None,
    error: TokenworksError | None = None,
    status: int = 200,
    **more: Any,
) -> HTMLResponse:
    language = language_of(request, subscriber)
    words = WORDS[language]
    said = None
    if error is not None:
        said = REFUSALS_ZH.get(type(error).__name__, str(error)) if language == "zh" else str(error)
        status = 422 if status == 200 else status
    html = _templates.get_template(template).render(
        language=language, t=words, page=page, title=words.get(title, title), operator=rooms.operator,
        signed_in=subscriber is not None, error=said, **more,
    )  # fmt: skip
    return HTMLResponse(html, status, headers=HEADERS)


def _whoever(request: Request, rooms: Rooms) -> tuple[Principal, Subscriber] | None:
    """Who is signed in here and may order and see bills; None where nobody is."""
    try:
        who = principal_of(request, rooms)
    except NotSignedIn:
        return None
    if who.is_staff or who.role == "member":
        raise NotAllowed("this page is the owner's")
    return who, own(rooms, who)


def _ask(
    request: Request,
    rooms: Rooms,
    page: str,
    identifier: str | None = None,
    error: TokenworksError | None = None,
) -> HTMLResponse:
    return _page(
        request, rooms, "sign_in.html", page, "sign_in", error=error, identifier=identifier, back=page
    )


def _line(text: str) -> str:
    found = flaw(text)
    if found is not None:
        raise ValueError(f"it has {found}: leave it out")
    return text


Text = Annotated[str, Form(max_length=200), AfterValidator(_line)]


@router.post("/sign-in/code")
def send_code(request: Request, rooms: Asked, identifier: Text, back: Text = "order") -> Response:
    page = back if back in _BACK else "order"
    send = request.app.state.send_code
    try:
        challenge, later = request_code(rooms, send, identifier, client_address(request))
    except TokenworksError as error:
        return _ask(request, rooms, page, None, error)
    response = _ask(request, rooms, page, identifier)
    set_challenge(response, challenge, secure=is_secure(request))
    response.background = send_later(request, challenge, later)
    return response


@router.post("/sign-in")
def enter(request: Request, rooms: Asked, identifier: Text, code: Text, back: Text = "order") -> Response:
    page = back if back in _BACK else "order"
    try:
        text, ends, _, _ = sign_in(rooms, request, identifier, code.strip(), language_of(request))
    except NotAllowed:
        raise
    except TokenworksError as error:
        return _ask(request, rooms, page, identifier, error)
    response = RedirectResponse(f"/{page}", 303)
    set_cookie(response, text, ends, secure=is_secure(request))
    return response


@router.post("/sign-out")
def leave(request: Request, rooms: Asked) -> Response:
    try:
        who = principal_of(request, rooms)
        if who.session_id is not None:
            rooms.identity.end_session(who.session_id)
    except NotSignedIn:
        pass
    response = RedirectResponse("/order", 303)
    response.delete_cookie(COOKIE, path="/")
    return response


@router.post("/language")
def language(to: Annotated[Literal["zh", "en"], Form()], back: Text = "/order") -> Response:
    page = back.removeprefix("/")
    response = RedirectResponse(f"/{page if page in _BACK else 'order'}", 303)
    response.set_cookie(LANGUAGE_COOKIE, to, max_age=365 * 86_400, samesite="lax", path="/")
    return response


# Order.


def _yuan(amount_nano: int) -> str:
    return f"{'−' if amount_nano < 0 else ''}¥{format_money(abs(amount_nano))}"


def _card(offering: Offering, language: Language) -> dict[str, Any]:
    """An offering as people choose it."""
    words = WORDS[language]
    brings = []
    for bucket in offering.buckets:
        text = format_tokens(bucket.quantity * 1000, bucket.unit, language)
        if bucket.window_s is not None:
            text += f" · {words['windows'].format(hours=bucket.window_s // 3600)}"
        brings.append(text)
    per = {"once": ""}.get(offering.cycle, words["per_month_zh"])
    if offering.kind == "pay_as_you_go":
        per = f"/{words['a_step']}"
    return {
        "id": offering.id,
        "name": offering.name_zh if language == "zh" else offering.name,
        "brings": " + ".join(brings) or (", ".join(offering.parts) if offering.parts else offering.name),
        "price": _yuan(parse_money(offering.price).amount_nano),
        "first": None
        if offering.first_price is None
        else _yuan(parse_money(offering.first_price).amount_nano),
        "per": per,
    }


def _for(rooms: Rooms, subscriber: Subscriber) -> list[Offering]:
    """What this subscriber can order, cheapest plans first."""
    rank = {"plan": 0, "pay_as_you_go": 1, "bundle": 2, "trial": 3, "add_on": 4}
    found = [
        sold.offering
        for sold in rooms.offerings.all()
        if sold.offering.status == "active"
        and (subscriber.audiences is None or set(subscriber.audiences) & set(sold.offering.audiences))
        and {"person", "family", "developer", "small_business"} & set(sold.offering.audiences)
    ]
    return sorted(found, key=lambda o: (rank[o.kind], parse_money(o.price).amount_nano))


@router.get("/order")
def order(
    request: Request, rooms: Asked, offering: Annotated[str | None, Query(max_length=64)] = None
) -> Response:
    found = _whoever(request, rooms)
    if found is None:
        return _ask(request, rooms, "order")
    return _choose(request, rooms, found[1], offering)


def _choose(
    request: Request,
    rooms: Rooms,
    subscriber: Subscriber,
    offering: str | None,
    error: TokenworksError | None = None,
) -> Response:
    words = WORDS[language_of(request, subscriber)]
    offered = _for(rooms, subscriber)
    chosen = next((o for o in offered if o.id == offering), None)
    if chosen is None:
        cards = [_card(o, language_of(request, subscriber)) for o in offered]
        return _page(
            request,
            rooms,
            "order.html",
            "order",
            "choose",
            subscriber=subscriber,
            error=error,
            offerings=cards,
        )
    card = _card(chosen, language_of(request, subscriber))
    return _page(
        request, rooms, "confirm.html", "order", "confirm", subscriber=subscriber, error=error, o=card,
        idempotency_key=uuid7().hex, order_for=words["order_for"].format(price=card["first"] or card["price"]),
    )  # fmt: skip


@router.post("/order")
def place(request: Request, rooms: Asked, offering: Text, key: Text) -> Response:
    found = _whoever(request, rooms)
    if found is None:
        return _ask(request, rooms, "order")
    who, subscriber = found
    try:
        with rooms.connection.transaction():
            made = rooms.orders.place(subscriber, offering, key)
            text = _first_key(rooms, who, subscriber) if made.new else None
    except TokenworksError as error:
        return _choose(request, rooms, subscriber, offering, error)
    return _ordered(request, rooms, subscriber, text)


@router.post("/key")
def another_key(request: Request, rooms: Asked) -> Response:
    found = _whoever(request, rooms)
    if found is None:
        return _ask(request, rooms, "order")
    who, subscriber = found
    return _ordered(request, rooms, subscriber, _first_key(rooms, who, subscriber))


def _first_key(rooms: Rooms, who: Principal, subscriber: Subscriber) -> str:
    assert who.member_id is not None
    _, text = rooms.keys.issue(account_id=subscriber.account_id, member_id=who.member_id, name="order page")
    return text


def _ordered(request: Request, rooms: Rooms, subscriber: Subscriber, key: str | None) -> Response:
    base, shown = reached_at(), key or "twk_…"
    set_ups = [
        (
            "OpenAI SDK · Cline · Cherry Studio · LobeChat",
            f"OPENAI_BASE_URL={base}/v1\nOPENAI_API_KEY={shown}",
        ),
        ("Anthropic SDK · Claude Code", f"ANTHROPIC_BASE_URL={base}\nANTHROPIC_AUTH_TOKEN={shown}"),
        ("curl", f"curl {base}/v1/models -H 'Authorization: Bearer {shown}'"),
    ]
    return _page(
        request, rooms, "ordered.html", "order", "ordered", subscriber=subscriber, key=key, set_ups=set_ups
    )


# Usage.


@router.get("/usage")
def usage(request: Request, rooms: Asked) -> Response:
    found = _whoever(request, rooms)
    if found is None:
        return _ask(request, rooms, "usage")
    subscriber = found[1]
    language, now = language_of(request, subscriber), rooms.clock.now()
    days = rooms.ledger.usage_by_day(subscriber.account_id, now - timedelta(days=DAYS_SHOWN), BILLING_ZONE)
    buckets = [
        b for b in rooms.ledger.buckets(subscriber.account_id)
        if b.kind in {"balance", "window"} and b.closing is None and (b.valid_until is None or b.valid_until > now)
    ]  # fmt: skip
    names = _names(rooms, subscriber, language)
    return _page(
        request, rooms, "usage.html", "usage", "usage", subscriber=subscriber,
        rings=[_ring(b, names, days, now, language) for b in buckets if b.kind == "window" or b.total], bars=_bars(days, now),
        records=[_record(r, language) for r in rooms.ledger.usage(subscriber.account_id, limit=RECORDS_SHOWN)],
    )  # fmt: skip


def _names(rooms: Rooms, subscriber: Subscriber, language: Language) -> dict[Any, str]:
    return {
        product.product_id: (sold.name_zh if language == "zh" else sold.name)
        for product in rooms.orders.products(subscriber)
        for sold in [rooms.offerings.sold(product.offering_version).offering]
    }


def _ring(
    bucket: Bucket, names: dict[Any, str], days: dict[str, int], now: datetime, language: Language
) -> dict[str, Any]:
    words = WORDS[language]
    total = bucket.window_quantity or bucket.total
    part = min(1.0, bucket.left / total) if total else 0.0
    forecast = ""
    if bucket.kind == "balance" and bucket.unit == "token":
        recent = [
            days.get(f"{(now - timedelta(days=n)).astimezone(BILLING_ZONE):%Y-%m-%d}", 0)
            for n in range(FORECAST_DAYS)
        ]
        a_day = sum(recent) // FORECAST_DAYS
        if not a_day:
            forecast = words["forecast_none"]
        else:
            ends = now + timedelta(days=min(36_500, bucket.left // 1000 // a_day))
            if bucket.valid_until is not None and ends >= bucket.valid_until:
                forecast = words["forecast_lasts"]
            else:
                forecast = words["forecast_ends"].format(day=f"{ends.astimezone(BILLING_ZONE):%Y-%m-%d}")
    name = names.get(bucket.product_id, bucket.unit)
    if bucket.window_s is not None:
        name += f" · {words['windows'].format(hours=bucket.window_s // 3600)}"
    return {
        "name": name,
        "percent": int(part * 100),
        "dash": f"{part * _RING:.1f}",
        "left": format_tokens(bucket.left, bucket.unit, language),
        "total": format_tokens(total, bucket.unit, language),
        "until": f"{bucket.valid_until.astimezone(BILLING_ZONE):%Y-%m-%d}" if bucket.valid_until else "",
        "forecast": forecast,
    }


def _bars(days: dict[str, int], now: datetime) -> list[dict[str, Any]]:
    most = max(days.values(), default=0) or 1
    bars = []
    for n in range(DAYS_SHOWN - 1, -1, -1):
        day = (now - timedelta(days=n)).astimezone(BILLING_ZONE)
        tokens = days.get(f"{day:%Y-%m-%d}", 0)
        bars.append({"day": f"{day:%Y-%m-%d}", "short": f"{day:%m-%d}", "tokens": f"{tokens:,}", "height": max(1 if tokens else 0, 85 * tokens // most)})  # fmt: skip
    return bars


def _record(record: dict[str, Any], language: Language) -> dict[str, Any]:
    parts = [part for part in record["parts"] if part[4] == "balance"]
    tokens = sum(record[name] for name in TOKEN_CLASSES)
    return {
        "at": f"{record['ended_at'].astimezone(BILLING_ZONE):%m-%d %H:%M}",
        "model": record["model"],
        "tokens": f"{tokens:,}",
        "charged": " + ".join(format_tokens(part[5], part[3], language) for part in parts) or "0",
        "interrupted": record["state"] != "complete",
    }


# Bill.


@router.get("/bill")
def bill(request: Request, rooms: Asked) -> Response:
    found = _whoever(request, rooms)
    if found is None:
        return _ask(request, rooms, "bill")
    return _bill(request, rooms, found[1])


def _bill(
    request: Request, rooms: Rooms, subscriber: Subscriber, error: TokenworksError | None = None
) -> Response:
    language = language_of(request, subscriber)
    words = WORDS[language]
    so_far = rooms.charges.of_subscriber(subscriber.subscriber_id, unbilled=True)
    bills, _ = rooms.bills.all(subscriber, 0, BILLS_SHOWN)

    def name(line: Any) -> str:
        return str(line.description_zh if language == "zh" else line.description)

    def day(at: datetime) -> str:
        return f"{at.astimezone(BILLING_ZONE):%Y-%m-%d}"

    return _page(
        request, rooms, "bill.html", "bill", "bill", subscriber=subscriber, error=error,
        spent_of=words["spent_of"].format(spent=_yuan(rooms.payg.spent(subscriber)), cap=_yuan(subscriber.cap_nano)),
        cap=format_money(subscriber.cap_nano).replace(",", ""), locked=subscriber.spend_locked, spill_over=subscriber.spill_over,
        so_far=_together(so_far, name, day), so_far_total=_yuan(sum(c.amount_nano for c in so_far)),
        bills=[
            {
                "number": b.bill_no, "period": f"{day(b.period_start)} – {day(b.period_end)}", "amount": _yuan(b.amount_nano),
                "left": _yuan(b.remaining_nano) if b.remaining_nano else "", "due": day(b.due_at),
                "pdf": f"{BILL}/customerBill/{quote(str(b.bill_id))}/document?language={language}",
                "lines": [{"what": name(n), "amount": _yuan(n.amount_nano)} for n in rooms.bills.lines(b)],
            }
            for b in bills
        ],
    )  # fmt: skip


def _together(
    charges: list[Charge], name: Callable[[Any], str], day: Callable[[datetime], str]
) -> list[dict[str, str]]:
    """Steps of a product are one line."""
    rows: dict[tuple[Any, ...], list[Charge]] = {}
    for charge in charges:
        key = (charge.product_id, "step") if charge.kind == "step" else (charge.charge_id,)
        rows.setdefault(key, []).append(charge)
    return [
        {
            "what": name(group[0]) + (f" × {len(group)}" if len(group) > 1 else ""),
            "at": day(group[0].charged_at),
            "amount": _yuan(sum(charge.amount_nano for charge in group)),
        }
        for group in rows.values()
    ]


@router.post("/bill/spending")
def spending(
    request: Request,
    rooms: Asked,
    what: Annotated[Literal["lock", "unlock", "cap", "spill_on", "spill_off"], Form()],
    cap: Text = "",
) -> Response:
    found = _whoever(request, rooms)
    if found is None:
        return _ask(request, rooms, "bill")
    who, subscriber = found
    try:
        wanted: dict[str, Any]
        if what == "cap":
            wanted = {"cap_nano": parse_money(cap).amount_nano}
        elif what in {"lock", "unlock"}:
            wanted = {"locked": what == "lock"}
        else:
            wanted = {"spill_over": what == "spill_on"}
        check_control(who, subscriber, **wanted)
        with rooms.connection.transaction():
            rooms.payg.control(subscriber, **wanted)
            audit(rooms, who, "subscriber.set", subscriber.subscriber_id, None, wanted)
    except TokenworksError as error:
        return _bill(request, rooms, subscriber, error)
    return RedirectResponse("/bill", 303)
