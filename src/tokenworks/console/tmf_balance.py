"""TMF654 prepay balance and TMF635 usage."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from starlette.responses import StreamingResponse

from tokenworks.charging import PER_UNIT, Adjustment, BalanceMove, Bucket, Transfer
from tokenworks.console.focus import focus_pieces
from tokenworks.console.tmf_orders import Party, party, product_ref
from tokenworks.console.urls import links
from tokenworks.console.web import (
    ALL_STAFF,
    BUYERS,
    EVERYBODY,
    READERS,
    Asked,
    Fields,
    IdempotencyKey,
    Instant,
    Loose,
    Number,
    OutOfRange,
    Paged,
    Ref,
    RepeatableRoute,
    Rooms,
    Who,
    allow,
    answer,
    as_uuid,
    audit,
    cut,
    filtered,
    mine_only,
    money,
    narrowed,
    one,
    only_filters,
    own,
    pick,
    shown,
    two_persons,
    when,
    whose,
)
from tokenworks.kernel import NANO_PER_UNIT, Invalid, NotFound
from tokenworks.subscriptions import Member, Subscriber, TopUp

BALANCE: Final = "/tmf-api/prepayBalanceManagement/v4"
USAGE: Final = "/tmf-api/usageManagement/v4"
balance_router = APIRouter(prefix=BALANCE, tags=["TMF654 prepay balance"], route_class=RepeatableRoute)
usage_router = APIRouter(prefix=USAGE, tags=["TMF635 usage"], route_class=RepeatableRoute)
_SPECIFICATION: Final = {
    "id": "tokens",
    "href": f"{USAGE}/usageSpecification/tokens",
    "name": "Tokens of one attempt, by class",
}
_CHARACTERISTICS: Final = (
    "protocol", "model", "deployment", "state", "reason", "counted_by", "fresh_input", "cached_input", "cache_write",
    "cache_write_1h", "audio_input", "output", "reasoning", "audio_output", "provider_total", "first_byte_ms", "latency_ms",
    "request_id", "member_id", "key_id",
)  # fmt: skip
USAGE_SHOWN_MAX: Final = 1000


def quantity(amount: int, unit: str) -> dict[str, object]:
    """Thousandths of a unit as a TMF Quantity, exactly."""
    whole, rest = divmod(amount, PER_UNIT)
    return {"amount": Decimal(f"{whole}.{rest:03d}") if rest else whole, "units": unit}


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
            "logicalResource": None if bucket.cap_of is None else [_member_ref(bucket.cap_of)],
            "product": None if bucket.product_id is None else [product_ref(bucket.product_id)],
            "partyAccount": {"id": str(subscriber.account_id), "name": "token account"},
            "relatedParty": party(subscriber.subscriber_id),
            "@type": "Bucket",
        }
    )


@balance_router.get("/bucket", summary="Balances, windows and caps", **allow(*EVERYBODY))
def buckets(request: Request, rooms: Asked, who: Who, page: Paged, related: Party = None) -> Response:
    subscriber = own(rooms, who, related)
    now = rooms.clock.now()
    found = [
        bucket_resource(bucket, subscriber, now) for bucket in rooms.ledger.buckets(subscriber.account_id)
    ]
    names = ("id", "name", "status", "usageType", "description", "product.id", "partyAccount.id", "validFor.startDateTime", "validFor.endDateTime")  # fmt: skip
    return cut(page, filtered(request, found, names, beside=("relatedParty.id",)))


@balance_router.get("/bucket/{id}", summary="One balance", **allow(*EVERYBODY))
def bucket(
    request: Request,
    rooms: Asked,
    who: Who,
    id: str,
    fields: Fields = None,
) -> Response:
    found, subscriber = _bucket(rooms, who, id)
    return one(request, bucket_resource(found, subscriber, rooms.clock.now()), fields)


def _bucket(rooms: Rooms, who: Who, id_: str) -> tuple[Bucket, Subscriber]:
    bucket_id = as_uuid(id_, "bucket")
    account_id = rooms.ledger.account_of_bucket(bucket_id)
    if account_id is None:
        raise NotFound("there is no such bucket")
    subscriber = rooms.subscriptions.of_account(account_id)
    mine_only(who, subscriber.subscriber_id, "bucket")
    found = next(b for b in rooms.ledger.buckets(account_id) if b.bucket_id == bucket_id)
    return found, subscriber


def _accumulated(rooms: Rooms, subscriber: Subscriber) -> list[dict[str, object]]:
    now = rooms.clock.now()
    live: dict[str, list[Bucket]] = {}
    for found in rooms.ledger.buckets(subscriber.account_id):
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


@balance_router.get("/accumulatedBalance", summary="What is left in all", **allow(*EVERYBODY))
def accumulated(request: Request, rooms: Asked, who: Who, page: Paged, related: Party = None) -> Response:
    found = _accumulated(rooms, own(rooms, who, related))
    return cut(page, filtered(request, found, ("id", "name"), beside=("relatedParty.id",)))


@balance_router.get("/accumulatedBalance/{id}", summary="What is left of one unit", **allow(*EVERYBODY))
def accumulated_one(request: Request, rooms: Asked, who: Who, id: str, fields: Fields = None) -> Response:
    account_id = as_uuid(id.rpartition("-")[0], "balance")
    subscriber = rooms.subscriptions.of_account(account_id)
    mine_only(who, subscriber.subscriber_id, "balance")
    for found in _accumulated(rooms, subscriber):
        if found["id"] == id:
            return one(request, found, fields)
    raise NotFound("there is no such balance")


class _Quantity(Loose):
    amount: Number = Field(max_digits=24, decimal_places=9)
    units: str = Field(max_length=20)


class TopupBalanceCreate(Loose):
    """A top-up in CNY: a whole number of pay-as-you-go steps, on the phone bill."""

    amount: _Quantity
    usage_type: Literal["monetary", "voice", "data", "sms", "other"] = Field(alias="usageType")
    bucket: Ref | None = None
    party_account: Ref = Field(alias="partyAccount")


class AdjustBalanceCreate(Loose):
    """So much of a bucket's unit more, or (below zero) less. Another person decides."""

    amount: _Quantity
    usage_type: Literal["monetary", "voice", "data", "sms", "other"] = Field(alias="usageType")
    bucket: Ref
    reason: str = Field(min_length=1, max_length=200)


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


