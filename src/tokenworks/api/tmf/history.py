"""TMF654: the history of balances, usage not included."""

from typing import Final
from uuid import UUID

from fastapi import APIRouter, Request, Response

from tokenworks.api.tmf.buckets import find_bucket
from tokenworks.api.tmf.refs import BALANCE, PartyQuery, bucket_ref, party, quantity
from tokenworks.charging import BalanceMove
from tokenworks.subscriptions import Subscriber
from tokenworks.web.content import instant
from tokenworks.web.filters import filtered_page
from tokenworks.web.lists import FieldsQuery, PageQuery, resource_response
from tokenworks.web.principals import READERS, CurrentPrincipal, allow, as_uuid, own_subscriber
from tokenworks.web.repeats import RepeatableRoute
from tokenworks.web.services import RequestServices

router = APIRouter(prefix=BALANCE, tags=["TMF654 prepay balance"], route_class=RepeatableRoute)

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
        "confirmationDate": instant(move.at),
        "usageType": "other",
        "bucket": bucket_ref(move.bucket_id),
        "receiverLogicalResource": {"id": str(move.bucket_id), "@referredType": "Bucket"},
        "partyAccount": {"id": str(subscriber.account_id), "name": "token account"},
        "relatedParty": party(subscriber.subscriber_id),
        "@type": "BalanceActionHistory",
    }


@router.get("/balanceActionHistory", summary="Changes of balances other than usage", **allow(*READERS))
def history(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    page: PageQuery,
    related: PartyQuery = None,
) -> Response:
    subscriber = own_subscriber(services, principal, related)
    return filtered_page(
        request,
        page,
        lambda offset, limit: services.transfers.history(subscriber.account_id, offset, limit),
        lambda move: _move_resource(move, subscriber),
        ("id", "status", "description", "confirmationDate", "bucket.id", "partyAccount.id"),
        ("relatedParty.id",),
    )


@router.get("/balanceActionHistory/{id}", summary="One change of a balance", **allow(*READERS))
def history_one(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    id: str,
    fields: FieldsQuery = None,
) -> Response:
    _, subscriber = find_bucket(services, principal, id[37:])
    move = services.transfers.find_move(subscriber.account_id, as_uuid(id[:36], "action"), UUID(id[37:]))
    return resource_response(request, _move_resource(move, subscriber), fields)
