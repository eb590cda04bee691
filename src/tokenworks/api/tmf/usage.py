"""TMF635: usage records; a month of them as FOCUS."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import StreamingResponse

from tokenworks.api.tmf.refs import USAGE, Party, party, quantity
from tokenworks.kernel import Invalid, NotFound
from tokenworks.subscriptions import Subscriber
from tokenworks.web.bodies import Instant
from tokenworks.web.content import answer, shown, when
from tokenworks.web.filters import filtered
from tokenworks.web.lists import Fields, OutOfRange, Paged, cut, one, only_filters, pick
from tokenworks.web.principals import EVERYBODY, READERS, Who, allow, as_uuid, mine_only, own
from tokenworks.web.repeats import RepeatableRoute
from tokenworks.web.services import Asked
from tokenworks.web.urls import links

router = APIRouter(prefix=USAGE, tags=["TMF635 usage"], route_class=RepeatableRoute)

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


@router.get("/usage", summary="Usage records of any age, newest first", **allow(*EVERYBODY))
def usage(
    request: Request,
    services: Asked,
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
    subscriber = own(services, who, related)
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
        records, total = services.ledger.usage_page(
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


@router.get("/usage/{id}", summary="One usage record", **allow(*EVERYBODY))
def usage_one(request: Request, services: Asked, who: Who, id: str, fields: Fields = None) -> Response:
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
    subscriber = services.subscriptions.find(str(subscriber_id))
    record = services.ledger.usage_record(subscriber.account_id, usage_id)
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


@router.get("/usageSpecification", summary="What a usage record says")
def usage_specifications(request: Request, page: Paged) -> Response:
    return cut(page, filtered(request, [_specification()], ("id", "name", "lifecycleStatus")))


@router.get("/usageSpecification/{id}", summary="One specification of usage")
def usage_specification(request: Request, id: str, fields: Fields = None) -> Response:
    if id != _SPECIFICATION["id"]:
        raise NotFound("there is no such usage specification")
    return one(request, _specification(), fields)


@router.get("/focus", summary="Usage and charges of a month as FOCUS 1.2, CSV", **allow(*READERS))
def focus(
    services: Asked,
    who: Who,
    month: Annotated[str, Query(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")],
    related: Party = None,
) -> Response:
    subscriber = own(services, who, related)
    return StreamingResponse(
        services.focus.pieces(subscriber, month),
        media_type="text/csv",
        headers={"Content-Disposition": f'attachment; filename="focus-{month}.csv"'},
    )
