"""TMF641: what other systems deliver, as service orders, and what they answer."""

from typing import Annotated, Final, Literal, get_args

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from tokenworks.api.tmf.refs import SERVICE, party
from tokenworks.subscriptions import WorkOrder
from tokenworks.web.bodies import Loose
from tokenworks.web.content import answer, encode_for, shown, when
from tokenworks.web.lists import Fields, Paged, one, only_filters, page_of
from tokenworks.web.principals import Who, allow, as_uuid, audit
from tokenworks.web.services import Asked, Services

router = APIRouter(prefix=SERVICE, tags=["TMF641 service orders"])

# What TMF641 calls the states of a work order, and what it calls the answers.
_STATES: Final = {"open": "acknowledged", "done": "completed", "refused": "failed"}
Answered = Literal["completed", "failed", "rejected", "held"]
ANSWERS: Final[frozenset[str]] = frozenset(get_args(Answered))


def service_order_resource(work: WorkOrder) -> dict[str, object]:
    """A work order as TMF641 says it: what to do, for whom, where."""
    state = _STATES[work.state]
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
    return shown(
        {
            "id": str(work.work_order_id),
            "href": f"{SERVICE}/serviceOrder/{work.work_order_id}",
            "externalId": str(work.order_id),
            "category": work.port,
            "description": work.reason,
            "state": state,
            "orderDate": when(work.created_at),
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
    "/serviceOrder", summary="What other systems deliver, oldest first", **allow("operator", "auditor")
)
def service_orders(
    request: Request,
    services: Asked,
    page: Paged,
    state: Annotated[Literal["acknowledged", "completed", "failed"] | None, Query()] = None,
) -> Response:
    only_filters(request, "state")
    ours = next((known for known, said in _STATES.items() if said == state), None)
    found, total = services.deliveries.page(ours, page.offset, page.limit)
    return page_of(page, [service_order_resource(work) for work in found], total)


@router.get("/serviceOrder/{id}", summary="One of them", **allow("operator", "auditor"))
def service_order(request: Request, services: Asked, id: str, fields: Fields = None) -> Response:
    found = services.deliveries.find(as_uuid(id, "service order"))
    return one(request, service_order_resource(found), fields)


class _Note(Loose):
    text: str | None = Field(default=None, max_length=200)


class ServiceOrderUpdate(Loose):
    """`held`: not now, ask again. `attempt` says which asking is answered; left out, the last one."""

    state: Answered
    attempt: int | None = Field(default=None, ge=1, le=1000)
    note: list[_Note] | None = Field(default=None, max_length=10)


def take_answer(
    services: Services, work: WorkOrder, state: str, reason: str | None = None, attempt: int | None = None
) -> str:
    """What the delivering system says of a work order, in TMF641's words. Returns the state that it has now."""
    return services.orders.answer(
        work.work_order_id, done=state == "completed", reason=reason, again=state == "held", attempt=attempt
    )


@router.patch(
    "/serviceOrder/{id}", summary="A delivery is done, or refused; repeating it is safe", **allow("operator")
)
def answer_service_order(body: ServiceOrderUpdate, services: Asked, who: Who, id: str) -> Response:
    work = services.deliveries.find(as_uuid(id, "service order"))
    reason = next((note.text for note in body.note or () if note.text), None)
    with services.transaction():
        state = take_answer(services, work, body.state, reason, body.attempt)
        if state != work.state or body.state == "held":
            audit(
                services,
                who,
                "work_order.answer",
                id,
                {"state": work.state},
                {"state": state, "reason": reason},
            )
    return answer(service_order_resource(services.deliveries.find(work.work_order_id)))


def service_order_body(work: WorkOrder, public_url: str) -> bytes:
    """What the delivering system gets."""
    return encode_for(service_order_resource(work), public_url)
