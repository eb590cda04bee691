"""TMF641: work orders of delivering systems as service orders, and the answers to them."""

from typing import Annotated, Final, Literal, get_args

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from tokenworks.api.tmf.refs import SERVICE, party
from tokenworks.subscriptions import WorkOrder
from tokenworks.web.bodies import TmfBody
from tokenworks.web.content import encode_for, instant, json_response, without_none
from tokenworks.web.lists import FieldsQuery, PageQuery, check_filters, page_response, resource_response
from tokenworks.web.principals import CurrentPrincipal, allow, as_uuid, audit
from tokenworks.web.services import RequestServices, Services

router = APIRouter(prefix=SERVICE, tags=["TMF641 service orders"])

# The states of a work order by their TMF641 names, and the states with which it is answered.
_TMF_STATE: Final = {"open": "acknowledged", "done": "completed", "refused": "failed"}
AnsweredState = Literal["completed", "failed", "rejected", "held"]
ANSWERS: Final[frozenset[str]] = frozenset(get_args(AnsweredState))


def service_order_resource(work: WorkOrder) -> dict[str, object]:
    """A work order as a TMF641 service order."""
    state = _TMF_STATE[work.state]
    characteristics = (
        ("broadband", work.broadband),
        ("delivery", work.delivery),
        ("attempt", work.attempts),
        ("productOrder", work.order_id),
    )
    service = {
        "id": str(work.product_id),
        "serviceType": work.port,
        "state": "active" if work.action == "deliver" else "terminated",
        "serviceSpecification": {"id": work.offering_id, "name": work.offering_id},
        "serviceCharacteristic": [
            {"name": name, "valueType": "string", "value": str(value)}
            for name, value in characteristics
            if value is not None
        ],
        "@type": "Service",
    }
    return without_none(
        {
            "id": str(work.work_order_id),
            "href": f"{SERVICE}/serviceOrder/{work.work_order_id}",
            "externalId": str(work.order_id),
            "category": work.port,
            "description": work.reason,
            "state": state,
            "orderDate": instant(work.created_at),
            "serviceOrderItem": [
                {
                    "id": "1",
                    "action": "add" if work.action == "deliver" else "delete",
                    "state": state,
                    "service": service,
                    "@type": "ServiceOrderItem",
                }
            ],
            "relatedParty": party(work.subscriber_id),
            "@type": "ServiceOrder",
        }
    )


@router.get(
    "/serviceOrder",
    summary="Service orders of delivering systems, oldest first",
    **allow("operator", "auditor"),
)
def service_orders(
    request: Request,
    services: RequestServices,
    page: PageQuery,
    state: Annotated[Literal["acknowledged", "completed", "failed"] | None, Query()] = None,
) -> Response:
    check_filters(request, "state")
    ours = next((known for known, name in _TMF_STATE.items() if name == state), None)
    found, total = services.deliveries.page(ours, page.offset, page.limit)
    return page_response(page, [service_order_resource(work) for work in found], total)


@router.get("/serviceOrder/{id}", summary="One service order", **allow("operator", "auditor"))
def service_order(
    request: Request, services: RequestServices, id: str, fields: FieldsQuery = None
) -> Response:
    found = services.deliveries.find(as_uuid(id, "service order"))
    return resource_response(request, service_order_resource(found), fields)


class _Note(TmfBody):
    text: str | None = Field(default=None, max_length=200)


class ServiceOrderUpdate(TmfBody):
    """`held`: not now, try again later. `attempt`: the attempt that is answered, by default the last one."""

    state: AnsweredState
    attempt: int | None = Field(default=None, ge=1, le=1000)
    note: list[_Note] | None = Field(default=None, max_length=10)


def take_answer(
    services: Services, work: WorkOrder, state: str, reason: str | None = None, attempt: int | None = None
) -> str:
    """Apply the delivering system's answer (a TMF641 state) to a work order. Returns the work order's new state."""
    return services.orders.answer(
        work.work_order_id, done=state == "completed", reason=reason, again=state == "held", attempt=attempt
    )


@router.patch(
    "/serviceOrder/{id}",
    summary="Report a delivery as done or refused; repeating the request is safe",
    **allow("operator"),
)
def answer_service_order(
    body: ServiceOrderUpdate, services: RequestServices, principal: CurrentPrincipal, id: str
) -> Response:
    work = services.deliveries.find(as_uuid(id, "service order"))
    reason = next((note.text for note in body.note or () if note.text), None)
    with services.transaction():
        state = take_answer(services, work, body.state, reason, body.attempt)
        if state != work.state or body.state == "held":
            audit(
                services,
                principal,
                "work_order.answer",
                id,
                {"state": work.state},
                {"state": state, "reason": reason},
            )
    return json_response(service_order_resource(services.deliveries.find(work.work_order_id)))


def service_order_body(work: WorkOrder, public_url: str) -> bytes:
    """The body that the delivering system is sent."""
    return encode_for(service_order_resource(work), public_url)
