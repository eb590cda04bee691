"""TMF654: a part of a member's cap that goes to another member."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tokenworks.api.tmf.buckets import find_bucket
from tokenworks.api.tmf.refs import BALANCE, Party, _Quantity, bucket_ref, exact, member_ref, party, quantity
from tokenworks.charging import Transfer
from tokenworks.kernel import Invalid, NotFound
from tokenworks.subscriptions import Member, Subscriber
from tokenworks.web.bodies import Loose, Ref
from tokenworks.web.content import answer, when
from tokenworks.web.filters import filtered
from tokenworks.web.lists import Fields, Paged, cut, one
from tokenworks.web.principals import BUYERS, EVERYBODY, Who, allow, as_uuid, audit, mine_only, own
from tokenworks.web.repeats import IdempotencyKey, RepeatableRoute
from tokenworks.web.services import Asked, Services

router = APIRouter(prefix=BALANCE, tags=["TMF654 prepay balance"], route_class=RepeatableRoute)


class TransferBalanceCreate(Loose):
    """So many tokens of one member's cap to another's. `bucket` and `receiverBucket` name the caps' buckets, or the members
    (by their ids) whose caps of now are meant.
    """

    amount: _Quantity
    usage_type: Literal["monetary", "voice", "data", "sms", "other"] = Field(alias="usageType")
    bucket: Ref
    receiver_bucket: Ref = Field(alias="receiverBucket")
    reason: str = Field(min_length=1, max_length=200)


def _transfer_resource(made: Transfer, subscriber: Subscriber) -> dict[str, object]:
    return {
        "id": str(made.transfer_id),
        "href": f"{BALANCE}/transferBalance/{made.transfer_id}",
        "status": "completed",
        "amount": quantity(made.amount, "token"),
        "reason": made.reason,
        "requestedDate": when(made.made_at),
        "confirmationDate": when(made.made_at),
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


def _member_of(services: Services, who: Who, reference: str) -> Member:
    """Whose cap it is: by the cap's bucket, or by the member's own id."""
    id_ = as_uuid(reference, "bucket")
    member = services.members.by_id(id_)
    if member is None:
        found, _ = find_bucket(services, who, reference)
        if found.cap_of is None:
            raise Invalid("bucket: a transfer is between the caps of members")
        member = services.members.by_id(found.cap_of)
    if member is None:
        raise NotFound("there is no such bucket")
    mine_only(who, member.subscriber_id, "bucket")
    return member


@router.get("/transferBalance", summary="Transfers between members, newest first", **allow(*EVERYBODY))
def transfers(request: Request, services: Asked, who: Who, page: Paged, related: Party = None) -> Response:
    subscriber = own(services, who, related)
    found = [
        _transfer_resource(made, subscriber)
        for made in services.transfers.of_account(subscriber.account_id)
        if _may_see(who, made)
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
    return cut(page, filtered(request, found, names, beside=("relatedParty.id",)))


def _may_see(who: Who, made: Transfer) -> bool:
    """A member sees what it gave and got."""
    return who.role != "member" or who.member_id in {made.from_member_id, made.to_member_id}


@router.get("/transferBalance/{id}", summary="One transfer", **allow(*EVERYBODY))
def transfer_one(request: Request, services: Asked, who: Who, id: str, fields: Fields = None) -> Response:
    made = services.transfers.find(as_uuid(id, "transfer"))
    subscriber = services.subscriptions.of_account(made.account_id)
    mine_only(who, subscriber.subscriber_id, "transfer")
    if not _may_see(who, made):
        raise NotFound("there is no such transfer")
    return one(request, _transfer_resource(made, subscriber), fields)


@router.post(
    "/transferBalance",
    status_code=201,
    summary="Give another member a part of a cap; a member gives of its own",
    **allow(*BUYERS, "member"),
)
def transfer(body: TransferBalanceCreate, services: Asked, who: Who, key: IdempotencyKey) -> Response:
    if body.amount.units != "token":
        raise Invalid("amount: a transfer is in token")
    tokens = exact(body.amount.amount)
    giver = _member_of(services, who, body.bucket.id)
    if who.role == "member" and giver.member_id != who.member_id:
        raise NotFound("there is no such bucket")
    taker = _member_of(services, who, body.receiver_bucket.id)
    subscriber = services.subscriptions.find(str(giver.subscriber_id))
    made = services.members.transfer(
        subscriber, giver, taker, tokens, body.reason, made_by=who.actor, idempotency_key=key
    )
    audit(services, who, "balance.transfer", made.transfer_id, None, {"tokens": tokens})
    return answer(_transfer_resource(made, subscriber), 201)
