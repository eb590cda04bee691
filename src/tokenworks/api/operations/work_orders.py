"""Work orders of delivering systems, answered by staff."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import Field

from tokenworks.web.bodies import StrictBody
from tokenworks.web.content import instant, json_response, without_none
from tokenworks.web.principals import CurrentPrincipal, allow, as_uuid, audit
from tokenworks.web.services import RequestServices

router = APIRouter(prefix="/api/operations", tags=["operations"])


@router.get("/work-orders", summary="Work orders of delivering systems", **allow("operator", "auditor"))
def work_orders(services: RequestServices) -> Response:
    found = [
        without_none(
            {
                "id": str(work.work_order_id),
                "port": work.port,
                "action": work.action,
                "offering": work.offering_id,
                "delivery": work.delivery,
                "order": str(work.order_id),
                "subscriber": str(work.subscriber_id),
                "attempts": work.attempts,
                "reason": work.reason,
                "created_at": instant(work.created_at),
            }
        )
        for work in services.orders.work_orders()
    ]
    return json_response(found, headers={"X-Total-Count": str(len(found))})


class WorkOrderAnswer(StrictBody):
    state: Literal["done", "refused"]
    reason: str | None = Field(default=None, max_length=200)
    again: bool = False
    # The attempt that is answered; by default the last one.
    attempt: int | None = Field(default=None, ge=1, le=1000)


@router.patch("/work-orders/{id}", summary="Report a delivery as done or refused", **allow("operator"))
def answer_work(
    body: WorkOrderAnswer, services: RequestServices, principal: CurrentPrincipal, id: str
) -> Response:
    work_order_id = as_uuid(id, "work order")
    with services.transaction():
        state = services.orders.answer(
            work_order_id,
            done=body.state == "done",
            reason=body.reason,
            again=body.again,
            attempt=body.attempt,
        )
        audit(
            services,
            principal,
            "work_order.answer",
            work_order_id,
            {"state": "open"},
            {"state": state, "reason": body.reason},
        )
    return json_response({"id": id, "state": state})
