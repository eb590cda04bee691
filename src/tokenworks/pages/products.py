"""The page of a subscriber's products, and of orders that have not begun."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse

from tokenworks.kernel import NotFound, TokenworksError
from tokenworks.pages.offers import offer
from tokenworks.pages.page import Visitor, language_of, render, sign_in_page, visitor_of
from tokenworks.pages.phrases import name_of, yuan
from tokenworks.pages.words import WORDS
from tokenworks.subscriptions import LIVE_STATES, Order, Product, actions_on, day_of, last_day
from tokenworks.texts import Language
from tokenworks.web.principals import as_uuid, audit
from tokenworks.web.services import RequestServices, Services

router = APIRouter(include_in_schema=False)

Done = Annotated[
    Literal[
        "change", "change_later", "cancel", "cancel_later", "pause", "resume", "keep", "pause_all", "resume_all", "withdraw"
    ]
    | None,
    Query(),
]  # fmt: skip
EARLIER_SHOWN: Final = 20
ORDERS_LOOKED_AT: Final = 1000


@router.get("/plans")
@router.get("/products")
def products(request: Request, services: RequestServices, done: Done = None) -> Response:
    visitor = visitor_of(request, services)
    if visitor is None:
        return sign_in_page(request, services, "/products")
    return _list(request, services, visitor, done)


def _list(
    request: Request,
    services: Services,
    visitor: Visitor,
    done: str | None = None,
    error: TokenworksError | None = None,
) -> Response:
    words = WORDS[language_of(request, visitor)]
    found = services.orders.products(visitor.subscriber)
    return render(
        request, services, "products.html", "products", "my_products", visitor=visitor, error=error,
        done=words[f"done_{done}"] if done else None,
        products=[
            _card(request, services, visitor, p, found) for p in found if p.state in LIVE_STATES and p.parent_id is None
        ],
        earlier=[
            {"name": product_name(request, services, visitor, p), "state": words[p.state], "started": words["started"].format(day=day_of(p.started_at))}
            for p in reversed(found) if p.state not in LIVE_STATES and p.parent_id is None
        ][:EARLIER_SHOWN],
        notices=notices(visitor, words),
        to_come=[_to_come(request, services, visitor, order) for order in services.orders.to_come(visitor.subscriber)],
        all_do=_account_action(visitor),
    )  # fmt: skip


def notices(visitor: Visitor, words: Mapping[str, str]) -> list[str]:
    """Reasons for which the account is suspended or can't order. Each text says what lifts it."""
    found = visitor.subscriber
    if not found.suspended_by and found.restricted:
        return [words["notice_restricted"]]
    return [words[f"suspended_{cause}"] for cause in found.suspended_by]


def _account_action(visitor: Visitor) -> str | None:
    """The action on the whole account that the owner can take: `suspend` or `resume`; None for other roles."""
    if visitor.principal.role != "owner":
        return None
    return "resume" if "own_wish" in visitor.subscriber.suspended_by else "suspend"


def _to_come(request: Request, services: Services, visitor: Visitor, order: Order) -> dict[str, str]:
    """An order that has not begun: its first day, and its price from then on."""
    language = language_of(request, visitor)
    o = services.offerings.sold(order.offering_version).offering
    assert order.starts_at is not None
    shown = offer(o, language)
    price = yuan(services.quotes.price(visitor.subscriber, o, order.starts_at)) + shown["per"]
    begins = WORDS[language]["begins_on"].format(day=day_of(order.starts_at), price=price)
    return {"id": str(order.order_id), "name": name_of(o, language), "begins": begins}


def product_name(request: Request, services: Services, visitor: Visitor, product: Product) -> str:
    sold = services.offerings.sold(product.offering_version)
    return name_of(sold.offering, language_of(request, visitor))


def _card(
    request: Request, services: Services, visitor: Visitor, product: Product, products: list[Product]
) -> dict[str, object]:
    """A product: its quantities, its period, what happens at the end of it, and which actions are possible."""
    language = language_of(request, visitor)
    words, o = WORDS[language], services.offerings.sold(product.offering_version).offering
    shown = offer(o, language)
    parts = [
        product_name(request, services, visitor, p) for p in products if p.parent_id == product.product_id
    ]
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
    end, acts = _at_the_end(services, visitor, product, words, language), actions_on(product, o)
    return {
        "id": str(product.product_id), "name": name_of(o, language), "state": words[product.state], "is_active": product.state == "active",
        "price": shown["price"], "per": shown["per"], "lines": lines, "end": end,
        "can_keep": acts.keep, "can_change": acts.change, "can_pause": acts.pause, "can_resume": acts.resume,
    }  # fmt: skip


def _at_the_end(
    services: Services, visitor: Visitor, product: Product, words: Mapping[str, str], language: Language
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
    o = services.offerings.sold(version).offering
    price = yuan(services.quotes.price(visitor.subscriber, o, product.cycle_end)) + words["per_month"]
    if product.next_version is not None:
        return words["changes_on"].format(
            day=day_of(product.cycle_end), name=name_of(o, language), price=price
        )
    return words["renews_on"].format(day=day_of(product.cycle_end), price=price)


def own_product(services: Services, visitor: Visitor, id_: str) -> Product:
    """A product of the visitor. Raises `NotFound`, also for a part of a bundle, which is managed with its bundle."""
    product_id = as_uuid(id_, "product")
    for product in services.orders.products(visitor.subscriber):
        if product.product_id == product_id and product.parent_id is None:
            return product
    raise NotFound("there is no such product")


ProductId = Annotated[str, Path(max_length=64)]


@router.post("/products/to-come/{id}/withdraw")
def withdraw(request: Request, services: RequestServices, id: ProductId) -> Response:
    """Cancel an order that has not begun."""
    visitor = visitor_of(request, services)
    if visitor is None:
        return sign_in_page(request, services, "/products")
    order_id = as_uuid(id, "order")
    try:
        if order_id not in {order.order_id for order in services.orders.to_come(visitor.subscriber)}:
            raise NotFound("there is no such order")
        with services.transaction():
            services.orders.withdraw(order_id)
            states = ({"state": "acknowledged"}, {"state": "cancelled"})
            audit(services, visitor.principal, "order.withdraw", order_id, *states)
    except TokenworksError as error:
        return _list(request, services, visitor, error=error)
    return RedirectResponse("/products?done=withdraw", 303)


@router.post("/products/{id}/keep")
def keep(request: Request, services: RequestServices, id: ProductId) -> Response:
    """Withdraw the change or the cancellation that waits for the end of the period."""
    visitor = visitor_of(request, services)
    if visitor is None:
        return sign_in_page(request, services, "/products")
    product = own_product(services, visitor, id)
    try:
        with services.transaction():
            for order_id in _waiting(services, visitor, product.product_id):
                services.orders.withdraw(order_id)
                audit(
                    services,
                    visitor.principal,
                    "order.withdraw",
                    order_id,
                    {"state": "pending"},
                    {"state": "cancelled"},
                )
    except TokenworksError as error:
        return _list(request, services, visitor, error=error)
    return RedirectResponse("/products?done=keep", 303)


def _waiting(services: Services, visitor: Visitor, product_id: UUID) -> list[UUID]:
    found, _ = services.orders.all(visitor.subscriber, 0, ORDERS_LOOKED_AT)
    return [o.order_id for o in found if o.product_id == product_id and o.state == "pending"]
