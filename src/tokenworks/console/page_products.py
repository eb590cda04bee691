"""What a subscriber has: plans with their dates, and how each is changed, paused, resumed or cancelled."""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse

from tokenworks.console.page import (
    Text,
    Visitor,
    ask_to_sign_in,
    language_of,
    name_of,
    price_of,
    render,
    visitor_of,
    yuan,
)
from tokenworks.console.page_shop import LIVE, offer, on_sale
from tokenworks.console.web import Asked, Rooms, as_uuid, audit
from tokenworks.console.words import WORDS, refusal
from tokenworks.kernel import NotFound, TokenworksError, uuid7
from tokenworks.subscriptions import Order, Product, When, day_of, last_day

router = APIRouter(include_in_schema=False)
What = Literal["change", "cancel", "pause", "resume"]
Done = Annotated[
    Literal[
        "change", "change_later", "cancel", "cancel_later", "pause", "resume", "keep", "pause_all", "resume_all", "withdraw"
    ]
    | None,
    Query(),
]  # fmt: skip
# What others deliver is not paused: neither an add-on, nor a bundle that may have one.
PAUSED: Final = frozenset({"plan", "pay_as_you_go", "trial"})
EARLIER_SHOWN: Final = 20
ORDERS_LOOKED_AT: Final = 1000


@router.get("/products")
def products(request: Request, rooms: Asked, done: Done = None) -> Response:
    visitor = visitor_of(request, rooms)
    if visitor is None:
        return ask_to_sign_in(request, rooms, "/products")
    return _list(request, rooms, visitor, done)


def _list(
    request: Request,
    rooms: Rooms,
    visitor: Visitor,
    done: str | None = None,
    error: TokenworksError | None = None,
) -> Response:
    words = WORDS[language_of(request, visitor)]
    found = rooms.orders.products(visitor.subscriber)
    return render(
        request, rooms, "products.html", "products", "my_products", visitor=visitor, error=error,
        done=words[f"done_{done}"] if done else None,
        products=[
            _card(request, rooms, visitor, p, found) for p in found if p.state in LIVE and p.parent_id is None
        ],
        earlier=[
            {"name": _name(request, rooms, visitor, p), "state": words[p.state], "started": words["started"].format(day=day_of(p.started_at))}
            for p in reversed(found) if p.state not in LIVE and p.parent_id is None
        ][:EARLIER_SHOWN],
        notices=_notices(visitor, words),
        to_come=[_to_come(request, rooms, visitor, order) for order in rooms.orders.to_come(visitor.subscriber)],
        all_do=_all_do(visitor),
    )  # fmt: skip


def _notices(visitor: Visitor, words: dict[str, str]) -> list[str]:
    """What keeps the subscriber from being served, or from ordering: each cause says what lifts it."""
    found = visitor.subscriber
    if not found.suspended_by and found.restricted:
        return [words["notice_restricted"]]
    return [words[f"suspended_{cause}"] for cause in found.suspended_by]


def _all_do(visitor: Visitor) -> str | None:
    """Whether the owner may pause all, or go on."""
    if visitor.who.role != "owner":
        return None
    return "resume" if "own_wish" in visitor.subscriber.suspended_by else "suspend"


def _to_come(request: Request, rooms: Rooms, visitor: Visitor, order: Order) -> dict[str, str]:
    """An order that waits for its start: when that is, and what it will cost from then on."""
    language = language_of(request, visitor)
    o = rooms.offerings.sold(order.offering_version).offering
    assert order.starts_at is not None
    shown = offer(o, language)
    price = yuan(rooms.quotes.price(visitor.subscriber, o, order.starts_at)) + shown["per"]
    begins = WORDS[language]["begins_on"].format(day=day_of(order.starts_at), price=price)
    return {"id": str(order.order_id), "name": name_of(o, language), "begins": begins}


def _name(request: Request, rooms: Rooms, visitor: Visitor, product: Product) -> str:
    sold = rooms.offerings.sold(product.offering_version)
    return name_of(sold.offering, language_of(request, visitor))


