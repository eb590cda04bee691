"""Quotes: what an order, a change, a resume or a cancellation would cost."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import Field

from tokenworks.kernel import Invalid
from tokenworks.subscriptions import Quote
from tokenworks.web.bodies import StrictBody
from tokenworks.web.content import instant, json_response, money, without_none
from tokenworks.web.principals import BUYERS, CurrentPrincipal, allow, as_uuid, check_owner, own_subscriber
from tokenworks.web.services import RequestServices, Services

router = APIRouter(prefix="/api/quotes", tags=["quotes"])


class QuoteCreate(StrictBody):
    """`add` names an offering, `modify` a product and an offering, `resume` and `delete` a product. Staff also names the
    subscriber.
    """

    action: Literal["add", "modify", "resume", "delete"]
    offering: str | None = Field(default=None, min_length=1, max_length=64)
    product: str | None = Field(default=None, max_length=64)
    subscriber: str | None = Field(default=None, max_length=64)
    delivery: str | None = Field(default=None, max_length=32)
    at: Literal["now", "cycle_end"] = "now"
    # True: order an offering again that the subscriber has already.
    confirm: bool = False


def quote_resource(quote: Quote) -> dict[str, object]:
    """A quote. `amount` is negative if money is given back; `now` is the part that is charged at once, the rest follows when the
    event in `waits_for` has happened; `ends_at` is exclusive.
    """
    return without_none(
        {
            "action": quote.action,
            "offering": quote.offering_id,
            "offering_version": quote.offering_version,
            "proration": quote.proration,
            "amount": money(quote.amount_nano, quote.currency),
            "tax": money(quote.tax_nano, quote.currency),
            "now": money(quote.now_nano, quote.currency),
            "waits_for": quote.waits_for,
            "at_most": quote.at_most,
            "begins_at": instant(quote.begins_at),
            "ends_at": instant(quote.ends_at),
            "renews_at": instant(quote.renews_at),
            "renewal": None if quote.renewal_nano is None else money(quote.renewal_nano, quote.currency),
            "lines": [
                {
                    "description": line.description,
                    "description_zh": line.description_zh,
                    "amount": money(line.amount_nano, quote.currency),
                    "tax": money(line.tax_nano, quote.currency),
                }
                for line in quote.lines
            ],
        }
    )


def _quote(body: QuoteCreate, services: Services, principal: CurrentPrincipal) -> Quote:
    if body.action == "add":
        if body.offering is None:
            raise Invalid("offering: say what would be ordered")
        subscriber = own_subscriber(services, principal, body.subscriber)
        return services.quotes.place(subscriber, body.offering, delivery=body.delivery, confirm=body.confirm)
    product, subscriber_id = services.orders.product(as_uuid(body.product or "", "product"))
    check_owner(principal, subscriber_id, "product")
    if body.action == "modify":
        if body.offering is None:
            raise Invalid("offering: say what it would be changed to")
        return services.quotes.change(product.product_id, body.offering, body.at, confirm=body.confirm)
    if body.action == "resume":
        return services.quotes.resume(product.product_id)
    return services.quotes.cancel(product.product_id, body.at)


@router.post("", summary="Quote an operation: its cost, its period and its renewal", **allow(*BUYERS))
def quote(body: QuoteCreate, services: RequestServices, principal: CurrentPrincipal) -> Response:
    return json_response(quote_resource(_quote(body, services, principal)))
