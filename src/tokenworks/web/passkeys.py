"""Passkeys for the API and the pages: the bodies that a browser sends, and what is written to the audit trail.

The bodies are those of the standard's JSON (W3C Web Authentication Level 3, section 5.1): unknown fields are ignored, since browsers add
some.
"""

from typing import Annotated, Final, TypeVar
from uuid import UUID

from fastapi import Request
from pydantic import Field, ValidationError

from tokenworks.kernel import Invalid
from tokenworks.subscriptions import OpenedSession
from tokenworks.trust import (
    ATTESTATION_BYTES_MAX,
    AUTHENTICATOR_DATA_BYTES_MAX,
    CLIENT_DATA_BYTES_MAX,
    CREDENTIAL_ID_BYTES_MAX,
    SIGNATURE_BYTES_MAX,
    USER_HANDLE_BYTES_MAX,
    NewPasskey,
    PasskeyAnswer,
    Principal,
    decode_base64url,
)
from tokenworks.web.bodies import CheckedBody
from tokenworks.web.client import check_own_page, client_address
from tokenworks.web.principals import audit, own_subscriber, phone_of
from tokenworks.web.services import Services
from tokenworks.web.urls import base_url

# The whole of an answer as JSON: its parts are bounded by themselves.
ANSWER_CHARS_MAX: Final = 65_536
_TAIL_DIGITS: Final = 4


_Credential = TypeVar("_Credential", bound=CheckedBody)


def _base64url(bytes_max: int) -> object:
    return Field(max_length=(bytes_max + 2) // 3 * 4)


class _Attestation(CheckedBody):
    clientDataJSON: Annotated[str, _base64url(CLIENT_DATA_BYTES_MAX)]  # noqa: N815 - a name of the standard
    attestationObject: Annotated[str, _base64url(ATTESTATION_BYTES_MAX)]  # noqa: N815
    transports: list[Annotated[str, Field(max_length=32)]] = Field(default=[], max_length=16)


class _Assertion(CheckedBody):
    clientDataJSON: Annotated[str, _base64url(CLIENT_DATA_BYTES_MAX)]  # noqa: N815
    authenticatorData: Annotated[str, _base64url(AUTHENTICATOR_DATA_BYTES_MAX)]  # noqa: N815
    signature: Annotated[str, _base64url(SIGNATURE_BYTES_MAX)]
    userHandle: Annotated[str | None, _base64url(USER_HANDLE_BYTES_MAX)] = None  # noqa: N815


class MadeCredential(CheckedBody):
    """The answer to `navigator.credentials.create`, as `toJSON` of the browser writes it."""

    response: _Attestation

    def read(self) -> NewPasskey:
        """Raises `PasskeyWrong`."""
        parts = self.response
        return NewPasskey(
            decode_base64url(parts.clientDataJSON, CLIENT_DATA_BYTES_MAX),
            decode_base64url(parts.attestationObject, ATTESTATION_BYTES_MAX),
            tuple(parts.transports),
        )


class UsedCredential(CheckedBody):
    """The answer to `navigator.credentials.get`, as `toJSON` of the browser writes it."""

    id: Annotated[str, _base64url(CREDENTIAL_ID_BYTES_MAX)]
    response: _Assertion

    def read(self) -> PasskeyAnswer:
        """Raises `PasskeyWrong`."""
        parts = self.response
        return PasskeyAnswer(
            decode_base64url(self.id, CREDENTIAL_ID_BYTES_MAX),
            decode_base64url(parts.clientDataJSON, CLIENT_DATA_BYTES_MAX),
            decode_base64url(parts.authenticatorData, AUTHENTICATOR_DATA_BYTES_MAX),
            decode_base64url(parts.signature, SIGNATURE_BYTES_MAX),
            decode_base64url(parts.userHandle or "", USER_HANDLE_BYTES_MAX),
        )


def made_credential(text: str) -> NewPasskey:
    """The answer to `navigator.credentials.create` that a form sends as JSON. Raises `Invalid`, `PasskeyWrong`."""
    return _read(MadeCredential, text).read()


def used_credential(text: str) -> PasskeyAnswer:
    """The answer to `navigator.credentials.get` that a form sends as JSON. Raises `Invalid`, `PasskeyWrong`."""
    return _read(UsedCredential, text).read()


def _read(kind: type[_Credential], text: str) -> _Credential:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise Invalid("the answer of the passkey can't be read") from error


def sign_in_options(services: Services, request: Request) -> dict[str, object]:
    """Raises `NotAllowed`, `PasskeysOff`."""
    check_own_page(request)
    return services.passkeys.options_to_sign_in(base_url.get(), client_address(request))


def sign_in_with_passkey(services: Services, request: Request, answer: PasskeyAnswer) -> OpenedSession:
    """Raises `NotAllowed`, and what `SignIns.enter_with_passkey` raises."""
    check_own_page(request)
    client = request.headers.get("user-agent")
    return services.sign_ins.enter_with_passkey(base_url.get(), answer, client_address(request), client)


def options_to_add(services: Services, principal: Principal) -> dict[str, object]:
    """The device shows the last digits of the number: a person tells two accounts apart by them, and they name no one."""
    assert principal.member_id is not None
    account = f"…{phone_of(services, principal)[-_TAIL_DIGITS:]}"
    return services.passkeys.options_to_add(
        base_url.get(), principal.session_id, principal.member_id, account, services.operator
    )


def add_passkey(services: Services, principal: Principal, made: NewPasskey, name: str) -> UUID:
    """Raises what `Passkeys.add` raises."""
    assert principal.member_id is not None
    subscriber = own_subscriber(services, principal)
    with services.transaction():
        passkey_id = services.passkeys.add(
            base_url.get(), principal.session_id, subscriber.subscriber_id, principal.member_id, made, name
        )
        audit(services, principal, "passkey.add", passkey_id)
    return passkey_id


def rename_passkey(services: Services, principal: Principal, passkey_id: UUID, name: str) -> None:
    """Raises `PasskeyNotFound`, `Invalid`."""
    assert principal.subscriber_id is not None and principal.member_id is not None
    with services.transaction():
        if services.passkeys.rename(principal.subscriber_id, principal.member_id, passkey_id, name):
            audit(services, principal, "passkey.rename", passkey_id)


def remove_passkey(services: Services, principal: Principal, passkey_id: UUID) -> None:
    """Raises `SignInTooOld`, `PasskeyNotFound`."""
    assert principal.member_id is not None
    with services.transaction():
        services.passkeys.remove(principal.session_id, principal.member_id, passkey_id)
        audit(services, principal, "passkey.remove", passkey_id)
