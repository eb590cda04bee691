"""Sign-in and sign-out, the choice of the language, the root and the static files."""

import re
from importlib.resources import files
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from tokenworks import __version__
from tokenworks.kernel import NotFound, TokenworksError
from tokenworks.pages.page import (
    LANGUAGE_COOKIE,
    FormText,
    language_of,
    own_page_or_shop,
    sign_in_page,
)
from tokenworks.subscriptions import CodeSender
from tokenworks.trust import NotAllowed, NotSignedIn
from tokenworks.web.client import check_own_page, client_address, is_secure
from tokenworks.web.principals import COOKIE, audit, principal_of
from tokenworks.web.services import RequestServices
from tokenworks.web.sign_in import send_code_later, set_challenge, set_cookie, sign_in

router = APIRouter(include_in_schema=False)
_OWNERS_PAGE = re.compile(r"/(order|products|bill|account)\b")
_STATIC: Final = {"tokenworks.css": "text/css", "icon.svg": "image/svg+xml"}
_static = {name: files("tokenworks.pages").joinpath(f"static/{name}").read_bytes() for name in _STATIC}


@router.api_route("/", methods=["GET", "HEAD"])
def root(request: Request) -> Response:
    """Redirect browsers to the shop. A program that asks for JSON gets the service's name and version."""
    if "json" in request.headers.get("accept", ""):
        return JSONResponse({"service": "tokenworks", "version": __version__})
    return RedirectResponse("/order", 303)


@router.get("/static/{name}")
def static(name: str) -> Response:
    if name not in _STATIC:
        raise NotFound("there is no such file")
    headers = {"Cache-Control": "max-age=300", "X-Content-Type-Options": "nosniff"}
    return Response(_static[name], media_type=_STATIC[name], headers=headers)


# Signing in.


@router.get("/sign-in")
def show_sign_in(
    request: Request, services: RequestServices, back: Annotated[str, Query(max_length=200)] = "/usage"
) -> Response:
    return sign_in_page(request, services, back)


@router.post("/sign-in/code")
def send_code(
    request: Request, services: RequestServices, identifier: FormText, back: FormText = "/order"
) -> Response:
    check_own_page(request)
    send: CodeSender = request.app.state.send_code
    try:
        challenge, later = services.sign_ins.request_code(identifier, client_address(request), send)
    except TokenworksError as error:
        return sign_in_page(request, services, back, None, error)
    response = sign_in_page(request, services, back, identifier)
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
        text, ends, _, member = sign_in(services, request, identifier, code.strip(), language_of(request))
    except NotAllowed:
        raise
    except TokenworksError as error:
        return sign_in_page(request, services, back, identifier, error)
    to = own_page_or_shop(back)
    if member.role == "member" and _OWNERS_PAGE.match(to):
        to = "/usage"
    response = RedirectResponse(to, 303)
    set_cookie(response, text, ends, secure=is_secure(request))
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


@router.post("/language")
def language(to: Annotated[Literal["zh", "en"], Form()], back: FormText = "/order") -> Response:
    response = RedirectResponse(own_page_or_shop(back), 303)
    response.set_cookie(LANGUAGE_COOKIE, to, max_age=365 * 86_400, samesite="lax", path="/")
    return response
