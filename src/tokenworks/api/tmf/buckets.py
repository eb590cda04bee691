"""TMF654: balances, windows and caps, and what is left in all."""

from datetime import datetime

from fastapi import APIRouter, Request, Response

from tokenworks.api.tmf.refs import BALANCE, Party, member_ref, party, product_ref, quantity
from tokenworks.charging import Bucket
from tokenworks.kernel import NotFound
from tokenworks.subscriptions import Subscriber
from tokenworks.web.content import shown, when
from tokenworks.web.filters import filtered
from tokenworks.web.lists import Fields, Paged, cut, one
from tokenworks.web.principals import EVERYBODY, Who, allow, as_uuid, mine_only, own
from tokenworks.web.repeats import RepeatableRoute
from tokenworks.web.services import Asked, Services

router = APIRouter(prefix=BALANCE, tags=["TMF654 prepay balance"], route_class=RepeatableRoute)


def bucket_resource(bucket: Bucket, subscriber: Subscriber, now: datetime) -> dict[str, object]:
    ended = bucket.closing is not None or (bucket.valid_until is not None and bucket.valid_until <= now)
    return shown(
        {
            "id": str(bucket.bucket_id),
            "href": f"{BALANCE}/bucket/{bucket.bucket_id}",
            "name": f"{bucket.unit}s" + (f", any {bucket.window_s // 3600} h" if bucket.window_s else ""),
            "description": bucket.kind,
            "isShared": True,
            "remainingValue": quantity(bucket.left, bucket.unit),
            "remainingValueName": f"{bucket.unit}s left",
            "reservedValue": quantity(bucket.granted - bucket.granted_used, bucket.unit),
            "status": "expired" if ended else "active",
            "usageType": "other",
            "validFor": shown(
                {"startDateTime": when(bucket.valid_from), "endDateTime": when(bucket.valid_until)}
            ),
            "logicalResource": None if bucket.cap_of is None else [member_ref(bucket.cap_of)],
            "product": None if bucket.product_id is None else [product_ref(bucket.product_id)],
            "partyAccount": {"id": str(subscriber.account_id), "name": "token account"},
            "relatedParty": party(subscriber.subscriber_id),
            "@type": "Bucket",
        }
    )


@router.get("/bucket", summary="Balances, windows and caps", **allow(*EVERYBODY))
def buckets(request: Request, services: Asked, who: Who, page: Paged, related: Party = None) -> Response:
    subscriber = own(services, who, related)
    now = services.clock.now()
    found = [
        bucket_resource(bucket, subscriber, now) for bucket in services.ledger.buckets(subscriber.account_id)
    ]
    names = ("id", "name", "status", "usageType", "description", "product.id", "partyAccount.id", "validFor.startDateTime", "validFor.endDateTime")  # fmt: skip
    return cut(page, filtered(request, found, names, beside=("relatedParty.id",)))


@router.get("/bucket/{id}", summary="One balance", **allow(*EVERYBODY))
def bucket(
    request: Request,
    services: Asked,
    who: Who,
    id: str,
    fields: Fields = None,
) -> Response:
    found, subscriber = find_bucket(services, who, id)
    return one(request, bucket_resource(found, subscriber, services.clock.now()), fields)


def find_bucket(services: Services, who: Who, id_: str) -> tuple[Bucket, Subscriber]:
    bucket_id = as_uuid(id_, "bucket")
    account_id = services.ledger.account_of_bucket(bucket_id)
    if account_id is None:
        raise NotFound("there is no such bucket")
    subscriber = services.subscriptions.of_account(account_id)
    mine_only(who, subscriber.subscriber_id, "bucket")
    found = next(b for b in services.ledger.buckets(account_id) if b.bucket_id == bucket_id)
    return found, subscriber


def _accumulated(services: Services, subscriber: Subscriber) -> list[dict[str, object]]:
    now = services.clock.now()
    live: dict[str, list[Bucket]] = {}
    for found in services.ledger.buckets(subscriber.account_id):
        if (
            found.kind == "balance"
            and found.closing is None
            and (found.valid_until is None or found.valid_until > now)
        ):
            live.setdefault(found.unit, []).append(found)
    return [
        {
            "id": f"{subscriber.account_id}-{unit}",
            "href": f"{BALANCE}/accumulatedBalance/{subscriber.account_id}-{unit}",
            "name": f"{unit}s left in all",
            "totalBalance": quantity(sum(bucket.left for bucket in found), unit),
            "bucket": [{"id": str(b.bucket_id), "href": f"{BALANCE}/bucket/{b.bucket_id}"} for b in found],
            "partyAccount": {"id": str(subscriber.account_id), "name": "token account"},
            "relatedParty": party(subscriber.subscriber_id),
            "@type": "AccumulatedBalance",
        }
        for unit, found in sorted(live.items())
    ]


@router.get("/accumulatedBalance", summary="What is left in all", **allow(*EVERYBODY))
def accumulated(request: Request, services: Asked, who: Who, page: Paged, related: Party = None) -> Response:
    found = _accumulated(services, own(services, who, related))
    return cut(page, filtered(request, found, ("id", "name"), beside=("relatedParty.id",)))


@router.get("/accumulatedBalance/{id}", summary="What is left of one unit", **allow(*EVERYBODY))
def accumulated_one(request: Request, services: Asked, who: Who, id: str, fields: Fields = None) -> Response:
    account_id = as_uuid(id.rpartition("-")[0], "balance")
    subscriber = services.subscriptions.of_account(account_id)
    mine_only(who, subscriber.subscriber_id, "balance")
    for found in _accumulated(services, subscriber):
        if found["id"] == id:
            return one(request, found, fields)
    raise NotFound("there is no such balance")
