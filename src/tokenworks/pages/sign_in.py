"""Sign-in and sign-out."""

import re
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from tokenworks.kernel import TokenworksError
from tokenworks.pages.page import (
    FormText,
    language_of,
    own_page_or_shop,
    sign_in_page,
)
from tokenworks.subscriptions import CodeSender, OpenedSession
from tokenworks.trust import NotAllowed, NotSignedIn
from tokenworks.web.client import check_own_page, client_address, is_secure
from tokenworks.web.passkeys import ANSWER_CHARS_MAX, sign_in_with_passkey, used_credential
from tokenworks.web.principals import COOKIE, audit, principal_of
from tokenworks.web.services import RequestServices
from tokenworks.web.sign_in import send_code_later, set_challenge, set_cookie, sign_in

router = APIRouter(include_in_schema=False)
_OWNERS_PAGE = re.compile(r"/(order|products|plans|bills?|account)\b")

# Signing in.


@router.get("/sign-in")
def show_sign_in(
    request: Request, services: RequestServices, back: Annotated[str, Query(max_length=200)] = "/"
) -> Response:
    return sign_in_page(request, services, back, status=200)


@router.post("/sign-in/code")
def send_code(
    request: Request, services: RequestServices, identifier: FormText, back: FormText = "/order"
) -> Response:
    check_own_page(request)
    send: CodeSender = request.app.state.send_code
    try:
        challenge, later = services.sign_ins.request_code(identifier, client_address(request), send)
    except TokenworksError as error:
        return sign_in_page(request, services, back, None, error, status=200, error_at="identifier")
    response = sign_in_page(request, services, back, identifier, status=200)
    set_challenge(response, challenge, secure=is_secure(request))
    response.background = send_code_later(request, challenge, later)
    return response


@router.post("/sign-in")
def enter(
    request: Request,
    services: RequestServices,
    identifier: FormText,
    code: FormText,
    back: FormText = "/order",
) -> Response:
    try:
        entered = sign_in(services, request, identifier, code.strip(), language_of(request))
    except NotAllowed:
        raise
    except TokenworksError as error:
        return sign_in_page(request, services, back, identifier, error, status=200, error_at="code")
    return _signed_in(request, entered, back)


@router.post("/sign-in/passkey")
def enter_with_passkey(
    request: Request,
    services: RequestServices,
    credential: Annotated[str, Form(max_length=ANSWER_CHARS_MAX)],
    back: FormText = "/order",
) -> Response:
    try:
        entered = sign_in_with_passkey(services, request, used_credential(credential))
    except NotAllowed:
        raise
    except TokenworksError as error:
        return sign_in_page(request, services, back, None, error, status=200)
    return _signed_in(request, entered, back)


def _signed_in(request: Request, entered: OpenedSession, back: str) -> Response:
    to = own_page_or_shop(back)
    if entered.member.role == "member" and _OWNERS_PAGE.match(to):
        to = "/usage"
    response = RedirectResponse(to, 303)
    set_cookie(response, entered.text, entered.ends_at, secure=is_secure(request))
    return response


@router.post("/sign-out")
def leave(request: Request, services: RequestServices) -> Response:
    try:
        principal = principal_of(request, services)
        if principal.session_id is not None:
            with services.transaction():
                services.identity.end_session(principal.session_id)
                audit(services, principal, "sign_out", principal.subscriber_id)
    except NotSignedIn:
        pass
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(COOKIE, path="/")
    return response