def _card(
    request: Request, rooms: Rooms, visitor: Visitor, product: Product, all_of_them: list[Product]
) -> dict[str, Any]:
    """A product: what it brings, its period, what happens at its end, and what can be done."""
    language = language_of(request, visitor)
    words, o = WORDS[language], rooms.offerings.sold(product.offering_version).offering
    shown = offer(o, language)
    parts = [_name(request, rooms, visitor, p) for p in all_of_them if p.parent_id == product.product_id]
    lines = []
    if parts:
        lines.append(words["bundle_of"].format(parts=words["list_comma"].join(parts)))
    elif o.kind not in {"add_on", "pay_as_you_go"}:
        lines.append(shown["brings"])
    if o.kind == "pay_as_you_go":
        lines.append(words["payg_product"].format(price=shown["price"]))
    waits = product.state == "pendingActive"
    if product.cycle_end is not None and not waits:
        period = words["period"].format(begin=day_of(product.cycle_start), end=last_day(product.cycle_end))
        lines.append(f"{words['this_period']}{'：' if language == 'zh' else ': '}{period}")
    end = _at_the_end(rooms, visitor, product, words, language)
    return {
        "id": str(product.product_id), "name": name_of(o, language), "state": words[product.state], "is_active": product.state == "active",
        "price": shown["price"], "per": shown["per"], "lines": lines, "end": end,
        "can_keep": product.ends_after_cycle or product.next_version is not None,
        "can_change": o.kind == "plan" and product.state == "active",
        "can_pause": product.state == "active" and o.kind in PAUSED, "can_resume": product.state == "suspended",
    }  # fmt: skip


def _at_the_end(
    rooms: Rooms, visitor: Visitor, product: Product, words: dict[str, str], language: Any
) -> str:
    if product.state == "pendingActive":
        return words["delivered_soon"]
    if product.state == "suspended":
        return words["held_now"] if product.held else words["paused_now"]
    if product.cycle_end is None:
        return words["no_end"]
    if product.ends_after_cycle or not product.renews:
        return words["ends_on"].format(day=last_day(product.cycle_end))
    version = product.next_version or product.offering_version
    o = rooms.offerings.sold(version).offering
    price = yuan(rooms.quotes.price(visitor.subscriber, o, product.cycle_end)) + words["per_month"]
    if product.next_version is not None:
        return words["changes_on"].format(
            day=day_of(product.cycle_end), name=name_of(o, language), price=price
        )
    return words["renews_on"].format(day=day_of(product.cycle_end), price=price)


def _own(rooms: Rooms, visitor: Visitor, id_: str) -> Product:
    """Raises `NotFound`; a part of a bundle goes with its bundle."""
    product_id = as_uuid(id_, "product")
    for product in rooms.orders.products(visitor.subscriber):
        if product.product_id == product_id and product.parent_id is None:
            return product
    raise NotFound("there is no such product")


# What is done with one.

ProductId = Annotated[str, Path(max_length=64)]
Offered = Annotated[str | None, Query(max_length=64)]


@router.get("/products/{id}/{what}")
def look(request: Request, rooms: Asked, id: ProductId, what: What, offering: Offered = None) -> Response:
    visitor = visitor_of(request, rooms)
    if visitor is None:
        return ask_to_sign_in(request, rooms, "/products")
    return _show(request, rooms, visitor, _own(rooms, visitor, id), what, offering)


def _show(
    request: Request,
    rooms: Rooms,
    visitor: Visitor,
    product: Product,
    what: What,
    offering: str | None = None,
    error: TokenworksError | None = None,
) -> Response:
    shows: dict[What, Callable[..., dict[str, Any]]] = {
        "change": _change, "cancel": _cancel, "pause": _pause, "resume": _resume,
    }  # fmt: skip
    more = shows[what](request, rooms, visitor, product, offering)
    template = "change.html" if what == "change" and not more["choices"] else "choices.html"
    return render(
        request, rooms, template, "products", f"{what}_title", visitor=visitor, error=error,
        id=str(product.product_id), what=what, name=_name(request, rooms, visitor, product), offering=offering or "",
        idempotency_key=uuid7().hex, **more,
    )  # fmt: skip


