"""Sign-in with a one-time code, and sign-out."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tokenworks.subscriptions import CodeSender
from tokenworks.trust import CODE_LIFE
from tokenworks.web.bodies import StrictBody
from tokenworks.web.client import check_own_page, client_address, is_secure
from tokenworks.web.content import instant, json_response
from tokenworks.web.principals import ALL_ROLES, COOKIE, CurrentPrincipal, allow, audit
from tokenworks.web.services import RequestServices
from tokenworks.web.sign_in import Identifier, send_code_later, set_challenge, set_cookie, sign_in

router = APIRouter(prefix="/api", tags=["account"])


class CodeWanted(StrictBody):
    """A phone number (E.164), or a broadband account number."""

    identifier: Identifier


class SignIn(StrictBody):
    """`challenge` is from the response to the request for the code. Without it, and without its cookie, the newest code that was
    requested from the same address counts.
    """

    identifier: Identifier
    code: str = Field(pattern=r"^[0-9]{6,10}$")
    challenge: str | None = Field(default=None, max_length=64)


@router.post("/sign-in/code", status_code=202, summary="Send a one-time code")
def code(request: Request, body: CodeWanted, services: RequestServices) -> Response:
    check_own_page(request)
    send: CodeSender = request.app.state.send_code
    challenge, later = services.sign_ins.request_code(body.identifier, client_address(request), send)
    response = json_response(
        {"sent": True, "valid_for_s": int(CODE_LIFE.total_seconds()), "challenge": challenge}, 202
    )
    set_challenge(response, challenge, secure=is_secure(request))
    response.background = send_code_later(request, challenge, later)
    return response


@router.post("/sign-in", status_code=201, summary="Sign in, or register, with a code")
def signed_in(request: Request, body: SignIn, services: RequestServices) -> Response:
    language: Literal["zh", "en"] = (
        "en" if request.headers.get("accept-language", "").startswith("en") else "zh"
    )
    text, ends, subscriber, member = sign_in(
        services, request, body.identifier, body.code, language, body.challenge
    )
    response = json_response(
        {"token": text, "expires_at": instant(ends), "subscriber_id": str(subscriber.subscriber_id), "member": member.name}, 201
    )  # fmt: skip
    set_cookie(response, text, ends, secure=is_secure(request))
    return response


@router.post("/sign-out", status_code=204, summary="End this session", **allow(*ALL_ROLES))
def sign_out(services: RequestServices, principal: CurrentPrincipal) -> Response:
    if principal.session_id is not None:
        with services.transaction():
            services.identity.end_session(principal.session_id)
            audit(services, principal, "sign_out", principal.subscriber_id)
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, path="/")
    return response
