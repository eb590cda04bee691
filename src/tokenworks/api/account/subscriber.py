"""The subscriber, its spending and its limits; its suspensions."""

from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tokenworks.kernel import parse_money
from tokenworks.subscriptions import (
    SUSPENSIONS,
    Subscriber,
    Suspension,
    check_control,
    check_own_broadband,
    check_own_lift,
)
from tokenworks.web.bodies import StrictBody, SubscriberReference
from tokenworks.web.content import exact_amount, instant, json_response, without_none
from tokenworks.web.lists import check_match, resource_response
from tokenworks.web.principals import BUYERS, READERS, CurrentPrincipal, allow, audit, own_subscriber
from tokenworks.web.services import RequestServices, Services

router = APIRouter(prefix="/api", tags=["account"])

Region = Annotated[str, Field(min_length=1, max_length=60)]


def subscriber_resource(services: Services, subscriber: Subscriber) -> dict[str, object]:
    return without_none(
        {
            "id": str(subscriber.subscriber_id),
            "account_id": str(subscriber.account_id),
            "phone": subscriber.phone_masked,
            "name": subscriber.name,
            "state": subscriber.state,
            "language": subscriber.language,
            "audiences": subscriber.audiences,
            "broadband": subscriber.broadband,
            "real_name": subscriber.real_name,
            "bill_day": subscriber.bill_day,
            "monthly_cap": exact_amount(subscriber.cap_nano),
            "spent_this_month": exact_amount(services.payg.spent(subscriber)),
            "spend_locked": subscriber.spend_locked,
            "spill_over": subscriber.spill_over,
            "restricted": subscriber.restricted,
            "suspended_by": list(subscriber.suspended_by),
            "regions": subscriber.regions,
            "home_region": subscriber.home_region,
            "credit_limit": None
            if subscriber.credit_limit_nano is None
            else exact_amount(subscriber.credit_limit_nano),
            "owes": exact_amount(services.charges.receivable(subscriber.account_id)),
            "consents": services.consents.latest_answers(subscriber),
        }
    )


def suspension_resource(found: Suspension) -> dict[str, object]:
    stops = SUSPENSIONS[found.cause]
    return without_none(
        {
            "cause": found.cause,
            "reason": found.reason,
            "began_at": instant(found.began_at),
            "ended_at": instant(found.ended_at),
            "end_reason": found.end_reason,
            "stops": [name for name, stopped in stops._asdict().items() if stopped],
        }
    )


@router.get("/suspensions", summary="Current suspensions, and what each of them stops", **allow(*READERS))
def my_suspensions(
    services: RequestServices, principal: CurrentPrincipal, of: SubscriberReference = None
) -> Response:
    found = services.subscriptions.suspensions(own_subscriber(services, principal, of))
    rows = [suspension_resource(suspension) for suspension in found if suspension.ended_at is None]
    return json_response(rows, headers={"X-Total-Count": str(len(rows))})


class OwnSuspension(StrictBody):
    cause: Literal["own_wish", "lost_phone"]
    state: Literal["suspended", "active"]


@router.patch("/suspensions", summary="Pause the account, report a lost phone, or resume", **allow("owner"))
def suspend_myself(
    body: OwnSuspension,
    services: RequestServices,
    principal: CurrentPrincipal,
    of: SubscriberReference = None,
) -> Response:
    """Pause or resume the account, or report a lost phone. A report of a lost phone ends every session. Only the operator lifts it,
    after checking the person's identity: a thief with the phone would get the codes, too.
    """
    found = own_subscriber(services, principal, of)
    if body.state == "active":
        check_own_lift(body.cause)
    with services.transaction():
        if body.state == "suspended":
            found = services.subscriptions.suspend(found, body.cause, "asked by the subscriber")
        else:
            found = services.subscriptions.lift(found, body.cause, "asked by the subscriber")
        audit(
            services, principal, f"subscriber.{body.state}", found.subscriber_id, None, {"cause": body.cause}
        )
    return json_response(subscriber_resource(services, found))


@router.get("/subscriber", summary="The subscriber, its spending and its limits", **allow(*READERS))
def subscriber(
    request: Request, services: RequestServices, principal: CurrentPrincipal, of: SubscriberReference = None
) -> Response:
    return resource_response(request, subscriber_resource(services, own_subscriber(services, principal, of)))


class SubscriberUpdate(StrictBody):
    """A field that is left out stays as it is. Amounts are decimals of yuan, as strings."""

    name: str | None = Field(default=None, max_length=100)
    language: Literal["zh", "en"] | None = None
    monthly_cap: str | None = Field(default=None, max_length=20)
    spend_locked: bool | None = None
    spill_over: bool | None = None
    # The broadband account number, if none is known yet.
    broadband: str | None = Field(default=None, max_length=32)
    # Regions to which requests may be sent, such as cn or cn-sh; null: any region.
    regions: list[Region] | None = Field(default=None, max_length=100)
    # The subscriber's region, such as cn-sh, so that an edge box nearby may serve it; null: unknown.
    home_region: str | None = Field(default=None, max_length=60)
    # Consents given or withdrawn, by purpose.
    consents: dict[Literal["terms", "marketing", "data_cross_border"], bool] | None = None


@router.patch(
    "/subscriber",
    summary="Set the name, the spending cap, the spending lock, pay as you go",
    **allow(*BUYERS),
)
def update_subscriber(
    request: Request,
    body: SubscriberUpdate,
    services: RequestServices,
    principal: CurrentPrincipal,
    of: SubscriberReference = None,
) -> Response:
    found = own_subscriber(services, principal, of)
    before = subscriber_resource(services, found)
    check_match(request, before)
    with services.transaction():
        cap = None if body.monthly_cap is None else parse_money(body.monthly_cap).amount_nano
        check_control(
            principal.role, found, cap_nano=cap, locked=body.spend_locked, spill_over=body.spill_over, consents=bool(body.consents),
            regions=bool(body.model_fields_set & {"regions", "home_region"}),
        )  # fmt: skip
        services.payg.control(
            found, cap_nano=cap, locked=body.spend_locked, spill_over=body.spill_over, said_by=principal.actor
        )
        for purpose, given in (body.consents or {}).items():
            services.consents.keep(found, purpose, given=given, said_by=principal.actor)
        said = {
            name: getattr(body, name) for name in ("regions", "home_region") if name in body.model_fields_set
        }
        services.subscriptions.set_profile(found, **said)
        fields: dict[str, str | None] = {
            "name": body.name,
            "language": body.language,
            "broadband": body.broadband,
        }
        check_own_broadband(found, body.broadband)
        changed = services.subscriptions.set_profile(
            found, **{k: v for k, v in fields.items() if v is not None}
        )
        after = subscriber_resource(services, changed)
        audit(services, principal, "subscriber.set", found.subscriber_id, before, after)
    return json_response(after)
