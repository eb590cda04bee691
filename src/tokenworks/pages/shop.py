"""The shop, also without a session, and the order."""

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from tokenworks.kernel import Invalid, TokenworksError
from tokenworks.pages.confirm import confirm_page
from tokenworks.pages.new_key import show_key
from tokenworks.pages.offers import cards, on_sale
from tokenworks.pages.page import (
    FormText,
    Visitor,
    language_of,
    own_page_or_shop,
    render,
    sign_in_page,
    visitor_of,
)
from tokenworks.pages.words import WORDS
from tokenworks.subscriptions import day_of
from tokenworks.web.actions import issue_key
from tokenworks.web.principals import audit
from tokenworks.web.services import RequestServices, Services

router = APIRouter(include_in_schema=False)


@router.get("/order")
def order(
    request: Request, services: RequestServices, offering: Annotated[str | None, Query(max_length=64)] = None
) -> Response:
    return shop_page(request, services, visitor_of(request, services), offering)


def shop_page(
    request: Request,
    services: Services,
    visitor: Visitor | None,
    offering: str | None = None,
    error: TokenworksError | None = None,
) -> Response:
    language = language_of(request, visitor)
    offered = on_sale(services, visitor)
    chosen = next((offer.sold for offer in offered if offer.sold.offering.id == offering), None)
    if chosen is None and visitor is not None and offering is not None:
        # An offering for other audiences is shown with the reason why it can't be ordered.
        chosen = next(
            (
                sold
                for sold in services.offerings.all()
                if sold.offering.id == offering and services.offerings.can_be_ordered(sold.offering)
            ),
            None,
        )
    if chosen is not None:
        return confirm_page(request, services, visitor, chosen, error=error)
    had = {offer.sold.offering.id for offer in offered if offer.is_owned}
    refused = {offer.sold.offering.id for offer in offered if not offer.can_order}
    return render(
        request, services, "order.html", "order", "choose", visitor=visitor, error=error,
        cards=cards([offer.sold.offering for offer in offered], had, language, refused),
    )  # fmt: skip


@router.post("/order")
def place(
    request: Request,
    services: RequestServices,
    offering: FormText,
    key: FormText,
    version: FormText = "",
    delivery: FormText = "",
    second: FormText = "",
    start: FormText = "",
) -> Response:
    visitor = visitor_of(request, services)
    if visitor is None:
        return sign_in_page(request, services, f"/order?offering={offering}")
    try:
        day = _day(start)
        with services.transaction():
            if version:
                services.offerings.check_version(offering, version)
            made = services.orders.place(
                visitor.subscriber,
                offering,
                key,
                delivery=delivery or None,
                confirm=second == "yes",
                start=day,
            )
            text = None
            if made.new:
                audit(
                    services,
                    visitor.principal,
                    "order.add",
                    made.order_id,
                    None,
                    {"offering": made.offering_id},
                )
                text = _first_key(request, services, visitor)
    except TokenworksError as error:
        return shop_page(request, services, visitor, offering, error)
    begins = ""
    if made.starts_at is not None:
        words = WORDS[language_of(request, visitor)]
        begins = words["begins_later"].format(day=day_of(made.starts_at))
    return show_key(
        request, services, visitor, text, "ordered", waits=made.state != "completed", begins=begins
    )


def _day(text: str) -> date | None:
    """The day of a form, None if it is empty. Raises `Invalid`."""
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise Invalid("a start is a day such as 2027-05-01") from None


@router.post("/order/broadband")
def set_broadband(
    request: Request, services: RequestServices, offering: FormText, number: FormText
) -> Response:
    """Keep the broadband account number, if none is known yet, and return to the order that needs it."""
    visitor = visitor_of(request, services)
    to = own_page_or_shop(f"/order?offering={offering}")
    if visitor is None:
        return sign_in_page(request, services, to)
    found = visitor.subscriber
    if found.broadband is None:
        try:
            with services.transaction():
                services.subscriptions.set_profile(found, broadband=number.strip())
                audit(
                    services, visitor.principal, "subscriber.set", found.subscriber_id, {"broadband": None}, {"broadband": number.strip()}
                )  # fmt: skip
        except TokenworksError as error:
            return shop_page(request, services, visitor, offering, error)
    return RedirectResponse(to, 303)


def _first_key(request: Request, services: Services, visitor: Visitor) -> str | None:
    """A first key for the subscriber. None if the member has the maximum number of keys: the order is completed anyway."""
    name = WORDS[language_of(request, visitor)]["from_order_page"]
    try:
        return issue_key(services, visitor.principal, visitor.subscriber, name)[1]
    except Invalid:
        return None
