"""One request with everything that is known of it, for staff: what `tokenworks usage show` shows, over HTTP."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from tokenworks.charging import REQUEST_ID_CHARS_MAX
from tokenworks.web.bodies import Instant
from tokenworks.web.content import instant, json_response
from tokenworks.web.principals import ALL_STAFF, allow
from tokenworks.web.services import RequestServices

router = APIRouter(prefix="/api/operations", tags=["operations"])
RequestId = Annotated[str, Path(min_length=1, max_length=REQUEST_ID_CHARS_MAX)]


@router.get(
    "/requests/{id}",
    summary="One request: usage records, route, buckets drawn from, postings, log lines",
    **allow(*ALL_STAFF),
)
def follow(
    services: RequestServices,
    id: RequestId,
    subscriber: Annotated[str | None, Query(max_length=64)] = None,
    since: Instant | None = None,
) -> Response:
    """Find a request by our `x-request-id`, the id of a usage record, the client's own id, or the upstream's id of the answer.

    Amounts are in thousandths of their unit, prices in nano-yuan. Without `subscriber`, a client's or an upstream's id is searched
    for only in this host's log of requests. `since`: how far back such an id is searched for in the account, by default seven days.
    `log`: lines of the host that answers.
    """
    account_id = None if subscriber is None else services.subscriptions.find(subscriber).account_id
    return json_response(_with_instants(services.following.follow(id, account_id, since)))


def _with_instants(value: object) -> object:
    """A copy with instants as text, as all resources have them."""
    if isinstance(value, dict):
        return {name: _with_instants(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_instants(item) for item in value]
    return instant(value) if isinstance(value, datetime) else value
