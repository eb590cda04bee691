"""Listeners to the events of all APIs, and the log of deliveries."""

from datetime import timedelta
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from tokenworks.api.tmf.hub import listener_resource
from tokenworks.subscriptions import Delivery
from tokenworks.web.bodies import StrictBody
from tokenworks.web.content import instant, json_response, without_none
from tokenworks.web.lists import PageQuery, check_filters, page_response
from tokenworks.web.principals import CurrentPrincipal, allow, as_uuid, audit
from tokenworks.web.services import RequestServices

router = APIRouter(prefix="/api/operations", tags=["operations"])

OVERLAP_H_MAX: Final = 720


class SecretRotation(StrictBody):
    overlap_h: int = Field(default=24, ge=0, le=OVERLAP_H_MAX)
    force: bool = Field(
        default=False, description="rotate although the previous secret still signs; it ends at once"
    )


@router.get("/webhooks", summary="Listeners to the events of all APIs", **allow("operator", "auditor"))
def webhooks(services: RequestServices) -> Response:
    found = [
        without_none(
            {
                **listener_resource(listener),
                "api": listener.api,
                "event_types": listener.event_types,
                "made_by": listener.made_by,
                "created_at": instant(listener.created_at),
                "overlap_until": instant(listener.overlap_until),
            }
        )
        for listener in services.hub.listeners()
    ]
    return json_response(found, headers={"X-Total-Count": str(len(found))})


@router.post(
    "/webhooks/{id}/secret",
    status_code=201,
    summary="Rotate the secret; the new one is shown only once, and the old one also signs for a while",
    **allow("operator"),
)
def rotate(body: SecretRotation, services: RequestServices, principal: CurrentPrincipal, id: str) -> Response:
    with services.transaction():
        secret = services.hub.rotate(
            as_uuid(id, "listener"), timedelta(hours=body.overlap_h), force=body.force
        )
        audit(
            services,
            principal,
            "webhook.rotate",
            id,
            None,
            {"overlap_h": body.overlap_h, "force": body.force},
        )
    return json_response({"id": id, "secret": secret, "overlap_h": body.overlap_h}, 201)


def _delivery(delivery: Delivery) -> dict[str, object]:
    return without_none(
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
            "created_at": instant(delivery.created_at),
            "tried_at": instant(delivery.tried_at),
            "delivered_at": instant(delivery.delivered_at),
        }
    )


@router.get(
    "/webhook-deliveries",
    summary="Deliveries of events to listeners, newest first",
    **allow("operator", "auditor"),
)
def deliveries(
    request: Request,
    services: RequestServices,
    page: PageQuery,
    state: Literal["waits", "delivered", "given_up"] | None = None,
    listener: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    check_filters(request, "state", "listener")
    listener_id = None if listener is None else as_uuid(listener, "listener")
    found, total = services.hub.log(state, listener_id, page.offset, page.limit)
    return page_response(page, [_delivery(delivery) for delivery in found], total)


@router.post(
    "/webhook-deliveries/{id}/replay",
    status_code=202,
    summary="Send a delivery again, byte for byte",
    **allow("operator"),
)
def replay(services: RequestServices, principal: CurrentPrincipal, id: str) -> Response:
    with services.transaction():
        made = services.hub.replay(as_uuid(id, "delivery"))
        audit(services, principal, "webhook.replay", id)
    return json_response(_delivery(made), 202)
