"""TMF654: balances, windows and caps, and the totals by unit."""

from datetime import datetime

from fastapi import APIRouter, Request, Response

from tokenworks.api.tmf.refs import BALANCE, PartyQuery, member_ref, party, product_ref, quantity
from tokenworks.charging import Bucket
from tokenworks.kernel import NotFound
from tokenworks.subscriptions import Subscriber
from tokenworks.web.content import instant, without_none
from tokenworks.web.filters import apply_filters
from tokenworks.web.lists import FieldsQuery, PageQuery, paginate, resource_response
from tokenworks.web.principals import ALL_ROLES, CurrentPrincipal, allow, as_uuid, check_owner, own_subscriber
from tokenworks.web.repeats import RepeatableRoute
from tokenworks.web.services import RequestServices, Services

router = APIRouter(prefix=BALANCE, tags=["TMF654 prepay balance"], route_class=RepeatableRoute)


def bucket_resource(bucket: Bucket, subscriber: Subscriber, now: datetime) -> dict[str, object]:
    ended = bucket.closing is not None or (bucket.valid_until is not None and bucket.valid_until <= now)
    return without_none(
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
            "validFor": without_none(
                {"startDateTime": instant(bucket.valid_from), "endDateTime": instant(bucket.valid_until)}
            ),
            "logicalResource": None if bucket.cap_of is None else [member_ref(bucket.cap_of)],
            "product": None if bucket.product_id is None else [product_ref(bucket.product_id)],
            "partyAccount": {"id": str(subscriber.account_id), "name": "token account"},
            "relatedParty": party(subscriber.subscriber_id),
            "@type": "Bucket",
        }
    )


@router.get("/bucket", summary="Balances, windows and caps", **allow(*ALL_ROLES))
def buckets(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    page: PageQuery,
    related: PartyQuery = None,
) -> Response:
    subscriber = own_subscriber(services, principal, related)
    now = services.clock.now()
    found = [
        bucket_resource(bucket, subscriber, now) for bucket in services.ledger.buckets(subscriber.account_id)
    ]
    names = ("id", "name", "status", "usageType", "description", "product.id", "partyAccount.id", "validFor.startDateTime", "validFor.endDateTime")  # fmt: skip
    return paginate(page, apply_filters(request, found, names, ignored=("relatedParty.id",)))


@router.get("/bucket/{id}", summary="One balance", **allow(*ALL_ROLES))
def bucket(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    id: str,
    fields: FieldsQuery = None,
) -> Response:
    found, subscriber = find_bucket(services, principal, id)
    return resource_response(request, bucket_resource(found, subscriber, services.clock.now()), fields)


def find_bucket(services: Services, principal: CurrentPrincipal, id_: str) -> tuple[Bucket, Subscriber]:
    bucket_id = as_uuid(id_, "bucket")
    account_id = services.ledger.account_of_bucket(bucket_id)
    if account_id is None:
        raise NotFound("there is no such bucket")
    subscriber = services.subscriptions.of_account(account_id)
    check_owner(principal, subscriber.subscriber_id, "bucket")
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


@router.get("/accumulatedBalance", summary="Balances by unit", **allow(*ALL_ROLES))
def accumulated(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    page: PageQuery,
    related: PartyQuery = None,
) -> Response:
    found = _accumulated(services, own_subscriber(services, principal, related))
    return paginate(page, apply_filters(request, found, ("id", "name"), ignored=("relatedParty.id",)))


@router.get("/accumulatedBalance/{id}", summary="The balance of one unit", **allow(*ALL_ROLES))
def accumulated_one(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    id: str,
    fields: FieldsQuery = None,
) -> Response:
    account_id = as_uuid(id.rpartition("-")[0], "balance")
    subscriber = services.subscriptions.of_account(account_id)
    check_owner(principal, subscriber.subscriber_id, "balance")
    for found in _accumulated(services, subscriber):
        if found["id"] == id:
            return resource_response(request, found, fields)
    raise NotFound("there is no such balance")
