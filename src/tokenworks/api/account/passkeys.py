"""Passkeys of a member, and sign-in with one. A code always remains a way in."""

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tokenworks.trust import PASSKEY_NAME_CHARS_MAX, Passkey
from tokenworks.web.bodies import StrictBody
from tokenworks.web.client import is_secure
from tokenworks.web.content import instant, json_response, without_none
from tokenworks.web.passkeys import (
    MadeCredential,
    UsedCredential,
    add_passkey,
    options_to_add,
    remove_passkey,
    rename_passkey,
    sign_in_options,
    sign_in_with_passkey,
)
from tokenworks.web.principals import CurrentPrincipal, allow, as_uuid
from tokenworks.web.services import RequestServices, Services
from tokenworks.web.sign_in import set_cookie

router = APIRouter(prefix="/api", tags=["account"])


class PasskeyName(StrictBody):
    """How the person tells its passkeys apart."""

    name: str = Field(min_length=1, max_length=PASSKEY_NAME_CHARS_MAX)


class NewPasskeyBody(PasskeyName):
    """`credential`: the answer to `navigator.credentials.create` as JSON."""

    credential: MadeCredential


class PasskeySignIn(StrictBody):
    """`credential`: the answer to `navigator.credentials.get` as JSON."""

    credential: UsedCredential


def _passkey_resource(passkey: Passkey) -> dict[str, object]:
    return without_none(
        {
            "id": str(passkey.passkey_id),
            "name": passkey.name,
            "created_at": instant(passkey.created_at),
            "used_at": instant(passkey.used_at),
            "synced": passkey.is_synced,
            "blocked_at": instant(passkey.cloned_at),
        }
    )


def _own(services: Services, principal: CurrentPrincipal) -> list[Passkey]:
    assert principal.subscriber_id is not None and principal.member_id is not None
    return services.passkeys.of(principal.subscriber_id, principal.member_id)


@router.post("/sign-in/passkey/options", summary="Options for navigator.credentials.get")
def options_to_sign_in(request: Request, services: RequestServices) -> Response:
    return json_response(sign_in_options(services, request), headers={"Cache-Control": "no-store"})


@router.post("/sign-in/passkey", status_code=201, summary="Sign in with a passkey")
def enter_with_passkey(request: Request, body: PasskeySignIn, services: RequestServices) -> Response:
    text, ends, subscriber, member = sign_in_with_passkey(services, request, body.credential.read())
    response = json_response(
        {"token": text, "expires_at": instant(ends), "subscriber_id": str(subscriber.subscriber_id), "member": member.name}, 201
    )  # fmt: skip
    set_cookie(response, text, ends, secure=is_secure(request))
    return response


@router.get("/passkeys", summary="Your passkeys", **allow("owner", "admin", "member"))
def passkeys(services: RequestServices, principal: CurrentPrincipal) -> Response:
    rows = [_passkey_resource(passkey) for passkey in _own(services, principal)]
    return json_response(rows, headers={"X-Total-Count": str(len(rows))})


@router.post(
    "/passkeys/options",
    summary="Options for navigator.credentials.create, within ten minutes of a sign-in",
    **allow("owner", "admin", "member"),
)
def options(services: RequestServices, principal: CurrentPrincipal) -> Response:
    return json_response(options_to_add(services, principal), headers={"Cache-Control": "no-store"})


@router.post(
    "/passkeys",
    status_code=201,
    summary="Add a passkey, within ten minutes of a sign-in",
    **allow("owner", "admin", "member"),
)
def add(body: NewPasskeyBody, services: RequestServices, principal: CurrentPrincipal) -> Response:
    passkey_id = add_passkey(services, principal, body.credential.read(), body.name)
    made = next(passkey for passkey in _own(services, principal) if passkey.passkey_id == passkey_id)
    return json_response(_passkey_resource(made), 201)


@router.patch("/passkeys/{id}", summary="Name a passkey", **allow("owner", "admin", "member"))
def rename(body: PasskeyName, services: RequestServices, principal: CurrentPrincipal, id: str) -> Response:
    passkey_id = as_uuid(id, "passkey")
    rename_passkey(services, principal, passkey_id, body.name)
    named = next(passkey for passkey in _own(services, principal) if passkey.passkey_id == passkey_id)
    return json_response(_passkey_resource(named))


@router.delete(
    "/passkeys/{id}",
    status_code=204,
    summary="Remove a passkey, within ten minutes of a sign-in",
    **allow("owner", "admin", "member"),
)
def remove(services: RequestServices, principal: CurrentPrincipal, id: str) -> Response:
    remove_passkey(services, principal, as_uuid(id, "passkey"))
    return Response(status_code=204)
