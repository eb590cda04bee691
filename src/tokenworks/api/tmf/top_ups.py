"""TMF654: top-ups, whole steps of pay-as-you-go."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tokenworks.api.tmf.refs import BALANCE, PartyQuery, Quantity, exact_integer, party, product_ref
from tokenworks.kernel import NANO_PER_UNIT, Invalid
from tokenworks.subscriptions import Subscriber, TopUp
from tokenworks.web.bodies import Reference, TmfBody
from tokenworks.web.content import instant, json_response, money
from tokenworks.web.filters import filtered_page
from tokenworks.web.lists import FieldsQuery, PageQuery, resource_response
from tokenworks.web.principals import (
    BUYERS,
    READERS,
    CurrentPrincipal,
    allow,
    as_uuid,
    audit,
    check_approval,
    check_owner,
    subscriber_or_all,
)
from tokenworks.web.repeats import IdempotencyKey, RepeatableRoute
from tokenworks.web.services import RequestServices

router = APIRouter(prefix=BALANCE, tags=["TMF654 prepay balance"], route_class=RepeatableRoute)


class TopupBalanceCreate(TmfBody):
    """A top-up in CNY: a whole number of pay-as-you-go steps, charged to the phone bill."""

    amount: Quantity
    usage_type: Literal["monetary", "voice", "data", "sms", "other"] = Field(alias="usageType")
    bucket: Reference | None = None
    party_account: Reference = Field(alias="partyAccount")


def _topup_resource(made: TopUp, subscriber: Subscriber) -> dict[str, object]:
    return {
        "id": str(made.top_up_id),
        "href": f"{BALANCE}/topupBalance/{made.top_up_id}",
        "status": "completed",
        "amount": {"amount": money(made.amount_nano)["value"], "units": "CNY"},
        "description": f"{made.steps} step(s) of pay-as-you-go, on the phone bill",
        "isAutoTopup": False,
        "requestedDate": instant(made.made_at),
        "confirmationDate": instant(made.made_at),
        "usageType": "other",
        "product": [product_ref(made.product_id)],
        "partyAccount": {"id": str(subscriber.account_id), "name": "token account"},
        "relatedParty": party(subscriber.subscriber_id),
        "@type": "TopupBalance",
    }


@router.get("/topupBalance", summary="Top-ups, newest first", **allow(*READERS))
def top_ups(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    page: PageQuery,
    related: PartyQuery = None,
) -> Response:
    of = subscriber_or_all(services, principal, related)
    return filtered_page(
        request,
        page,
        lambda offset, limit: services.payg.top_ups(of, offset, limit),
        lambda made: _topup_resource(made, of or services.subscriptions.find(str(made.subscriber_id))),
        ("id", "status", "usageType", "requestedDate", "confirmationDate", "product.id", "partyAccount.id"),
        ("relatedParty.id",),
    )


@router.get("/topupBalance/{id}", summary="One top-up", **allow(*READERS))
def top_up_one(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    id: str,
    fields: FieldsQuery = None,
) -> Response:
    made = services.payg.find_top_up(as_uuid(id, "top-up"))
    check_owner(principal, made.subscriber_id, "top-up")
    return resource_response(
        request, _topup_resource(made, services.subscriptions.find(str(made.subscriber_id))), fields
    )


@router.post("/topupBalance", status_code=201, summary="Buy pay-as-you-go steps", **allow(*BUYERS))
def top_up(
    body: TopupBalanceCreate, services: RequestServices, principal: CurrentPrincipal, key: IdempotencyKey
) -> Response:
    if body.amount.units != "CNY":
        raise Invalid("amount: a top-up is in CNY")
    subscriber = services.subscriptions.of_account(as_uuid(body.party_account.id, "account"))
    check_owner(principal, subscriber.subscriber_id, "account")
    amount_nano = exact_integer(body.amount.amount * NANO_PER_UNIT)
    with services.transaction():
        made = services.payg.top_up(subscriber, amount_nano, key)
        if principal.is_staff:
            check_approval(services, principal, "balance.topup", subscriber.subscriber_id, amount_nano, key)
        audit(services, principal, "balance.topup", made.top_up_id, None, {"amount_nano": amount_nano})
    return json_response(_topup_resource(made, subscriber), 201)
