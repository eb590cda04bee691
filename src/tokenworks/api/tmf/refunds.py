"""TMF676: refunds of orders."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from tokenworks.api.tmf.refs import ORDER, PAYMENT, Money
from tokenworks.billing import Refund
from tokenworks.web.bodies import Reference, TmfBody
from tokenworks.web.content import instant, json_response, money, without_none
from tokenworks.web.filters import apply_filters
from tokenworks.web.lists import FieldsQuery, PageQuery, paginate, resource_response
from tokenworks.web.principals import (
    READERS,
    CurrentPrincipal,
    allow,
    as_uuid,
    audit,
    check_approval,
    check_owner,
)
from tokenworks.web.repeats import IdempotencyKey, RepeatableRoute
from tokenworks.web.services import RequestServices

router = APIRouter(prefix=PAYMENT, tags=["TMF676 payments"], route_class=RepeatableRoute)


class RefundCreate(TmfBody):
    """A refund of an order: the whole of it, its unused part, or an amount."""

    order: Reference
    part: Literal["whole", "unused", "amount"]
    reason: str = Field(min_length=1, max_length=200)
    total_amount: Money | None = Field(default=None, alias="totalAmount")


def refund_resource(refund: Refund) -> dict[str, object]:
    return without_none(
        {
            "id": str(refund.refund_id),
            "href": f"{PAYMENT}/refund/{refund.refund_id}",
            "description": refund.reason,
            "name": refund.part,
            "refundDate": instant(refund.done_at),
            "status": refund.state,
            "statusDate": instant(refund.done_at or refund.asked_at),
            "account": {"id": str(refund.account_id), "name": "token account"},
            "paymentMethod": {"@type": "phoneBill", "name": "credit on the phone bill"},
            "totalAmount": None if refund.amount_nano is None else money(refund.amount_nano),
            "order": {"id": str(refund.order_id), "href": f"{ORDER}/productOrder/{refund.order_id}"},
            "@type": "Refund",
        }
    )


@router.get("/refund", summary="Refunds of an order", **allow(*READERS))
def refunds(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    page: PageQuery,
    order_id: Annotated[str, Query(alias="order.id", max_length=64)],
) -> Response:
    order, subscriber_id = services.orders.find(as_uuid(order_id, "order"))
    check_owner(principal, subscriber_id, "order")
    found = [refund_resource(refund) for refund in services.refunds.of_order(order.order_id)]
    return paginate(
        page, apply_filters(request, found, ("id", "status", "name", "refundDate"), ignored=("order.id",))
    )


@router.get("/refund/{id}", summary="One refund", **allow(*READERS))
def refund_one(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    id: str,
    fields: FieldsQuery = None,
) -> Response:
    found = services.refunds.find(as_uuid(id, "refund"))
    check_owner(principal, services.orders.find(found.order_id)[1], "refund")
    return resource_response(request, refund_resource(found), fields)


@router.post("/refund", status_code=201, summary="Refund an order", **allow("finance"))
def refund(
    body: RefundCreate, services: RequestServices, principal: CurrentPrincipal, key: IdempotencyKey
) -> Response:
    order, _ = services.orders.find(as_uuid(body.order.id, "order"))
    amount_nano = None if body.total_amount is None else body.total_amount.nano()
    with services.transaction():
        made = services.refunds.refund(
            order.order_id, body.part, body.reason, amount_nano=amount_nano, idempotency_key=key
        )
        if made[0].new:
            check_approval(services, principal, "refund", order.order_id, services.refunds.at_most(made), key)
            audit(
                services, principal, "refund", order.order_id, None,
                {"part": body.part, "reason": body.reason, "refunds": [str(refund.refund_id) for refund in made]},
            )  # fmt: skip
    return json_response([refund_resource(refund) for refund in made], 201)
