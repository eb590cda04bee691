"""TMF635: usage records; a month of them as FOCUS."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import StreamingResponse

from tokenworks.api.tmf.refs import USAGE, PartyQuery, party, quantity
from tokenworks.kernel import Invalid, NotFound
from tokenworks.subscriptions import Subscriber
from tokenworks.web.bodies import Instant
from tokenworks.web.content import instant, json_response, without_none
from tokenworks.web.filters import apply_filters
from tokenworks.web.lists import (
    FieldsQuery,
    OutOfRange,
    PageQuery,
    check_filters,
    paginate,
    resource_response,
    select_fields,
)
from tokenworks.web.principals import (
    ALL_ROLES,
    READERS,
    CurrentPrincipal,
    allow,
    as_uuid,
    check_owner,
    own_subscriber,
)
from tokenworks.web.repeats import RepeatableRoute
from tokenworks.web.services import RequestServices
from tokenworks.web.urls import link_header

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
            "ratingDate": instant(record["ended_at"]),
            "ratingAmountType": part[3],
            "isBilled": False,
            "isTaxExempt": False,
            "offerTariffType": "allowance",
            "bucketValueConvertedInAmount": {
                "unit": part[3],
                "value": quantity(part[5], part[3])["amount"],
            },
        }

    # A record is found in its account, so its id includes the subscriber.
    usage_id = f"{record['usage_id']}.{subscriber.subscriber_id}"
    return without_none(
        {
            "id": usage_id,
            "href": f"{USAGE}/usage/{usage_id}",
            "usageDate": instant(record["ended_at"]),
            "usageType": "tokens",
            "description": f"{record['model']} over {record['protocol']}",
            "status": "rated",
            "usageSpecification": _SPECIFICATION,
            "usageCharacteristic": [
                {"name": name, "value": str(record[name]), "valueType": "string"}
                for name in _CHARACTERISTICS
                if record[name] is not None
            ]
            # The operator's loss: cause, requests, tokens by class.
            + ([{"name": "loss", "value": record["loss"], "valueType": "array"}] if record["loss"] else []),
            "ratedProductUsage": [charged(part) for part in record["parts"] if part[4] == "balance"],
            "relatedParty": party(subscriber.subscriber_id),
            "@type": "Usage",
        }
    )


# The filter operators of the standard that the database applies.
FromInstant = Annotated[Instant | None, Query(alias="usageDate.gte")]
AfterInstant = Annotated[Instant | None, Query(alias="usageDate.gt")]
BeforeInstant = Annotated[Instant | None, Query(alias="usageDate.lt")]
UpToInstant = Annotated[Instant | None, Query(alias="usageDate.lte")]
_TICK: Final = timedelta(microseconds=1)  # the database's
_USAGE_FILTERS: Final = ("relatedParty.id", "usageDate.gte", "usageDate.gt", "usageDate.lt", "usageDate.lte", "status", "usageType", "cursor")  # fmt: skip


@router.get("/usage", summary="Usage records of any age, newest first", **allow(*ALL_ROLES))
def usage(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    page: PageQuery,
    related: PartyQuery = None,
    since: FromInstant = None,
    after: AfterInstant = None,
    until: BeforeInstant = None,
    up_to: UpToInstant = None,
    status: Annotated[str | None, Query(max_length=40)] = None,
    usage_type: Annotated[str | None, Query(alias="usageType", max_length=40)] = None,
    cursor: Annotated[str | None, Query(max_length=40)] = None,
) -> Response:
    """`cursor` (in the `Link` to the next page) leads to old records as fast as to new ones; `offset` reaches only the newest.
    `X-Total-Count` is present if there are at most 10 000 records.
    """
    check_filters(request, *_USAGE_FILTERS)
    subscriber = own_subscriber(services, principal, related)
    if page.offset + page.limit > USAGE_SHOWN_MAX:
        raise Invalid(f"offset: it reaches the newest {USAGE_SHOWN_MAX}; follow the links to the next page")
    begin = max((at for at in (since, after and after + _TICK) if at is not None), default=None)
    end = min((at for at in (until, up_to and up_to + _TICK) if at is not None), default=None)
    before = None if cursor is None else _cursor(cursor)
    # A member sees only its own records.
    member_id = principal.member_id if principal.role == "member" else None
    records: list[dict[str, Any]] = []
    total: int | None = 0
    if "rated" in (status or "rated").split(",") and "tokens" in (usage_type or "tokens").split(","):
        records, total = services.ledger.usage_page(
            subscriber.account_id, begin, member_id, page.offset, page.limit + 1, until=end, before=before
        )
    more, records = len(records) > page.limit, records[: page.limit]
    if page.offset and not records:
        raise OutOfRange(total or 0)
    resources = [select_fields(usage_resource(record, subscriber), page.fields) for record in records]
    headers = {"X-Result-Count": str(len(resources))}
    if total is not None:
        headers["X-Total-Count"] = str(total)
    found = {"first": {"offset": "0"}} | ({"next": {"cursor": str(records[-1]["usage_id"])}} if more else {})
    headers["Link"] = link_header(found)
    return json_response(resources, 206 if more or before is not None or page.offset else 200, headers)


def _cursor(text: str) -> UUID:
    try:
        if text.isascii():
            return UUID(text)
    except ValueError:
        pass
    raise Invalid("cursor: take it from the link to the next page")


@router.get("/usage/{id}", summary="One usage record", **allow(*ALL_ROLES))
def usage_one(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    id: str,
    fields: FieldsQuery = None,
) -> Response:
    """The id is `<record>.<subscriber>`; for a subscriber's own records `<record>` is enough."""
    record_id, _, owner_id = id.partition(".")
    usage_id, subscriber_id = as_uuid(record_id, "usage record"), principal.subscriber_id
    if owner_id:
        subscriber_id = as_uuid(owner_id, "usage record")
    if subscriber_id is None:
        raise NotFound(
            "there is no such usage record: an id is that of the record and of the subscriber, as a list says it"
        )
    check_owner(principal, subscriber_id, "usage record")
    subscriber = services.subscriptions.find(str(subscriber_id))
    record = services.ledger.usage_record(subscriber.account_id, usage_id)
    if record is None:
        raise NotFound("there is no such usage record")
    if principal.role == "member" and record["member_id"] != principal.member_id:
        raise NotFound("there is no such usage record")
    return resource_response(request, usage_resource(record, subscriber), fields)


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


@router.get("/usageSpecification", summary="Specifications of usage")
def usage_specifications(request: Request, page: PageQuery) -> Response:
    return paginate(page, apply_filters(request, [_specification()], ("id", "name", "lifecycleStatus")))


@router.get("/usageSpecification/{id}", summary="One specification of usage")
def usage_specification(request: Request, id: str, fields: FieldsQuery = None) -> Response:
    if id != _SPECIFICATION["id"]:
        raise NotFound("there is no such usage specification")
    return resource_response(request, _specification(), fields)


@router.get("/focus", summary="Usage and charges of a month as FOCUS 1.2, CSV", **allow(*READERS))
def focus(
    services: RequestServices,
    principal: CurrentPrincipal,
    month: Annotated[str, Query(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")],
    related: PartyQuery = None,
) -> Response:
    subscriber = own_subscriber(services, principal, related)
    return StreamingResponse(
        services.focus.pieces(subscriber, month),
        media_type="text/csv",
        headers={"Content-Disposition": f'attachment; filename="focus-{month}.csv"'},
    )