@balance_router.get("/topupBalance", summary="Top-ups, newest first", **allow(*READERS))
def top_ups(request: Request, rooms: Asked, who: Who, page: Paged, related: Party = None) -> Response:
    of = whose(rooms, who, related)
    return narrowed(
        request,
        page,
        lambda offset, limit: rooms.payg.top_ups(of, offset, limit),
        lambda made: _topup_resource(made, of or rooms.subscriptions.find(str(made.subscriber_id))),
        ("id", "status", "usageType", "requestedDate", "confirmationDate", "product.id", "partyAccount.id"),
        ("relatedParty.id",),
    )


@balance_router.get("/topupBalance/{id}", summary="One top-up", **allow(*READERS))
def top_up_one(request: Request, rooms: Asked, who: Who, id: str, fields: Fields = None) -> Response:
    made = rooms.payg.find_top_up(as_uuid(id, "top-up"))
    mine_only(who, made.subscriber_id, "top-up")
    return one(request, _topup_resource(made, rooms.subscriptions.find(str(made.subscriber_id))), fields)


@balance_router.post("/topupBalance", status_code=201, summary="Buy pay-as-you-go steps", **allow(*BUYERS))
def top_up(body: TopupBalanceCreate, rooms: Asked, who: Who, key: IdempotencyKey) -> Response:
    if body.amount.units != "CNY":
        raise Invalid("amount: a top-up is in CNY")
    subscriber = rooms.subscriptions.of_account(as_uuid(body.party_account.id, "account"))
    mine_only(who, subscriber.subscriber_id, "account")
    amount_nano = _exact(body.amount.amount * NANO_PER_UNIT)
    with rooms.connection.transaction():
        made = rooms.payg.top_up(subscriber, amount_nano, key)
        if who.is_staff:
            two_persons(rooms, who, "balance.topup", subscriber.subscriber_id, amount_nano, key)
        audit(rooms, who, "balance.topup", made.top_up_id, None, {"amount_nano": amount_nano})
    return answer(_topup_resource(made, subscriber), 201)


