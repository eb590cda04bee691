"""TMF654: transfers of a part of a member's cap to another member."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tokenworks.api.tmf.buckets import find_bucket
from tokenworks.api.tmf.refs import (
    BALANCE,
    PartyQuery,
    Quantity,
    bucket_ref,
    exact_integer,
    member_ref,
    party,
    quantity,
)
from tokenworks.charging import Transfer
from tokenworks.kernel import Invalid, NotFound
from tokenworks.subscriptions import Member, Subscriber
from tokenworks.web.bodies import Reference, TmfBody
from tokenworks.web.content import instant, json_response
from tokenworks.web.filters import apply_filters
from tokenworks.web.lists import FieldsQuery, PageQuery, paginate, resource_response
from tokenworks.web.principals import (
    ALL_ROLES,
    BUYERS,
    CurrentPrincipal,
    allow,
    as_uuid,
    audit,
    check_owner,
    own_subscriber,
)
from tokenworks.web.repeats import IdempotencyKey, RepeatableRoute
from tokenworks.web.services import RequestServices, Services

router = APIRouter(prefix=BALANCE, tags=["TMF654 prepay balance"], route_class=RepeatableRoute)


class TransferBalanceCreate(TmfBody):
    """Transfer tokens from one member's cap to another's. `bucket` and `receiverBucket` are ids of the caps' buckets, or of the
    members, whose current caps are then used.
    """

    amount: Quantity
    usage_type: Literal["monetary", "voice", "data", "sms", "other"] = Field(alias="usageType")
    bucket: Reference
    receiver_bucket: Reference = Field(alias="receiverBucket")
    reason: str = Field(min_length=1, max_length=200)


def _transfer_resource(made: Transfer, subscriber: Subscriber) -> dict[str, object]:
    return {
        "id": str(made.transfer_id),
        "href": f"{BALANCE}/transferBalance/{made.transfer_id}",
        "status": "completed",
        "amount": quantity(made.amount, "token"),
        "reason": made.reason,
        "requestedDate": instant(made.made_at),
        "confirmationDate": instant(made.made_at),
        "usageType": "other",
        "receiverBucketUsageType": "other",
        "bucket": bucket_ref(made.from_bucket_id),
        "receiverBucket": bucket_ref(made.to_bucket_id),
        "logicalResource": [member_ref(made.from_member_id)],
        "receiverLogicalResource": member_ref(made.to_member_id),
        "channel": {"id": "api", "name": "API"},
        "requestor": {"id": made.made_by, "@referredType": "Individual"},
        "partyAccount": {"id": str(subscriber.account_id), "name": "token account"},
        "relatedParty": party(subscriber.subscriber_id),
        "@type": "TransferBalance",
    }


def _member_of(services: Services, principal: CurrentPrincipal, reference: str) -> Member:
    """The member with a cap, by the id of the cap's bucket or of the member."""
    id_ = as_uuid(reference, "bucket")
    member = services.members.by_id(id_)
    if member is None:
        found, _ = find_bucket(services, principal, reference)
        if found.cap_of is None:
            raise Invalid("bucket: a transfer is between the caps of members")
        member = services.members.by_id(found.cap_of)
    if member is None:
        raise NotFound("there is no such bucket")
    check_owner(principal, member.subscriber_id, "bucket")
    return member


@router.get("/transferBalance", summary="Transfers between members, newest first", **allow(*ALL_ROLES))
def transfers(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    page: PageQuery,
    related: PartyQuery = None,
) -> Response:
    subscriber = own_subscriber(services, principal, related)
    found = [
        _transfer_resource(made, subscriber)
        for made in services.transfers.of_account(subscriber.account_id)
        if _may_see(principal, made)
    ]
    names = (
        "id",
        "status",
        "bucket.id",
        "receiverBucket.id",
        "requestor.id",
        "requestedDate",
        "confirmationDate",
    )
    return paginate(page, apply_filters(request, found, names, ignored=("relatedParty.id",)))


def _may_see(principal: CurrentPrincipal, made: Transfer) -> bool:
    """True if the principal may see the transfer: a member sees those that it gave or received."""
    return principal.role != "member" or principal.member_id in {made.from_member_id, made.to_member_id}


@router.get("/transferBalance/{id}", summary="One transfer", **allow(*ALL_ROLES))
def transfer_one(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    id: str,
    fields: FieldsQuery = None,
) -> Response:
    made = services.transfers.find(as_uuid(id, "transfer"))
    subscriber = services.subscriptions.of_account(made.account_id)
    check_owner(principal, subscriber.subscriber_id, "transfer")
    if not _may_see(principal, made):
        raise NotFound("there is no such transfer")
    return resource_response(request, _transfer_resource(made, subscriber), fields)


@router.post(
    "/transferBalance",
    status_code=201,
    summary="Transfer a part of a member's cap to another member; a member transfers only its own",
    **allow(*BUYERS, "member"),
)
def transfer(
    body: TransferBalanceCreate, services: RequestServices, principal: CurrentPrincipal, key: IdempotencyKey
) -> Response:
    if body.amount.units != "token":
        raise Invalid("amount: a transfer is in token")
    tokens = exact_integer(body.amount.amount)
    giver = _member_of(services, principal, body.bucket.id)
    if principal.role == "member" and giver.member_id != principal.member_id:
        raise NotFound("there is no such bucket")
    taker = _member_of(services, principal, body.receiver_bucket.id)
    subscriber = services.subscriptions.find(str(giver.subscriber_id))
    made = services.members.transfer(
        subscriber, giver, taker, tokens, body.reason, made_by=principal.actor, idempotency_key=key
    )
    audit(services, principal, "balance.transfer", made.transfer_id, None, {"tokens": tokens})
    return json_response(_transfer_resource(made, subscriber), 201)
