"""TMF654: top-ups, whole steps of pay-as-you-go."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tokenworks.api.tmf.refs import BALANCE, Party, _Quantity, exact, party, product_ref
from tokenworks.kernel import NANO_PER_UNIT, Invalid
from tokenworks.subscriptions import Subscriber, TopUp
from tokenworks.web.bodies import Loose, Ref
from tokenworks.web.content import answer, money, when
from tokenworks.web.filters import narrowed
from tokenworks.web.lists import Fields, Paged, one
from tokenworks.web.principals import (
    BUYERS,
    READERS,
    Who,
    allow,
    as_uuid,
    audit,
    mine_only,
    two_persons,
    whose,
)
from tokenworks.web.repeats import IdempotencyKey, RepeatableRoute
from tokenworks.web.services import Asked

router = APIRouter(prefix=BALANCE, tags=["TMF654 prepay balance"], route_class=RepeatableRoute)


class TopupBalanceCreate(Loose):
    """A top-up in CNY: a whole number of pay-as-you-go steps, on the phone bill."""

    amount: _Quantity
    usage_type: Literal["monetary", "voice", "data", "sms", "other"] = Field(alias="usageType")
    bucket: Ref | None = None
    party_account: Ref = Field(alias="partyAccount")


def _topup_resource(made: TopUp, subscriber: Subscriber) -> dict[str, object]:
    return {
        "id": str(made.top_up_id),
        "href": f"{BALANCE}/topupBalance/{made.top_up_id}",
        "status": "completed",
        "amount": {"amount": money(made.amount_nano)["value"], "units": "CNY"},
        "description": f"{made.steps} step(s) of pay-as-you-go, on the phone bill",
        "isAutoTopup": False,
        "requestedDate": when(made.made_at),
        "confirmationDate": when(made.made_at),
        "usageType": "other",
        "product": [product_ref(made.product_id)],
        "partyAccount": {"id": str(subscriber.account_id), "name": "token account"},
        "relatedParty": party(subscriber.subscriber_id),
        "@type": "TopupBalance",
    }


@router.get("/topupBalance", summary="Top-ups, newest first", **allow(*READERS))
def top_ups(request: Request, services: Asked, who: Who, page: Paged, related: Party = None) -> Response:
    of = whose(services, who, related)
    return narrowed(
        request,
        page,
        lambda offset, limit: services.payg.top_ups(of, offset, limit),
        lambda made: _topup_resource(made, of or services.subscriptions.find(str(made.subscriber_id))),
        ("id", "status", "usageType", "requestedDate", "confirmationDate", "product.id", "partyAccount.id"),
        ("relatedParty.id",),
    )


@router.get("/topupBalance/{id}", summary="One top-up", **allow(*READERS))
def top_up_one(request: Request, services: Asked, who: Who, id: str, fields: Fields = None) -> Response:
    made = services.payg.find_top_up(as_uuid(id, "top-up"))
    mine_only(who, made.subscriber_id, "top-up")
    return one(request, _topup_resource(made, services.subscriptions.find(str(made.subscriber_id))), fields)


@router.post("/topupBalance", status_code=201, summary="Buy pay-as-you-go steps", **allow(*BUYERS))
def top_up(body: TopupBalanceCreate, services: Asked, who: Who, key: IdempotencyKey) -> Response:
    if body.amount.units != "CNY":
        raise Invalid("amount: a top-up is in CNY")
    subscriber = services.subscriptions.of_account(as_uuid(body.party_account.id, "account"))
    mine_only(who, subscriber.subscriber_id, "account")
    amount_nano = exact(body.amount.amount * NANO_PER_UNIT)
    with services.transaction():
        made = services.payg.top_up(subscriber, amount_nano, key)
        if who.is_staff:
            two_persons(services, who, "balance.topup", subscriber.subscriber_id, amount_nano, key)
        audit(services, who, "balance.topup", made.top_up_id, None, {"amount_nano": amount_nano})
    return answer(_topup_resource(made, subscriber), 201)