def _exact(value: Decimal) -> int:
    whole = int(value)
    if whole != value:
        raise Invalid("amount: that is finer than anything that is counted")
    return whole


def _adjustment_resource(made: Adjustment) -> dict[str, object]:
    sign = -1 if made.amount < 0 else 1
    amount = quantity(abs(made.amount), made.unit)
    return shown(
        {
            "id": str(made.adjustment_id),
            "href": f"{BALANCE}/adjustBalance/{made.adjustment_id}",
            "status": {"asked": "created", "done": "completed", "refused": "cancelled"}[made.state],
            "adjustType": "oneTime",
            "amount": {**amount, "amount": sign * amount["amount"]},  # type: ignore[operator]
            "reason": made.reason,
            "requestedDate": when(made.asked_at),
            "confirmationDate": when(made.decided_at),
            "usageType": "other",
            "bucket": {"id": str(made.bucket_id), "href": f"{BALANCE}/bucket/{made.bucket_id}"},
            "requestor": {"id": made.asked_by, "role": "operator", "@referredType": "Individual"},
            "@type": "AdjustBalance",
        }
    )


@balance_router.get("/adjustBalance", summary="Adjustments, newest first", **allow(*ALL_STAFF))
def adjustments(request: Request, rooms: Asked, page: Paged) -> Response:
    found = [_adjustment_resource(made) for made in rooms.adjustments.all()]
    names = ("id", "status", "bucket.id", "requestor.id", "requestedDate", "confirmationDate", "usageType")
    return cut(page, filtered(request, found, names))


@balance_router.get("/adjustBalance/{id}", summary="One adjustment", **allow(*ALL_STAFF))
def adjustment(request: Request, rooms: Asked, id: str, fields: Fields = None) -> Response:
    return one(request, _adjustment_resource(rooms.adjustments.find(as_uuid(id, "adjustment"))), fields)


@balance_router.post(
    "/adjustBalance", status_code=201, summary="Ask for an adjustment", **allow("operator", "finance")
)
def adjust(body: AdjustBalanceCreate, rooms: Asked, who: Who, key: IdempotencyKey) -> Response:
    found, _ = _bucket(rooms, who, body.bucket.id)
    if body.amount.units != found.unit:
        raise Invalid(f"amount: this bucket is counted in {found.unit}")
    with rooms.connection.transaction():
        made = rooms.adjustments.ask(
            found.bucket_id, _exact(body.amount.amount * PER_UNIT), body.reason, who.name, key
        )
        audit(
            rooms, who, "balance.adjust", made.adjustment_id, None, {"amount": made.amount, "unit": made.unit}
        )
    return answer(_adjustment_resource(made), 201)


class AdjustBalanceUpdate(Loose):
    status: Literal["completed", "cancelled"]


@balance_router.patch(
    "/adjustBalance/{id}", summary="The second person decides", **allow("operator", "finance")
)
def decide_adjustment(body: AdjustBalanceUpdate, rooms: Asked, who: Who, id: str) -> Response:
    with rooms.connection.transaction():
        made = rooms.adjustments.decide(as_uuid(id, "adjustment"), who.name, do=body.status == "completed")
        audit(
            rooms, who, "balance.adjust.decide", made.adjustment_id, {"state": "asked"}, {"state": made.state}
        )
    return answer(_adjustment_resource(made))


# Between members.


class TransferBalanceCreate(Loose):
    """So many tokens of one member's cap to another's. `bucket` and `receiverBucket` name the caps' buckets, or the members
    (by their ids) whose caps of now are meant.
    """

    amount: _Quantity
    usage_type: Literal["monetary", "voice", "data", "sms", "other"] = Field(alias="usageType")
    bucket: Ref
    receiver_bucket: Ref = Field(alias="receiverBucket")
    reason: str = Field(min_length=1, max_length=200)


