"""TMF676: refunds of orders."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from tokenworks.api.tmf.refs import ORDER, PAYMENT, _Money
from tokenworks.billing import Refund
from tokenworks.web.bodies import Loose, Ref
from tokenworks.web.content import answer, money, shown, when
from tokenworks.web.filters import filtered
from tokenworks.web.lists import Fields, Paged, cut, one
from tokenworks.web.principals import READERS, Who, allow, as_uuid, audit, mine_only, two_persons
from tokenworks.web.repeats import IdempotencyKey, RepeatableRoute
from tokenworks.web.services import Asked

router = APIRouter(prefix=PAYMENT, tags=["TMF676 payments"], route_class=RepeatableRoute)


class RefundCreate(Loose):
    """Of an order: `whole`, `unused`, or an amount of it."""

    order: Ref
    part: Literal["whole", "unused", "amount"]
    reason: str = Field(min_length=1, max_length=200)
    total_amount: _Money | None = Field(default=None, alias="totalAmount")


def refund_resource(refund: Refund) -> dict[str, object]:
    return shown(
        {
            "id": str(refund.refund_id),
            "href": f"{PAYMENT}/refund/{refund.refund_id}",
            "description": refund.reason,
            "name": refund.part,
            "refundDate": when(refund.done_at),
            "status": refund.state,
            "statusDate": when(refund.done_at or refund.asked_at),
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
    services: Asked,
    who: Who,
    page: Paged,
    order_id: Annotated[str, Query(alias="order.id", max_length=64)],
) -> Response:
    order, subscriber_id = services.orders.find(as_uuid(order_id, "order"))
    mine_only(who, subscriber_id, "order")
    found = [refund_resource(refund) for refund in services.refunds.of_order(order.order_id)]
    return cut(page, filtered(request, found, ("id", "status", "name", "refundDate"), beside=("order.id",)))


@router.get("/refund/{id}", summary="One refund", **allow(*READERS))
def refund_one(request: Request, services: Asked, who: Who, id: str, fields: Fields = None) -> Response:
    found = services.refunds.find(as_uuid(id, "refund"))
    mine_only(who, services.orders.find(found.order_id)[1], "refund")
    return one(request, refund_resource(found), fields)


@router.post("/refund", status_code=201, summary="Refund an order", **allow("finance"))
def refund(body: RefundCreate, services: Asked, who: Who, key: IdempotencyKey) -> Response:
    order, _ = services.orders.find(as_uuid(body.order.id, "order"))
    amount_nano = None if body.total_amount is None else body.total_amount.nano()
    with services.transaction():
        made = services.refunds.refund(
            order.order_id, body.part, body.reason, amount_nano=amount_nano, idempotency_key=key
        )
        if made[0].new:
            two_persons(services, who, "refund", order.order_id, services.refunds.at_most(made), key)
            audit(
                services, who, "refund", order.order_id, None,
                {"part": body.part, "reason": body.reason, "refunds": [str(refund.refund_id) for refund in made]},
            )  # fmt: skip
    return answer([refund_resource(refund) for refund in made], 201)
