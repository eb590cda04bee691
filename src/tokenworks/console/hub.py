"""What other systems are told and asked: the hub of each API (TMF630), TMF641 service orders, the log of deliveries."""

import contextlib
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any, Final, Literal, get_args

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from tokenworks.console.tmf_bills import BILL, PAYMENT, bill_resource, payment_resource
from tokenworks.console.tmf_orders import INVENTORY, ORDER, order_resource, party, product_resource
from tokenworks.console.web import (
    Asked,
    Fields,
    Loose,
    Paged,
    Rooms,
    Strict,
    Who,
    allow,
    answer,
    as_uuid,
    audit,
    encode_for,
    one,
    only_filters,
    page_of,
    shown,
    when,
)
from tokenworks.kernel import TokenworksError
from tokenworks.subscriptions import Api, Delivery, Event, Listener, WorkOrder, content_of

SERVICE: Final = "/tmf-api/serviceOrdering/v4"
_BASES: Final[dict[Api, tuple[str, str]]] = {
    "productOrdering": (ORDER, "TMF622 product orders"),
    "productInventory": (INVENTORY, "TMF637 product inventory"),
    "customerBill": (BILL, "TMF678 customer bills"),
    "payment": (PAYMENT, "TMF676 payments"),
    "serviceOrdering": (SERVICE, "TMF641 service orders"),
}
services_router = APIRouter(prefix=SERVICE, tags=["TMF641 service orders"])
webhooks_router = APIRouter(prefix="/api/operations", tags=["operations"])
OVERLAP_H_MAX: Final = 720
# What TMF641 calls the states of a work order, and what it calls the answers.
_STATES: Final = {"open": "acknowledged", "done": "completed", "refused": "failed"}
Answered = Literal["completed", "failed", "rejected", "held"]
ANSWERS: Final[frozenset[str]] = frozenset(get_args(Answered))
PAYMENTS_LOOKED_AT: Final = 100


# Service orders.


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


@services_router.get(
    "/serviceOrder", summary="What other systems deliver, oldest first", **allow("operator", "auditor")
)
def service_orders(
    request: Request,
    rooms: Asked,
    page: Paged,
    state: Annotated[Literal["acknowledged", "completed", "failed"] | None, Query()] = None,
) -> Response:
    only_filters(request, "state")
    ours = next((known for known, said in _STATES.items() if said == state), None)
    found, total = rooms.deliveries.page(ours, page.offset, page.limit)
    return page_of(page, [service_order_resource(work) for work in found], total)


@services_router.get("/serviceOrder/{id}", summary="One of them", **allow("operator", "auditor"))
def service_order(request: Request, rooms: Asked, id: str, fields: Fields = None) -> Response:
    found = rooms.deliveries.find(as_uuid(id, "service order"))
    return one(request, service_order_resource(found), fields)


class _Note(Loose):
    text: str | None = Field(default=None, max_length=200)


class ServiceOrderUpdate(Loose):
    """`held`: not now, ask again. `attempt` says which asking is answered; left out, the last one."""

    state: Answered
    attempt: int | None = Field(default=None, ge=1, le=1000)
    note: list[_Note] | None = Field(default=None, max_length=10)


def take_answer(
    rooms: Rooms, work: WorkOrder, state: str, reason: str | None = None, attempt: int | None = None
) -> str:
    """What the delivering system says of a work order, in TMF641's words. Returns the state that it has now."""
    return rooms.orders.answer(
        work.work_order_id, done=state == "completed", reason=reason, again=state == "held", attempt=attempt
    )


@services_router.patch(
    "/serviceOrder/{id}", summary="A delivery is done, or refused; repeating it is safe", **allow("operator")
)
def answer_service_order(body: ServiceOrderUpdate, rooms: Asked, who: Who, id: str) -> Response:
    work = rooms.deliveries.find(as_uuid(id, "service order"))
    reason = next((note.text for note in body.note or () if note.text), None)
    with rooms.connection.transaction():
        state = take_answer(rooms, work, body.state, reason, body.attempt)
        if state != work.state or body.state == "held":
            audit(
                rooms, who, "work_order.answer", id, {"state": work.state}, {"state": state, "reason": reason}
            )
    return answer(service_order_resource(rooms.deliveries.find(work.work_order_id)))


def service_order_body(work: WorkOrder, public_url: str) -> bytes:
    """What the delivering system gets."""
    return encode_for(service_order_resource(work), public_url)


# Events.


def event_body(rooms: Rooms, event: Event, public_url: str) -> str:
    """A notification of the hub, with the resource as it is now in the state that is told."""
    name, resource = _told(rooms, event)
    return encode_for(content_of(event, resource, name), public_url).decode()


def _told(rooms: Rooms, event: Event) -> tuple[str, dict[str, object] | None]:
    name = event.event_type.removesuffix("StateChangeEvent").removesuffix("CreateEvent")
    name = name[0].lower() + name[1:]
    state: Any = event.state
    with contextlib.suppress(TokenworksError):
        if event.api == "productOrdering":
            order, subscriber_id = rooms.orders.find(event.ref)
            return name, order_resource(replace(order, state=state), subscriber_id)
        if event.api == "productInventory":
            product, subscriber_id = rooms.orders.product(event.ref)
            subscriber = rooms.subscriptions.find(str(subscriber_id))
            return name, product_resource(rooms, replace(product, state=state), subscriber)
        if event.api == "customerBill":
            return name, bill_resource(replace(rooms.bills.find(str(event.ref)), state=state))
        if event.api == "serviceOrdering":
            return name, service_order_resource(replace(rooms.deliveries.find(event.ref), state=state))
        subscriber = rooms.subscriptions.find(str(event.subscriber_id))
        for payment in rooms.payments.all(subscriber, 0, PAYMENTS_LOOKED_AT)[0]:
            if payment.payment_id == event.ref:
                return name, payment_resource(payment, subscriber.account_id)
    return name, None