def _bucket_ref(bucket_id: object) -> dict[str, object]:
    return {"id": str(bucket_id), "href": f"{BALANCE}/bucket/{bucket_id}"}


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
        "bucket": _bucket_ref(made.from_bucket_id),
        "receiverBucket": _bucket_ref(made.to_bucket_id),
        "logicalResource": [_member_ref(made.from_member_id)],
        "receiverLogicalResource": _member_ref(made.to_member_id),
        "channel": {"id": "api", "name": "API"},
        "requestor": {"id": made.made_by, "@referredType": "Individual"},
        "partyAccount": {"id": str(subscriber.account_id), "name": "token account"},
        "relatedParty": party(subscriber.subscriber_id),
        "@type": "TransferBalance",
    }


def _member_ref(member_id: UUID) -> dict[str, object]:
    return {"id": str(member_id), "@referredType": "Member"}


def _member_of(rooms: Rooms, who: Who, reference: str) -> Member:
    """Whose cap it is: by the cap's bucket, or by the member's own id."""
    id_ = as_uuid(reference, "bucket")
    member = rooms.members.by_id(id_)
    if member is None:
        found, _ = _bucket(rooms, who, reference)
        if found.cap_of is None:
            raise Invalid("bucket: a transfer is between the caps of members")
        member = rooms.members.by_id(found.cap_of)
    if member is None:
        raise NotFound("there is no such bucket")
    mine_only(who, member.subscriber_id, "bucket")
    return member


