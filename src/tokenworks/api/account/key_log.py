"""The log of requests and answers of an API key: off unless the key's member or the account's owner turns it on. What is stored is read
and deleted also after the key was revoked.
"""

import base64
from typing import Annotated, Final

from fastapi import APIRouter, Query, Response

from tokenworks.charging import CONTENT_LOG_SHOWN_MAX, ContentLogEntry
from tokenworks.web.actions import key_owner
from tokenworks.web.bodies import StrictBody
from tokenworks.web.content import instant, json_response
from tokenworks.web.principals import CurrentPrincipal, allow, as_uuid, audit, own_subscriber
from tokenworks.web.services import RequestServices

# A UUID, with or without its hyphens.
REQUEST_ID_CHARS_MAX: Final = 36
router = APIRouter(prefix="/api", tags=["account"])


class LogChange(StrictBody):
    on: bool


@router.put(
    "/keys/{id}/log",
    summary="Turn the log of a key's requests and answers on or off; what is stored stays until it is deleted or its time is over",
    **allow("owner", "member"),
)
def set_log(body: LogChange, services: RequestServices, principal: CurrentPrincipal, id: str) -> Response:
    found, key_id = own_subscriber(services, principal), as_uuid(id, "key")
    with services.transaction():
        services.access.set_content_log(found, key_id, on=body.on, member_id=key_owner(principal))
        audit(services, principal, "key.log", key_id, None, {"on": body.on})
    return json_response({"id": str(key_id), "content_log": body.on})


@router.get(
    "/keys/{id}/log",
    summary="Logged requests of a key without their content, newest first; before: a request's id, from which the list goes on",
    **allow("owner", "member"),
)
def log_entries(
    services: RequestServices,
    principal: CurrentPrincipal,
    id: str,
    before: Annotated[str | None, Query(max_length=REQUEST_ID_CHARS_MAX)] = None,
    limit: Annotated[int, Query(ge=1, le=CONTENT_LOG_SHOWN_MAX)] = CONTENT_LOG_SHOWN_MAX,
) -> Response:
    found, key_id = own_subscriber(services, principal), as_uuid(id, "key")
    services.access.check_past_key(found, key_id, key_owner(principal))
    last = None if before is None else as_uuid(before, "request")
    entries = services.content_log.entries(found.account_id, key_id, last, limit)
    return json_response([_shown(entry) for entry in entries])


@router.get(
    "/keys/{id}/log/{request_id}",
    summary="A logged request with its answer, in base64, as they were sent; longer ones are cut. Each reading is in the audit trail",
    **allow("owner", "member"),
)
def log_entry(services: RequestServices, principal: CurrentPrincipal, id: str, request_id: str) -> Response:
    found, key_id = own_subscriber(services, principal), as_uuid(id, "key")
    wanted = as_uuid(request_id, "request")
    services.access.check_past_key(found, key_id, key_owner(principal))
    with services.transaction():
        read = services.content_log.read(found.account_id, key_id, wanted)
        audit(services, principal, "key.log.read", key_id, None, {"request_id": str(wanted)})
    return json_response(
        _shown(read.entry)
        | {
            "request": base64.b64encode(read.request).decode(),
            "answer": base64.b64encode(read.answer).decode(),
        }
    )


@router.delete(
    "/keys/{id}/log",
    status_code=204,
    summary="Delete all logged requests of a key",
    **allow("owner", "member"),
)
def delete_log(services: RequestServices, principal: CurrentPrincipal, id: str) -> Response:
    found, key_id = own_subscriber(services, principal), as_uuid(id, "key")
    services.access.check_past_key(found, key_id, key_owner(principal))
    with services.transaction():
        count = services.content_log.delete(found.account_id, key_id)
        audit(services, principal, "key.log.delete", key_id, None, {"entries": count})
    return Response(status_code=204)


@router.delete(
    "/keys/{id}/log/{request_id}",
    status_code=204,
    summary="Delete a logged request",
    **allow("owner", "member"),
)
def delete_entry(
    services: RequestServices, principal: CurrentPrincipal, id: str, request_id: str
) -> Response:
    found, key_id = own_subscriber(services, principal), as_uuid(id, "key")
    wanted = as_uuid(request_id, "request")
    services.access.check_past_key(found, key_id, key_owner(principal))
    with services.transaction():
        count = services.content_log.delete(found.account_id, key_id, wanted)
        audit(services, principal, "key.log.delete", key_id, None, {"entries": count})
    return Response(status_code=204)


def _shown(entry: ContentLogEntry) -> dict[str, object]:
    return {
        "request_id": entry.request_id.hex,
        "protocol": entry.protocol,
        "model": entry.model,
        "outcome": entry.outcome,
        "request_bytes": entry.request_bytes,
        "answer_bytes": entry.answer_bytes,
        "made_at": instant(entry.made_at),
        "expires_at": instant(entry.expires_at),
    }
