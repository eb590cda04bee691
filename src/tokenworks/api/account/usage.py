"""The account's usage in exact sums, by day, model, member, key or tag."""

from fastapi import APIRouter, Response

from tokenworks.api.developers.sums import SUMS_SHOWN_DEFAULT, after_of, groups_of, page_shown
from tokenworks.api.developers.usage import AfterQuery, GroupsQuery, LimitQuery, TagsQuery
from tokenworks.charging import tags_of_texts
from tokenworks.web.bodies import Instant, SubscriberReference
from tokenworks.web.content import json_response
from tokenworks.web.principals import ALL_ROLES, CurrentPrincipal, allow, own_subscriber
from tokenworks.web.services import RequestServices

router = APIRouter(prefix="/api", tags=["account"])


@router.get("/usage-sums", summary="Usage in exact sums; a member sees only its own", **allow(*ALL_ROLES))
def usage_sums(
    services: RequestServices,
    principal: CurrentPrincipal,
    of: SubscriberReference = None,
    by: GroupsQuery = "day,model",
    tag: TagsQuery = [],  # noqa: B006 - a default of FastAPI, which is never changed
    since: Instant | None = None,
    until: Instant | None = None,
    after: AfterQuery = None,
    limit: LimitQuery = SUMS_SHOWN_DEFAULT,
) -> Response:
    """`by` names up to three of `day`, `model`, `member`, `key`, `protocol` and `tag:<name>` between commas, `tag` is `name=value`, `after` is the
    `next` of the page before.
    """
    subscriber = own_subscriber(services, principal, of)
    sums = services.ledger.usage_sums(
        subscriber.account_id, groups_of(by), since, until, tags=tags_of_texts(tag), after=after_of(after), limit=limit + 1,
        member_id=principal.member_id if principal.role == "member" else None,
    )  # fmt: skip
    return json_response(page_shown(sums, limit))