# The hub.


class HubCreate(Loose):
    """`query` is `eventType=…`, one or several; left out, all events of the API are sent."""

    callback: str = Field(min_length=1, max_length=500)
    query: str = Field(default="", max_length=500)


def _listener(listener: Listener) -> dict[str, object]:
    return {"id": str(listener.listener_id), "callback": listener.callback, "query": listener.query}


def _hub_of(api: Api, base: str, tag: str) -> APIRouter:
    router = APIRouter(prefix=base, tags=[tag])

    @router.get("/hub", summary="Who is told of events", **allow("operator", "auditor"))
    def listeners(rooms: Asked) -> Response:
        found = [_listener(one) for one in rooms.hub.listeners() if one.api == api]
        return answer(found, headers={"X-Total-Count": str(len(found))})

    @router.post(
        "/hub",
        status_code=201,
        summary="Tell a system of events; its secret is shown this once",
        **allow("operator"),
    )
    def subscribe(body: HubCreate, rooms: Asked, who: Who) -> Response:
        with rooms.connection.transaction():
            made, secret = rooms.hub.subscribe(api, body.callback, body.query, who.name)
            audit(rooms, who, "webhook.add", made.listener_id, None, {"api": api})
        headers = {"Location": f"{base}/hub/{made.listener_id}"}
        return answer({**_listener(made), "secret": secret}, 201, headers)

    @router.delete("/hub/{id}", status_code=204, summary="Tell it no more", **allow("operator"))
    def unsubscribe(rooms: Asked, who: Who, id: str) -> Response:
        with rooms.connection.transaction():
            rooms.hub.unsubscribe(as_uuid(id, "listener"), api)
            audit(rooms, who, "webhook.remove", id)
        return Response(status_code=204)

    return router


hub_routers: Final = tuple(_hub_of(api, base, tag) for api, (base, tag) in _BASES.items())


class SecretRotation(Strict):
    overlap_h: int = Field(default=24, ge=0, le=OVERLAP_H_MAX)
    force: bool = Field(default=False, description="though the secret of before still signs: it ends now")


@webhooks_router.get(
    "/webhooks", summary="Who is told of events, of every API", **allow("operator", "auditor")
)
def webhooks(rooms: Asked) -> Response:
    found = [
        shown(
            {
                **_listener(one),
                "api": one.api,
                "event_types": one.event_types,
                "made_by": one.made_by,
                "created_at": when(one.created_at),
                "overlap_until": when(one.overlap_until),
            }
        )
        for one in rooms.hub.listeners()
    ]
    return answer(found, headers={"X-Total-Count": str(len(found))})


@webhooks_router.post(
    "/webhooks/{id}/secret",
    status_code=201,
    summary="A new secret, shown this once; the old one signs beside it for a while",
    **allow("operator"),
)
def rotate(body: SecretRotation, rooms: Asked, who: Who, id: str) -> Response:
    with rooms.connection.transaction():
        secret = rooms.hub.rotate(as_uuid(id, "listener"), timedelta(hours=body.overlap_h), force=body.force)
        audit(rooms, who, "webhook.rotate", id, None, {"overlap_h": body.overlap_h, "force": body.force})
    return answer({"id": id, "secret": secret, "overlap_h": body.overlap_h}, 201)


def _delivery(delivery: Delivery) -> dict[str, object]:
    return shown(
        {
            "id": str(delivery.delivery_id),
            "listener": None if delivery.listener_id is None else str(delivery.listener_id),
            "event_id": str(delivery.event_id),
            "event_type": delivery.event_type,
            "state": delivery.state,
            "attempts": delivery.attempts,
            "replays": delivery.replays,
            "status": delivery.status,
            "error": delivery.error,
            "created_at": when(delivery.created_at),
            "tried_at": when(delivery.tried_at),
            "delivered_at": when(delivery.delivered_at),
        }
    )


@webhooks_router.get(
    "/webhook-deliveries", summary="What was sent to whom, newest first", **allow("operator", "auditor")
)
def deliveries(
    request: Request,
    rooms: Asked,
    page: Paged,
    state: Literal["waits", "delivered", "given_up"] | None = None,
    listener: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    only_filters(request, "state", "listener")
    listener_id = None if listener is None else as_uuid(listener, "listener")
    found, total = rooms.hub.log(state, listener_id, page.offset, page.limit)
    return page_of(page, [_delivery(delivery) for delivery in found], total)


@webhooks_router.post(
    "/webhook-deliveries/{id}/replay",
    status_code=202,
    summary="Send a delivery again, the same bytes",
    **allow("operator"),
)
def replay(rooms: Asked, who: Who, id: str) -> Response:
    with rooms.connection.transaction():
        made = rooms.hub.replay(as_uuid(id, "delivery"))
        audit(rooms, who, "webhook.replay", id)
    return answer(_delivery(made), 202)