def _choice(
    when: str, title: str, lines: list[str], do: str, why: str | None = None, *, twice: bool = False
) -> dict[str, Any]:
    """One way to do it: what would happen, and its button; or why it can't be. `twice`: it is had beside this already."""
    return {"when": when, "title": title, "lines": lines, "do": do, "why": why, "twice": twice}


def _change(
    request: Request, rooms: Rooms, visitor: Visitor, product: Product, offering: str | None
) -> dict[str, Any]:
    language = language_of(request, visitor)
    words = WORDS[language]
    current = rooms.offerings.sold(product.offering_version).offering
    others = [
        sold.offering for sold in on_sale(rooms, visitor)
        if sold.offering.kind == "plan" and sold.offering.cycle == current.cycle and sold.offering_version != product.offering_version
    ]  # fmt: skip
    # Tiers of the same seller first.
    others.sort(key=lambda o: (o.carrier != current.carrier, price_of(o)))
    chosen = next((o for o in others if o.id == offering), None)
    if chosen is None:
        return {"choices": [], "plans": [offer(o, language) for o in others], "lead": words["change_lead"]}
    choices = [_change_at(rooms, visitor, product, chosen.id, "now", words, language)]
    if product.cycle_end is not None:
        choices.append(_change_at(rooms, visitor, product, chosen.id, "cycle_end", words, language))
    return {"choices": choices, "to": offer(chosen, language)}


def _change_at(
    rooms: Rooms,
    visitor: Visitor,
    product: Product,
    offering: str,
    when: When,
    words: dict[str, str],
    language: Any,
) -> dict[str, Any]:
    title, do = (
        (words["now_title"], words["change_now"])
        if when == "now"
        else (words["later_title"], words["change_later"])
    )
    try:
        found = rooms.quotes.change(product.product_id, offering, when, confirm=None)
    except TokenworksError as error:
        return _choice(when, title, [], do, refusal(error, language))
    end, renewal = found.renews_at, found.renewal_nano
    assert end is not None and renewal is not None
    price = yuan(renewal) + words["per_month"]
    if found.begins_at == end:
        # Also where it was to be now, and one of the plans is free until its next cycle.
        lines = [words["change_from"].format(price=price, day=day_of(end))]
        return _choice(when, title, lines, do, twice=found.second)
    amount = found.now_nano
    said = "change_charge" if amount > 0 else "change_back" if amount < 0 else "change_nothing"
    if amount > 0 and found.waits_for is not None:
        said = "change_whole"
    lines = [words[said].format(amount=yuan(abs(amount)))]
    if found.waits_for is not None:
        lines.append(words["change_waits"].format(amount=yuan(-found.later_nano)))
    lines.append(words["change_until"].format(end=last_day(end), day=day_of(end), price=price))
    return _choice(when, title, lines, do, twice=found.second)


def _cancel(request: Request, rooms: Rooms, visitor: Visitor, product: Product, _: object) -> dict[str, Any]:
    language = language_of(request, visitor)
    words = WORDS[language]
    choices = []
    if (
        product.cycle_end is not None
        and product.renews
        and product.state == "active"
        and not product.ends_after_cycle
    ):
        lines = [words["cancel_later"].format(end=last_day(product.cycle_end))]
        choices.append(_choice("cycle_end", words["cancel_later_title"], lines, words["cancel_later_do"]))
    try:
        found = rooms.quotes.cancel(product.product_id)
    except TokenworksError as error:
        choices.append(
            _choice("now", words["cancel_now_title"], [], words["cancel_now_do"], refusal(error, language))
        )
    else:
        back = -found.amount_nano
        said = "gives_at_most" if found.at_most else "gives_back"
        text = words[said].format(amount=yuan(back)) if back > 0 else words["gives_nothing"]
        choices.append(
            _choice("now", words["cancel_now_title"], [words["cancel_now"], text], words["cancel_now_do"])
        )
    return {"choices": choices}


def _pause(request: Request, rooms: Rooms, visitor: Visitor, product: Product, _: object) -> dict[str, Any]:
    words = WORDS[language_of(request, visitor)]
    if product.cycle_end is None:
        lines = [words["pause_text_open"]]
    else:
        end = last_day(product.cycle_end)
        after = "pause_after" if product.renews and not product.ends_after_cycle else "pause_after_once"
        lines = [words["pause_text"].format(end=end), words[after].format(end=end)]
    return {"choices": [_choice("now", "", lines, words["pause_do"])]}


