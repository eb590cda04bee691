"""The links of e-mails: confirming an address, and ending e-mails of a kind. The token in the link is the credential.

A GET changes nothing, since mail servers and readers open links by themselves: it shows a button. The POST of a mail reader's own
button has no page (RFC 8058, section 3.2).
"""

from html import escape
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from tokenworks.kernel import NotFound
from tokenworks.subscriptions import Person
from tokenworks.texts import CATALOGUES, Language
from tokenworks.web.client import client_address
from tokenworks.web.services import RequestServices, Services

router = APIRouter(prefix="/api/notices", tags=["notices"])

TOKEN_CHARS_MAX: Final = 200
Token = Annotated[str, Query(min_length=1, max_length=TOKEN_CHARS_MAX, pattern=r"^[A-Za-z0-9._-]+$")]
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    # The address of the page has the token.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "X-Robots-Tag": "noindex",
}


def _language(request: Request) -> Language:
    return "en" if request.headers.get("accept-language", "").startswith("en") else "zh"


def _page(request: Request, title: str, text: str, button: str | None = None, status: int = 200) -> Response:
    """A page without style and script: a text, and the button that sends the same address by POST."""
    language = _language(request)
    texts = CATALOGUES[language].notice_mails
    form = f'<form method="post"><button>{escape(texts[button])}</button></form>' if button else ""
    content = (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(texts[title])}</title></head><body><main><h1>{escape(texts[title])}</h1>"
        f"<p>{escape(texts[text])}</p>{form}</main></body></html>"
    )
    return Response(content, status, _HEADERS, "text/html; charset=utf-8")


def _audit(request: Request, services: Services, person: Person, action: str, after: object) -> None:
    services.identity.audit(
        "link:email", "member", action, str(person.person_id), None, after, address=client_address(request),
        person_id=person.subscriber_id,
    )  # fmt: skip


@router.get("/email/confirm", summary="The page of the link that confirms an e-mail address")
def confirm_page(request: Request, token: Token) -> Response:
    return _page(request, "confirm_title", "confirm_lead", "confirm_do")


@router.post("/email/confirm", summary="Confirm an e-mail address by the token of its link")
def confirm(request: Request, services: RequestServices, token: Token) -> Response:
    try:
        with services.transaction():
            person = services.notice_choices.confirm(token)
            _audit(request, services, person, "notice.email", {"done": "confirm"})
    except NotFound:
        return _page(request, "confirm_title", "invalid", status=404)
    return _page(request, "confirm_title", "confirmed")


@router.get("/unsubscribe", summary="The page of the link that ends e-mails of a kind")
def unsubscribe_page(request: Request, token: Token) -> Response:
    return _page(request, "unsubscribe_title", "unsubscribe_lead", "unsubscribe_do")


@router.post(
    "/unsubscribe", summary="End e-mails of a kind by the token of their link, with one click (RFC 8058)"
)
def unsubscribe(request: Request, services: RequestServices, token: Token) -> Response:
    try:
        with services.transaction():
            person, kind = services.notice_choices.unsubscribe(token)
            _audit(request, services, person, "notice.choose", [f"{kind} email off"])
    except NotFound:
        return _page(request, "unsubscribe_title", "invalid", status=404)
    return _page(request, "unsubscribe_title", "unsubscribed")
