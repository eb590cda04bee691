"""API keys of the account."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Response
from pydantic import Field

from tokenworks.kernel import MODEL_CHARS_MAX, Invalid
from tokenworks.web.actions import issue_key, key_owner
from tokenworks.web.bodies import StrictBody, SubscriberReference
from tokenworks.web.content import instant, json_response
from tokenworks.web.lists import OFFSET_MAX, Page, page_response
from tokenworks.web.principals import ALL_ROLES, CurrentPrincipal, allow, as_uuid, audit, own_subscriber
from tokenworks.web.services import RequestServices

router = APIRouter(prefix="/api", tags=["account"])

KEYS_SHOWN_MAX: Final = 100

ModelName = Annotated[str, Field(min_length=1, max_length=MODEL_CHARS_MAX)]


FallbackModels = Annotated[list[ModelName], Field(max_length=8)]


class KeyCreate(StrictBody):
    name: str = Field(min_length=1, max_length=100)
    models: list[ModelName] | None = Field(default=None, max_length=200)
    expires_in_days: int | None = Field(default=None, ge=1, le=3650)
    # How much the key may use in total.
    cap_tokens: int | None = Field(default=None, ge=1, le=10**12)
    # The models of a request that its own model can't have, in order; null: those of the plan, an empty list: none.
    fallback_models: FallbackModels | None = None


class KeyChange(StrictBody):
    """What is not named stays as it is."""

    fallback_models: FallbackModels | None = None
    # The key's requests wish the response cache, unless their header says otherwise.
    response_cache: bool = False


@router.get("/keys", summary="API keys, oldest first; a member sees only its own", **allow(*ALL_ROLES))
def keys(
    services: RequestServices,
    principal: CurrentPrincipal,
    of: SubscriberReference = None,
    offset: Annotated[int, Query(ge=0, le=OFFSET_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=KEYS_SHOWN_MAX)] = KEYS_SHOWN_MAX,
) -> Response:
    found = services.access.keys(own_subscriber(services, principal, of), key_owner(principal))
    rows = [
        {
            "id": str(key.key_id),
            "name": key.name,
            "key": key.hint,
            "models": key.models,
            "fallback_models": key.fallbacks,
            "content_log": key.content_log,
            "response_cache": key.response_cache,
            "cap_tokens": key.cap_tokens,
            "created_at": instant(key.created_at),
            "expires_at": instant(key.expires_at),
            "revoked_at": instant(key.revoked_at),
            "used_at": instant(key.used_at),
        }
        for key in found[offset : offset + limit]
    ]
    return page_response(Page(offset, limit, None), rows, len(found))


@router.post(
    "/keys",
    status_code=201,
    summary="Create an API key; its text is shown only once",
    **allow("owner", "admin", "member"),
)
def make_key(body: KeyCreate, services: RequestServices, principal: CurrentPrincipal) -> Response:
    key_id, text = issue_key(
        services, principal, own_subscriber(services, principal), body.name, models=body.models, expires_in_days=body.expires_in_days, cap_tokens=body.cap_tokens,
        fallback_models=body.fallback_models,
    )  # fmt: skip
    return json_response({"id": str(key_id), "name": body.name, "key": text}, 201)


@router.patch(
    "/keys/{id}",
    summary="Set the models to which a key's requests fall back, and whether they wish the response cache",
    **allow("owner", "admin", "member"),
)
def change_key(body: KeyChange, services: RequestServices, principal: CurrentPrincipal, id: str) -> Response:
    found, key_id = own_subscriber(services, principal), as_uuid(id, "key")
    changed = body.model_dump(include=body.model_fields_set)
    if not changed:
        raise Invalid("name what is to change: fallback_models or response_cache")
    with services.transaction():
        if "fallback_models" in changed:
            services.access.set_fallbacks(found, key_id, body.fallback_models, key_owner(principal))
        if "response_cache" in changed:
            services.access.set_response_cache(
                found, key_id, on=body.response_cache, member_id=key_owner(principal)
            )
        audit(services, principal, "key.change", key_id, None, changed)
    return json_response({"id": str(key_id), **changed})


@router.delete(
    "/keys/{id}",
    status_code=204,
    summary="Revoke a key",
    **allow(*ALL_ROLES[:2], "member", "operator"),
)
def revoke_key(
    services: RequestServices, principal: CurrentPrincipal, id: str, of: SubscriberReference = None
) -> Response:
    found = own_subscriber(services, principal, of)
    key_id = as_uuid(id, "key")
    with services.transaction():
        services.access.revoke_key(found, key_id, key_owner(principal))
        audit(services, principal, "key.revoke", key_id)
    return Response(status_code=204)
