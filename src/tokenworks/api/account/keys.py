"""API keys of whoever is signed in."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Response
from pydantic import Field

from tokenworks.kernel import MODEL_CHARS_MAX
from tokenworks.web.acts import issue_key, keys_of
from tokenworks.web.bodies import Of, Strict
from tokenworks.web.content import answer, when
from tokenworks.web.lists import OFFSET_MAX, Page, page_of
from tokenworks.web.principals import EVERYBODY, Who, allow, as_uuid, audit, own
from tokenworks.web.services import Asked

router = APIRouter(prefix="/api", tags=["account"])

KEYS_SHOWN_MAX: Final = 100

ModelName = Annotated[str, Field(min_length=1, max_length=MODEL_CHARS_MAX)]


class KeyCreate(Strict):
    name: str = Field(min_length=1, max_length=100)
    models: list[ModelName] | None = Field(default=None, max_length=200)
    expires_in_days: int | None = Field(default=None, ge=1, le=3650)
    # The most that the key may ever use.
    cap_tokens: int | None = Field(default=None, ge=1, le=10**12)


@router.get("/keys", summary="API keys, oldest first; a member sees its own", **allow(*EVERYBODY))
def keys(
    services: Asked,
    who: Who,
    of: Of = None,
    offset: Annotated[int, Query(ge=0, le=OFFSET_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=KEYS_SHOWN_MAX)] = KEYS_SHOWN_MAX,
) -> Response:
    found = services.access.keys(own(services, who, of), keys_of(who))
    rows = [
        {
            "id": str(key.key_id),
            "name": key.name,
            "key": key.hint,
            "models": key.models,
            "cap_tokens": key.cap_tokens,
            "created_at": when(key.created_at),
            "expires_at": when(key.expires_at),
            "revoked_at": when(key.revoked_at),
            "used_at": when(key.used_at),
        }
        for key in found[offset : offset + limit]
    ]
    return page_of(Page(offset, limit, None), rows, len(found))


@router.post(
    "/keys",
    status_code=201,
    summary="A new API key; its text is shown this once",
    **allow("owner", "admin", "member"),
)
def make_key(body: KeyCreate, services: Asked, who: Who) -> Response:
    key_id, text = issue_key(
        services, who, own(services, who), body.name, models=body.models, expires_in_days=body.expires_in_days, cap_tokens=body.cap_tokens
    )  # fmt: skip
    return answer({"id": str(key_id), "name": body.name, "key": text}, 201)


@router.delete(
    "/keys/{id}",
    status_code=204,
    summary="Stop a key everywhere",
    **allow(*EVERYBODY[:2], "member", "operator"),
)
def revoke_key(services: Asked, who: Who, id: str, of: Of = None) -> Response:
    found = own(services, who, of)
    key_id = as_uuid(id, "key")
    with services.transaction():
        services.access.revoke_key(found, key_id, keys_of(who))
        audit(services, who, "key.revoke", key_id)
    return Response(status_code=204)
