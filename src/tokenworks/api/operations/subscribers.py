"""Routes for staff about subscribers: registration, suspension, closing, identity, contract prices."""

from typing import Annotated, Literal

from fastapi import APIRouter, Response
from pydantic import Field

from tokenworks.api.account.subscriber import subscriber_resource, suspension_resource
from tokenworks.billing import discount_nano
from tokenworks.kernel import Invalid
from tokenworks.subscriptions import ContractPrice, parse_phone
from tokenworks.trust import Document
from tokenworks.web.bodies import Instant, StrictBody
from tokenworks.web.content import exact_amount, instant, json_response, without_none
from tokenworks.web.principals import ALL_STAFF, CurrentPrincipal, allow, as_uuid, audit, check_approval
from tokenworks.web.services import RequestServices

router = APIRouter(prefix="/api/operations", tags=["operations"])


class SubscriberCreate(StrictBody):
    phone: str = Field(max_length=32)
    name: str | None = Field(default=None, max_length=100)
    audiences: list[Annotated[str, Field(max_length=32)]] | None = Field(default=None, max_length=7)
    language: Literal["zh", "en"] = "zh"
    broadband: str | None = Field(default=None, max_length=32)
    bill_day: int = Field(default=1, ge=1, le=28)


@router.post("/subscribers", status_code=201, summary="Register a subscriber", **allow("operator"))
def register(body: SubscriberCreate, services: RequestServices, principal: CurrentPrincipal) -> Response:
    with services.transaction():
        made = services.subscriptions.register(
            parse_phone(body.phone), body.name, audiences=body.audiences, language=body.language, broadband=body.broadband,
            bill_day=body.bill_day,
        )  # fmt: skip
        audit(
            services, principal, "subscriber.register", made.subscriber_id, None, {"phone": made.phone_masked}
        )
    return json_response(subscriber_resource(services, made), 201)


class SubscriberAction(StrictBody):
    """`cause` is for suspend and resume: each cause is lifted on its own. Only dunning suspends with the cause `payment`."""

    action: Literal["suspend", "resume", "close", "change_phone", "change_owner"]
    cause: Literal["operator", "fraud", "lost_phone", "own_wish"] = "operator"
    phone: str | None = Field(default=None, max_length=32)
    # The new owner's name, for `change_owner`.
    name: str | None = Field(default=None, max_length=100)
    reason: str = Field(min_length=1, max_length=200)


@router.post(
    "/subscribers/{id}/actions",
    summary="Suspend, resume or close a subscriber, or change its phone number or the owner of the number",
    **allow("operator"),
)
def act(body: SubscriberAction, services: RequestServices, principal: CurrentPrincipal, id: str) -> Response:
    found = services.subscriptions.find(str(as_uuid(id, "subscriber")))
    before = subscriber_resource(services, found)
    with services.transaction():
        if body.action == "close":
            services.subscriptions.close(found)
        elif body.action == "change_owner":
            # The debt stays with the old owner's account, which is closed. The response shows that account.
            services.subscriptions.change_owner(found, body.name)
        elif body.action == "change_phone":
            if body.phone is None:
                raise Invalid("phone: say the new number")
            services.subscriptions.change_phone(found, body.phone)
        elif body.action == "suspend":
            services.subscriptions.suspend(found, body.cause, body.reason)
        else:
            services.subscriptions.lift(found, body.cause, body.reason)
        after = subscriber_resource(services, services.subscriptions.find(str(found.subscriber_id)))
        audit(
            services,
            principal,
            f"subscriber.{body.action}",
            found.subscriber_id,
            before,
            {**after, "reason": body.reason},
        )
    return json_response(after)


@router.get(
    "/subscribers/{id}/suspensions",
    summary="A subscriber's suspensions, with their times",
    **allow(*ALL_STAFF),
)
def suspensions(services: RequestServices, id: str) -> Response:
    found = services.subscriptions.find(str(as_uuid(id, "subscriber")))
    rows = [suspension_resource(suspension) for suspension in services.subscriptions.suspensions(found)]
    return json_response(rows, headers={"X-Total-Count": str(len(rows))})


class Identification(StrictBody):
    """A subscriber's identity document. Only a keyed hash of its number is kept, which tells persons apart and nothing else."""

    document: Document = "resident_id"
    number: str = Field(min_length=5, max_length=64)


@router.put(
    "/subscribers/{id}/identity",
    status_code=204,
    summary="Keep a subscriber's identity document",
    **allow("operator"),
)
def identify(
    body: Identification, services: RequestServices, principal: CurrentPrincipal, id: str
) -> Response:
    found = services.subscriptions.find(str(as_uuid(id, "subscriber")))
    with services.transaction():
        services.subscriptions.identify(found, body.document, body.number)
        audit(
            services, principal, "subscriber.identify", found.subscriber_id, None, {"document": body.document}
        )
    return Response(status_code=204)


class ContractPriceCreate(StrictBody):
    """A contract price, in yuan with VAT, a decimal as a string. Charges that exist already stay as they are."""

    offering: str = Field(min_length=1, max_length=64)
    price: str = Field(max_length=20)
    contract: str = Field(min_length=1, max_length=100)
    valid_from: Instant | None = None
    valid_until: Instant | None = None


def _contract_price(price: ContractPrice) -> dict[str, object]:
    return without_none(
        {
            "offering": price.offering_id,
            "price": exact_amount(price.price_nano),
            "contract": price.contract,
            "valid_from": instant(price.valid_from),
            "valid_until": instant(price.valid_until),
        }
    )


@router.get(
    "/subscribers/{id}/contract-prices", summary="A subscriber's contract prices", **allow(*ALL_STAFF)
)
def contract_prices(services: RequestServices, id: str) -> Response:
    found = services.subscriptions.find(str(as_uuid(id, "subscriber")))
    rows = [_contract_price(price) for price in services.subscriptions.contract_prices(found)]
    return json_response(rows, headers={"X-Total-Count": str(len(rows))})


@router.post(
    "/subscribers/{id}/contract-prices",
    status_code=201,
    summary="Agree a contract price with a subscriber",
    **allow("operator"),
)
def set_contract_price(
    body: ContractPriceCreate, services: RequestServices, principal: CurrentPrincipal, id: str
) -> Response:
    found = services.subscriptions.find(str(as_uuid(id, "subscriber")))
    with services.transaction():
        before = [_contract_price(price) for price in services.subscriptions.contract_prices(found)]
        services.subscriptions.set_contract_price(
            found, body.offering, body.price, body.contract, body.valid_from, body.valid_until
        )
        given = discount_nano(services.offerings, body.offering, body.price)
        check_approval(
            services,
            principal,
            "subscriber.contract",
            f"{found.subscriber_id} {body.offering}",
            given,
            body.contract,
        )
        after = [_contract_price(price) for price in services.subscriptions.contract_prices(found)]
        audit(services, principal, "subscriber.contract", found.subscriber_id, before, after)
    return json_response(after, 201)
