"""Who is told of events, of every API, and the log of deliveries."""

from datetime import timedelta
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from tokenworks.api.tmf.hub import listener_resource
from tokenworks.subscriptions import Delivery
from tokenworks.web.bodies import Strict
from tokenworks.web.content import answer, shown, when
from tokenworks.web.lists import Paged, only_filters, page_of
from tokenworks.web.principals import Who, allow, as_uuid, audit
from tokenworks.web.services import Asked

router = APIRouter(prefix="/api/operations", tags=["operations"])

OVERLAP_H_MAX: Final = 720


class SecretRotation(Strict):
    overlap_h: int = Field(default=24, ge=0, le=OVERLAP_H_MAX)
    force: bool = Field(default=False, description="though the secret of before still signs: it ends now")


@router.get("/webhooks", summary="Who is told of events, of every API", **allow("operator", "auditor"))
def webhooks(services: Asked) -> Response:
    found = [
        shown(
            {
                **listener_resource(one),
                "api": one.api,
                "event_types": one.event_types,
                "made_by": one.made_by,
                "created_at": when(one.created_at),
                "overlap_until": when(one.overlap_until),
            }
        )
        for one in services.hub.listeners()
    ]
    return answer(found, headers={"X-Total-Count": str(len(found))})


@router.post(
    "/webhooks/{id}/secret",
    status_code=201,
    summary="A new secret, shown this once; the old one signs beside it for a while",
    **allow("operator"),
)
def rotate(body: SecretRotation, services: Asked, who: Who, id: str) -> Response:
    with services.transaction():
        secret = services.hub.rotate(
            as_uuid(id, "listener"), timedelta(hours=body.overlap_h), force=body.force
        )
        audit(services, who, "webhook.rotate", id, None, {"overlap_h": body.overlap_h, "force": body.force})
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


@router.get(
    "/webhook-deliveries", summary="What was sent to whom, newest first", **allow("operator", "auditor")
)
def deliveries(
    request: Request,
    services: Asked,
    page: Paged,
    state: Literal["waits", "delivered", "given_up"] | None = None,
    listener: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    only_filters(request, "state", "listener")
    listener_id = None if listener is None else as_uuid(listener, "listener")
    found, total = services.hub.log(state, listener_id, page.offset, page.limit)
    return page_of(page, [_delivery(delivery) for delivery in found], total)


@router.post(
    "/webhook-deliveries/{id}/replay",
    status_code=202,
    summary="Send a delivery again, the same bytes",
    **allow("operator"),
)
def replay(services: Asked, who: Who, id: str) -> Response:
    with services.transaction():
        made = services.hub.replay(as_uuid(id, "delivery"))
        audit(services, who, "webhook.replay", id)
    return answer(_delivery(made), 202)
