"""The log of deliveries of notices, and notices of incidents."""

from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tokenworks.subscriptions import Channel, NoticeDelivery
from tokenworks.web.bodies import StrictBody, SubscriberReference
from tokenworks.web.content import instant, json_response, without_none
from tokenworks.web.lists import PageQuery, check_filters, page_response
from tokenworks.web.principals import CurrentPrincipal, allow, as_uuid, audit
from tokenworks.web.services import RequestServices

router = APIRouter(prefix="/api/operations", tags=["operations"])


def delivery_resource(delivery: NoticeDelivery) -> dict[str, object]:
    return without_none(
        {
            "id": str(delivery.delivery_id),
            "notice": str(delivery.notification_id),
            "subscriber_id": str(delivery.subscriber_id),
            "person_id": str(delivery.person_id),
            "kind": delivery.kind,
            "channel": delivery.channel,
            "state": delivery.state,
            "cause": delivery.cause,
            "attempts": delivery.attempts,
            "resends": delivery.resends,
            "created_at": instant(delivery.created_at),
            "ended_at": instant(delivery.ended_at),
            "read_at": instant(delivery.read_at),
        }
    )


@router.get(
    "/notice-deliveries",
    summary="Deliveries of notices to people, newest first",
    **allow("operator", "auditor"),
)
def deliveries(
    request: Request,
    services: RequestServices,
    page: PageQuery,
    of: SubscriberReference = None,
    state: Literal["waits", "sent", "failed", "skipped"] | None = None,
    channel: Channel | None = None,
) -> Response:
    check_filters(request, "of", "state", "channel")
    subscriber = None if of is None else services.subscriptions.find(of)
    found, total = services.notices.log(subscriber, state, channel, page.offset, page.limit)
    return page_response(page, [delivery_resource(delivery) for delivery in found], total)


@router.post(
    "/notice-deliveries/{id}/resend",
    status_code=202,
    summary="Send a failed or skipped delivery again",
    **allow("operator"),
)
def resend(services: RequestServices, principal: CurrentPrincipal, id: str) -> Response:
    with services.transaction():
        made = services.notices.resend(as_uuid(id, "delivery"))
        audit(services, principal, "notice.resend", made.subscriber_id, None, {"delivery": id})
    return json_response(delivery_resource(made), 202)


class Incident(StrictBody):
    """`ref`: the incident's own name; a subscriber is told once for each. The texts name no person."""

    ref: str = Field(min_length=1, max_length=64)
    text: str = Field(min_length=1, max_length=300)
    text_zh: str = Field(min_length=1, max_length=300)
    subscribers: list[Annotated[str, Field(max_length=64)]] = Field(
        min_length=1, max_length=1000, description="ids or phone numbers"
    )


@router.post(
    "/incidents",
    status_code=202,
    summary="Tell subscribers of an incident; `tokenworks notice incident --all` tells all of them",
    **allow("operator"),
)
def incident(body: Incident, services: RequestServices, principal: CurrentPrincipal) -> Response:
    with services.transaction():
        ids = sorted({services.subscriptions.find(text).subscriber_id for text in body.subscribers})
        told = services.notices.announce(ids, body.ref, body.text, body.text_zh)
        audit(services, principal, "notice.incident", body.ref, None, {"told": told})
    return json_response({"ref": body.ref, "told": told}, 202)
