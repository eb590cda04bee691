"""TMF654: what became of balances."""

from typing import Final
from uuid import UUID

from fastapi import APIRouter, Request, Response

from tokenworks.api.tmf.buckets import find_bucket
from tokenworks.api.tmf.refs import BALANCE, Party, bucket_ref, party, quantity
from tokenworks.charging import BalanceMove
from tokenworks.subscriptions import Subscriber
from tokenworks.web.content import when
from tokenworks.web.filters import narrowed
from tokenworks.web.lists import Fields, Paged, one
from tokenworks.web.principals import READERS, Who, allow, as_uuid, own
from tokenworks.web.repeats import RepeatableRoute
from tokenworks.web.services import Asked

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
        "confirmationDate": when(move.at),
        "usageType": "other",
        "bucket": bucket_ref(move.bucket_id),
        "receiverLogicalResource": {"id": str(move.bucket_id), "@referredType": "Bucket"},
        "partyAccount": {"id": str(subscriber.account_id), "name": "token account"},
        "relatedParty": party(subscriber.subscriber_id),
        "@type": "BalanceActionHistory",
    }


@router.get(
    "/balanceActionHistory", summary="What came to balances and what went, but for usage", **allow(*READERS)
)
def history(request: Request, services: Asked, who: Who, page: Paged, related: Party = None) -> Response:
    subscriber = own(services, who, related)
    return narrowed(
        request,
        page,
        lambda offset, limit: services.transfers.history(subscriber.account_id, offset, limit),
        lambda move: _move_resource(move, subscriber),
        ("id", "status", "description", "confirmationDate", "bucket.id", "partyAccount.id"),
        ("relatedParty.id",),
    )


@router.get("/balanceActionHistory/{id}", summary="One of them", **allow(*READERS))
def history_one(request: Request, services: Asked, who: Who, id: str, fields: Fields = None) -> Response:
    _, subscriber = find_bucket(services, who, id[37:])
    move = services.transfers.find_move(subscriber.account_id, as_uuid(id[:36], "action"), UUID(id[37:]))
    return one(request, _move_resource(move, subscriber), fields)