@balance_router.get(
    "/transferBalance", summary="Transfers between members, newest first", **allow(*EVERYBODY)
)
def transfers(request: Request, rooms: Asked, who: Who, page: Paged, related: Party = None) -> Response:
    subscriber = own(rooms, who, related)
    found = [
        _transfer_resource(made, subscriber)
        for made in rooms.transfers.of_account(subscriber.account_id)
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


@balance_router.get("/transferBalance/{id}", summary="One transfer", **allow(*EVERYBODY))
def transfer_one(request: Request, rooms: Asked, who: Who, id: str, fields: Fields = None) -> Response:
    made = rooms.transfers.find(as_uuid(id, "transfer"))
    subscriber = rooms.subscriptions.of_account(made.account_id)
    mine_only(who, subscriber.subscriber_id, "transfer")
    if not _may_see(who, made):
        raise NotFound("there is no such transfer")
    return one(request, _transfer_resource(made, subscriber), fields)


@balance_router.post(
    "/transferBalance",
    status_code=201,
    summary="Give another member a part of a cap; a member gives of its own",
    **allow(*BUYERS, "member"),
)
def transfer(body: TransferBalanceCreate, rooms: Asked, who: Who, key: IdempotencyKey) -> Response:
    if body.amount.units != "token":
        raise Invalid("amount: a transfer is in token")
    tokens = _exact(body.amount.amount)
    giver = _member_of(rooms, who, body.bucket.id)
    if who.role == "member" and giver.member_id != who.member_id:
        raise NotFound("there is no such bucket")
    taker = _member_of(rooms, who, body.receiver_bucket.id)
    subscriber = rooms.subscriptions.find(str(giver.subscriber_id))
    made = rooms.members.transfer(
        subscriber, giver, taker, tokens, body.reason, made_by=who.actor, idempotency_key=key
    )
    audit(rooms, who, "balance.transfer", made.transfer_id, None, {"tokens": tokens})
    return answer(_transfer_resource(made, subscriber), 201)


# What became of balances.

_ACTIONS: Final = {
    "issue": "bought, or begun with a cycle",
    "expire": "expired",
    "withdraw": "taken back",
    "rollover": "rolled over to the next cycle",
    "adjust": "adjusted by two persons",
    "transfer": "between members' caps",
}


def _move_resource(move: BalanceMove, subscriber: Subscriber) -> dict[str, object]:
    amount = quantity(abs(move.amount), move.unit)
    return {
        "id": f"{move.move_id}-{move.bucket_id}",
        "href": f"{BALANCE}/balanceActionHistory/{move.move_id}-{move.bucket_id}",
        "status": "completed",
        "description": move.kind,
        "reason": _ACTIONS[move.kind],
        "amount": {**amount, "amount": (-1 if move.amount < 0 else 1) * amount["amount"]},  # type: ignore[operator]
        "confirmationDate": when(move.at),
        "usageType": "other",
        "bucket": _bucket_ref(move.bucket_id),
        "receiverLogicalResource": {"id": str(move.bucket_id), "@referredType": "Bucket"},
        "partyAccount": {"id": str(subscriber.account_id), "name": "token account"},
        "relatedParty": party(subscriber.subscriber_id),
        "@type": "BalanceActionHistory",
    }


@balance_router.get(
    "/balanceActionHistory", summary="What came to balances and what went, but for usage", **allow(*READERS)
)
def history(request: Request, rooms: Asked, who: Who, page: Paged, related: Party = None) -> Response:
    subscriber = own(rooms, who, related)
    return narrowed(
        request,
        page,
        lambda offset, limit: rooms.transfers.history(subscriber.account_id, offset, limit),
        lambda move: _move_resource(move, subscriber),
        ("id", "status", "description", "confirmationDate", "bucket.id", "partyAccount.id"),
        ("relatedParty.id",),
    )


@balance_router.get("/balanceActionHistory/{id}", summary="One of them", **allow(*READERS))
def history_one(request: Request, rooms: Asked, who: Who, id: str, fields: Fields = None) -> Response:
    _, subscriber = _bucket(rooms, who, id[37:])
    move = rooms.transfers.find_move(subscriber.account_id, as_uuid(id[:36], "action"), UUID(id[37:]))
    return one(request, _move_resource(move, subscriber), fields)


# Usage.


def usage_resource(record: Mapping[str, Any], subscriber: Subscriber) -> dict[str, object]:
    def charged(part: list[Any]) -> dict[str, object]:
        return {
            "usageRatingTag": part[2],
            "ratingDate": when(record["ended_at"]),
            "ratingAmountType": part[3],
            "isBilled": False,
            "isTaxExempt": False,
            "offerTariffType": "allowance",
            "bucketValueConvertedInAmount": {
                "unit": part[3],
                "value": quantity(part[5], part[3])["amount"],
            },
        }

    # A record is found by its account: its id says whose it is.
    usage_id = f"{record['usage_id']}.{subscriber.subscriber_id}"
    return shown(
        {
            "id": usage_id,
            "href": f"{USAGE}/usage/{usage_id}",
            "usageDate": when(record["ended_at"]),
            "usageType": "tokens",
            "description": f"{record['model']} over {record['protocol']}",
            "status": "rated",
            "usageSpecification": _SPECIFICATION,
            "usageCharacteristic": [
                {"name": name, "value": str(record[name]), "valueType": "string"}
                for name in _CHARACTERISTICS
                if record[name] is not None
            ]
            # What the operator bears of it: cause, requests, tokens by class.
            + ([{"name": "loss", "value": record["loss"], "valueType": "array"}] if record["loss"] else []),
            "ratedProductUsage": [charged(part) for part in record["parts"] if part[4] == "balance"],
            "relatedParty": party(subscriber.subscriber_id),
            "@type": "Usage",
        }
    )


# Of the filter operators that the standard has, those by which usage is found in the database.
Since = Annotated[Instant | None, Query(alias="usageDate.gte")]
After = Annotated[Instant | None, Query(alias="usageDate.gt")]
Until = Annotated[Instant | None, Query(alias="usageDate.lt")]
UpTo = Annotated[Instant | None, Query(alias="usageDate.lte")]
_TICK: Final = timedelta(microseconds=1)  # the database's
_USAGE_FILTERS: Final = ("relatedParty.id", "usageDate.gte", "usageDate.gt", "usageDate.lt", "usageDate.lte", "status", "usageType", "cursor")  # fmt: skip


@usage_router.get("/usage", summary="Usage records of any age, newest first", **allow(*EVERYBODY))
def usage(
    request: Request,
    rooms: Asked,
    who: Who,
    page: Paged,
    related: Party = None,
    since: Since = None,
    after: After = None,
    until: Until = None,
    up_to: UpTo = None,
    status: Annotated[str | None, Query(max_length=40)] = None,
    usage_type: Annotated[str | None, Query(alias="usageType", max_length=40)] = None,
    cursor: Annotated[str | None, Query(max_length=40)] = None,
) -> Response:
    """Pages are told by `cursor` (in the `Link` to the next one), so that old records are found as fast as new ones; `offset`
    goes over the newest alone. `X-Total-Count` is there where there are at most 10 000.
    """
    only_filters(request, *_USAGE_FILTERS)
    subscriber = own(rooms, who, related)
    if page.offset + page.limit > USAGE_SHOWN_MAX:
        raise Invalid(f"offset: it reaches the newest {USAGE_SHOWN_MAX}; follow the links to the next page")
    begin = max((at for at in (since, after and after + _TICK) if at is not None), default=None)
    end = min((at for at in (until, up_to and up_to + _TICK) if at is not None), default=None)
    before = None if cursor is None else _cursor(cursor)
    # A member sees its own alone.
    member_id = who.member_id if who.role == "member" else None
    records: list[dict[str, Any]] = []
    total: int | None = 0
    if "rated" in (status or "rated").split(",") and "tokens" in (usage_type or "tokens").split(","):
        records, total = rooms.ledger.usage_page(
            subscriber.account_id, begin, member_id, page.offset, page.limit + 1, until=end, before=before
        )
    more, records = len(records) > page.limit, records[: page.limit]
    if page.offset and not records:
        raise OutOfRange(total or 0)
    resources = [pick(usage_resource(record, subscriber), page.fields) for record in records]
    headers = {"X-Result-Count": str(len(resources))}
    if total is not None:
        headers["X-Total-Count"] = str(total)
    found = {"first": {"offset": "0"}} | ({"next": {"cursor": str(records[-1]["usage_id"])}} if more else {})
    headers["Link"] = links(found)
    return answer(resources, 206 if more or before is not None or page.offset else 200, headers)


def _cursor(text: str) -> UUID:
    try:
        if text.isascii():
            return UUID(text)
    except ValueError:
        pass
    raise Invalid("cursor: take it from the link to the next page")


@usage_router.get("/usage/{id}", summary="One usage record", **allow(*EVERYBODY))
def usage_one(request: Request, rooms: Asked, who: Who, id: str, fields: Fields = None) -> Response:
    """An id is `<record>.<subscriber>`; of one's own the record alone is enough."""
    record_id, _, owner_id = id.partition(".")
    usage_id, subscriber_id = as_uuid(record_id, "usage record"), who.subscriber_id
    if owner_id:
        subscriber_id = as_uuid(owner_id, "usage record")
    if subscriber_id is None:
        raise NotFound(
            "there is no such usage record: an id is that of the record and of the subscriber, as a list says it"
        )
    mine_only(who, subscriber_id, "usage record")
    subscriber = rooms.subscriptions.find(str(subscriber_id))
    record = rooms.ledger.usage_record(subscriber.account_id, usage_id)
    if record is None:
        raise NotFound("there is no such usage record")
    if who.role == "member" and record["member_id"] != who.member_id:
        raise NotFound("there is no such usage record")
    return one(request, usage_resource(record, subscriber), fields)


def _specification() -> dict[str, object]:
    return {
        **_SPECIFICATION,
        "lifecycleStatus": "Active",
        "isBundle": False,
        "specCharacteristic": [
            {"id": name, "name": name, "valueType": "string", "configurable": False}
            for name in _CHARACTERISTICS
        ]
        + [{"id": "loss", "name": "loss", "valueType": "array", "configurable": False}],
        "@type": "UsageSpecification",
    }


@usage_router.get("/usageSpecification", summary="What a usage record says")
def usage_specifications(request: Request, page: Paged) -> Response:
    return cut(page, filtered(request, [_specification()], ("id", "name", "lifecycleStatus")))


@usage_router.get("/usageSpecification/{id}", summary="One specification of usage")
def usage_specification(request: Request, id: str, fields: Fields = None) -> Response:
    if id != _SPECIFICATION["id"]:
        raise NotFound("there is no such usage specification")
    return one(request, _specification(), fields)


@usage_router.get("/focus", summary="Usage and charges of a month as FOCUS 1.2, CSV", **allow(*READERS))
def focus(
    rooms: Asked,
    who: Who,
    month: Annotated[str, Query(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")],
    related: Party = None,
) -> Response:
    subscriber = own(rooms, who, related)
    return StreamingResponse(
        focus_pieces(rooms, subscriber, month),
        media_type="text/csv",
        headers={"Content-Disposition": f'attachment; filename="focus-{month}.csv"'},
    )
