"""TMF654: adjustments, which another person decides."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tokenworks.api.tmf.buckets import find_bucket
from tokenworks.api.tmf.refs import BALANCE, _Quantity, exact, quantity
from tokenworks.charging import PER_UNIT, Adjustment
from tokenworks.kernel import Invalid
from tokenworks.web.bodies import Loose, Ref
from tokenworks.web.content import answer, shown, when
from tokenworks.web.filters import filtered
from tokenworks.web.lists import Fields, Paged, cut, one
from tokenworks.web.principals import ALL_STAFF, Who, allow, as_uuid, audit
from tokenworks.web.repeats import IdempotencyKey, RepeatableRoute
from tokenworks.web.services import Asked

router = APIRouter(prefix=BALANCE, tags=["TMF654 prepay balance"], route_class=RepeatableRoute)


class AdjustBalanceCreate(Loose):
    """So much of a bucket's unit more, or (below zero) less. Another person decides."""

    amount: _Quantity
    usage_type: Literal["monetary", "voice", "data", "sms", "other"] = Field(alias="usageType")
    bucket: Ref
    reason: str = Field(min_length=1, max_length=200)


def _adjustment_resource(made: Adjustment) -> dict[str, object]:
    sign = -1 if made.amount < 0 else 1
    amount = quantity(abs(made.amount), made.unit)
    return shown(
        {
            "id": str(made.adjustment_id),
            "href": f"{BALANCE}/adjustBalance/{made.adjustment_id}",
            "status": {"asked": "created", "done": "completed", "refused": "cancelled"}[made.state],
            "adjustType": "oneTime",
            "amount": {**amount, "amount": sign * amount["amount"]},  # type: ignore[operator]
            "reason": made.reason,
            "requestedDate": when(made.asked_at),
            "confirmationDate": when(made.decided_at),
            "usageType": "other",
            "bucket": {"id": str(made.bucket_id), "href": f"{BALANCE}/bucket/{made.bucket_id}"},
            "requestor": {"id": made.asked_by, "role": "operator", "@referredType": "Individual"},
            "@type": "AdjustBalance",
        }
    )


@router.get("/adjustBalance", summary="Adjustments, newest first", **allow(*ALL_STAFF))
def adjustments(request: Request, services: Asked, page: Paged) -> Response:
    found = [_adjustment_resource(made) for made in services.adjustments.all()]
    names = ("id", "status", "bucket.id", "requestor.id", "requestedDate", "confirmationDate", "usageType")
    return cut(page, filtered(request, found, names))


@router.get("/adjustBalance/{id}", summary="One adjustment", **allow(*ALL_STAFF))
def adjustment(request: Request, services: Asked, id: str, fields: Fields = None) -> Response:
    return one(request, _adjustment_resource(services.adjustments.find(as_uuid(id, "adjustment"))), fields)


@router.post(
    "/adjustBalance", status_code=201, summary="Ask for an adjustment", **allow("operator", "finance")
)
def adjust(body: AdjustBalanceCreate, services: Asked, who: Who, key: IdempotencyKey) -> Response:
    found, _ = find_bucket(services, who, body.bucket.id)
    if body.amount.units != found.unit:
        raise Invalid(f"amount: this bucket is counted in {found.unit}")
    with services.transaction():
        made = services.adjustments.ask(
            found.bucket_id, exact(body.amount.amount * PER_UNIT), body.reason, who.name, key
        )
        audit(
            services,
            who,
            "balance.adjust",
            made.adjustment_id,
            None,
            {"amount": made.amount, "unit": made.unit},
        )
    return answer(_adjustment_resource(made), 201)


class AdjustBalanceUpdate(Loose):
    status: Literal["completed", "cancelled"]


@router.patch("/adjustBalance/{id}", summary="The second person decides", **allow("operator", "finance"))
def decide_adjustment(body: AdjustBalanceUpdate, services: Asked, who: Who, id: str) -> Response:
    with services.transaction():
        made = services.adjustments.decide(as_uuid(id, "adjustment"), who.name, do=body.status == "completed")
        audit(
            services,
            who,
            "balance.adjust.decide",
            made.adjustment_id,
            {"state": "asked"},
            {"state": made.state},
        )
    return answer(_adjustment_resource(made))