def _resume(request: Request, rooms: Rooms, visitor: Visitor, product: Product, _: object) -> dict[str, Any]:
    language = language_of(request, visitor)
    words = WORDS[language]
    try:
        found = rooms.quotes.resume(product.product_id)
    except TokenworksError as error:
        return {"choices": [_choice("now", "", [], words["resume_do"], refusal(error, language))]}
    lines = [words["resume_free"]]
    if found.amount_nano > 0:
        lines = [words["resume_paid"].format(amount=yuan(found.amount_nano))]
    if found.ends_at is not None:
        lines.append(words["resume_until"].format(end=last_day(found.ends_at)))
    return {"choices": [_choice("now", "", lines, words["resume_do"])]}


@router.post("/products/to-come/{id}/withdraw")
def withdraw(request: Request, rooms: Asked, id: ProductId) -> Response:
    """Cancel an order that has not begun."""
    visitor = visitor_of(request, rooms)
    if visitor is None:
        return ask_to_sign_in(request, rooms, "/products")
    order_id = as_uuid(id, "order")
    try:
        if order_id not in {order.order_id for order in rooms.orders.to_come(visitor.subscriber)}:
            raise NotFound("there is no such order")
        with rooms.connection.transaction():
            rooms.orders.withdraw(order_id)
            states = ({"state": "acknowledged"}, {"state": "cancelled"})
            audit(rooms, visitor.who, "order.withdraw", order_id, *states)
    except TokenworksError as error:
        return _list(request, rooms, visitor, error=error)
    return RedirectResponse("/products?done=withdraw", 303)


@router.post("/products/{id}/keep")
def keep(request: Request, rooms: Asked, id: ProductId) -> Response:
    """Take back what waits for the end of the period: a change, or the end."""
    visitor = visitor_of(request, rooms)
    if visitor is None:
        return ask_to_sign_in(request, rooms, "/products")
    product = _own(rooms, visitor, id)
    try:
        with rooms.connection.transaction():
            for order_id in _waiting(rooms, visitor, product.product_id):
                rooms.orders.withdraw(order_id)
                audit(
                    rooms,
                    visitor.who,
                    "order.withdraw",
                    order_id,
                    {"state": "pending"},
                    {"state": "cancelled"},
                )
    except TokenworksError as error:
        return _list(request, rooms, visitor, error=error)
    return RedirectResponse("/products?done=keep", 303)


def _waiting(rooms: Rooms, visitor: Visitor, product_id: UUID) -> list[UUID]:
    found, _ = rooms.orders.all(visitor.subscriber, 0, ORDERS_LOOKED_AT)
    return [o.order_id for o in found if o.product_id == product_id and o.state == "pending"]


@router.post("/products/{id}/{what}")
def do(
    request: Request,
    rooms: Asked,
    id: ProductId,
    what: What,
    key: Text = "",
    when: Text = "now",
    offering: Text = "",
    second: Text = "",
) -> Response:
    visitor = visitor_of(request, rooms)
    if visitor is None:
        return ask_to_sign_in(request, rooms, "/products")
    product = _own(rooms, visitor, id)
    at: When = "cycle_end" if when == "cycle_end" else "now"
    try:
        with rooms.connection.transaction():
            # A form that comes twice is one act: the order is there already, or the product is not as the form takes it for.
            is_new = True
            if what == "change":
                is_new = rooms.orders.change(
                    product.product_id, offering, at, key or None, confirm=second == "yes"
                ).new
            elif what == "cancel":
                is_new = rooms.orders.cancel(product.product_id, at, key or None).new
            elif what == "pause":
                rooms.orders.suspend(product.product_id)
            else:
                rooms.orders.resume(product.product_id)
            if is_new:
                said = {"when": at, "offering": offering or None}
                audit(rooms, visitor.who, f"product.{what}", product.product_id, None, said)
    except TokenworksError as error:
        return _show(request, rooms, visitor, product, what, offering or None, error)
    later = "_later" if at == "cycle_end" else ""
    return RedirectResponse(f"/products?done={what}{later}", 303)
