"""`GET /v1/usage`: the usage of a key's member in sums, by day, model, key or tag."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import StringConstraints

from tokenworks.api.developers.sums import (
    CURSOR_CHARS_MAX,
    SUMS_SHOWN_DEFAULT,
    SUMS_SHOWN_MAX,
    TAG_TEXT_CHARS_MAX,
    after_of,
    groups_of,
    page_shown,
)
from tokenworks.charging import tags_of_texts
from tokenworks.web.bodies import Instant
from tokenworks.web.content import json_response
from tokenworks.web.key_holders import CurrentKey, with_key
from tokenworks.web.services import RequestServices

router = APIRouter(prefix="/v1", tags=["developers"])

GroupsQuery = Annotated[str, Query(max_length=300)]
TagText = Annotated[str, StringConstraints(max_length=TAG_TEXT_CHARS_MAX)]
TagsQuery = Annotated[list[TagText], Query(max_length=4)]
AfterQuery = Annotated[str | None, Query(max_length=CURSOR_CHARS_MAX)]
LimitQuery = Annotated[int, Query(ge=1, le=SUMS_SHOWN_MAX)]


@router.get(
    "/usage",
    summary="Usage of the key's member in exact sums, by day, model, key, protocol or tag",
    **with_key(),
)
def usage(
    services: RequestServices,
    holder: CurrentKey,
    by: GroupsQuery = "day,model",
    tag: TagsQuery = [],  # noqa: B006 - a default of FastAPI, which is never changed
    since: Instant | None = None,
    until: Instant | None = None,
    this_key: bool = False,
    after: AfterQuery = None,
    limit: LimitQuery = SUMS_SHOWN_DEFAULT,
) -> Response:
    """`by` names up to three groups between commas (`day,model`, `tag:team`), `tag` is `name=value`, `after` is the `next` of the page before.
    A key reads its own member's usage, or with `this_key` its own alone.
    """
    key = holder.key
    sums = services.ledger.usage_sums(
        key.account_id, groups_of(by), since, until, member_id=key.member_id,
        key_id=key.key_id if this_key else None, tags=tags_of_texts(tag), after=after_of(after), limit=limit + 1,
    )  # fmt: skip
    return json_response(page_shown(sums, limit), headers={"Cache-Control": "no-store"})
