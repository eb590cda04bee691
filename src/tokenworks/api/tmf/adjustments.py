"""TMF654: adjustments of balances, which a second person decides."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tokenworks.api.tmf.buckets import find_bucket
from tokenworks.api.tmf.refs import BALANCE, Quantity, exact_integer, quantity
from tokenworks.charging import PER_UNIT, Adjustment
from tokenworks.kernel import Invalid
from tokenworks.web.bodies import Reference, TmfBody
from tokenworks.web.content import instant, json_response, without_none
from tokenworks.web.filters import apply_filters
from tokenworks.web.lists import FieldsQuery, PageQuery, paginate, resource_response
from tokenworks.web.principals import ALL_STAFF, CurrentPrincipal, allow, as_uuid, audit
from tokenworks.web.repeats import IdempotencyKey, RepeatableRoute
from tokenworks.web.services import RequestServices

router = APIRouter(prefix=BALANCE, tags=["TMF654 prepay balance"], route_class=RepeatableRoute)


class AdjustBalanceCreate(TmfBody):
    """Add an amount of a bucket's unit, or (negative) remove it. A second person decides."""

    amount: Quantity
    usage_type: Literal["monetary", "voice", "data", "sms", "other"] = Field(alias="usageType")
    bucket: Reference
    reason: str = Field(min_length=1, max_length=200)


def _adjustment_resource(made: Adjustment) -> dict[str, object]:
    sign = -1 if made.amount < 0 else 1
    amount = quantity(abs(made.amount), made.unit)
    return without_none(
        {
            "id": str(made.adjustment_id),
            "href": f"{BALANCE}/adjustBalance/{made.adjustment_id}",
            "status": {"asked": "created", "done": "completed", "refused": "cancelled"}[made.state],
            "adjustType": "oneTime",
            "amount": {**amount, "amount": sign * amount["amount"]},  # type: ignore[operator]
            "reason": made.reason,
            "requestedDate": instant(made.asked_at),
            "confirmationDate": instant(made.decided_at),
            "usageType": "other",
            "bucket": {"id": str(made.bucket_id), "href": f"{BALANCE}/bucket/{made.bucket_id}"},
            "requestor": {"id": made.asked_by, "role": "operator", "@referredType": "Individual"},
            "@type": "AdjustBalance",
        }
    )


@router.get("/adjustBalance", summary="Adjustments, newest first", **allow(*ALL_STAFF))
def adjustments(request: Request, services: RequestServices, page: PageQuery) -> Response:
    found = [_adjustment_resource(made) for made in services.adjustments.all()]
    names = ("id", "status", "bucket.id", "requestor.id", "requestedDate", "confirmationDate", "usageType")
    return paginate(page, apply_filters(request, found, names))


@router.get("/adjustBalance/{id}", summary="One adjustment", **allow(*ALL_STAFF))
def adjustment(request: Request, services: RequestServices, id: str, fields: FieldsQuery = None) -> Response:
    return resource_response(
        request, _adjustment_resource(services.adjustments.find(as_uuid(id, "adjustment"))), fields
    )


@router.post(
    "/adjustBalance", status_code=201, summary="Ask for an adjustment", **allow("operator", "finance")
)
def adjust(
    body: AdjustBalanceCreate, services: RequestServices, principal: CurrentPrincipal, key: IdempotencyKey
) -> Response:
    found, _ = find_bucket(services, principal, body.bucket.id)
    if body.amount.units != found.unit:
        raise Invalid(f"amount: this bucket is counted in {found.unit}")
    with services.transaction():
        made = services.adjustments.ask(
            found.bucket_id, exact_integer(body.amount.amount * PER_UNIT), body.reason, principal.name, key
        )
        audit(
            services,
            principal,
            "balance.adjust",
            made.adjustment_id,
            None,
            {"amount": made.amount, "unit": made.unit},
        )
    return json_response(_adjustment_resource(made), 201)


class AdjustBalanceUpdate(TmfBody):
    status: Literal["completed", "cancelled"]


@router.patch(
    "/adjustBalance/{id}", summary="Decide an adjustment as the second person", **allow("operator", "finance")
)
def decide_adjustment(
    body: AdjustBalanceUpdate, services: RequestServices, principal: CurrentPrincipal, id: str
) -> Response:
    with services.transaction():
        made = services.adjustments.decide(
            as_uuid(id, "adjustment"), principal.name, do=body.status == "completed"
        )
        audit(
            services,
            principal,
            "balance.adjust.decide",
            made.adjustment_id,
            {"state": "asked"},
            {"state": made.state},
        )
    return json_response(_adjustment_resource(made))
