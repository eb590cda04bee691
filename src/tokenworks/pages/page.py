"""What all pages share: the visitor, the language, rendering of pages and of parts of them, error pages."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Annotated, Final
from urllib.parse import quote

from fastapi import FastAPI, Form, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from pydantic import AfterValidator

from tokenworks.kernel import TokenworksError, flaw, shown
from tokenworks.pages.assets import address
from tokenworks.pages.navigation import STAFF_ENTRIES, entries_of
from tokenworks.pages.words import STAFF_WORDS, WORDS, refusal
from tokenworks.subscriptions import Subscriber
from tokenworks.texts import Language
from tokenworks.trust import NotAllowed, NotSignedIn, Principal, Role
from tokenworks.web.principals import own_subscriber, principal_of
from tokenworks.web.services import Services
from tokenworks.web.urls import base_url

LANGUAGE_COOKIE: Final = "tokenworks_language"
THEME_COOKIE: Final = "tokenworks_theme"
# Pages to which a form may return: only our own, never another site.
_OWN_PAGE = re.compile(
    r"/(?:(?:(?:order|products|plans|usage|keys|family|team|bill|bills|privacy|sessions|terms|sign-in|style|ops)?)(?:\?[A-Za-z0-9=&_-]{0,200})?"
    r"|products/[0-9a-f-]{36}/(?:change|cancel|pause|resume)(?:\?offering=[a-z0-9-]{1,63})?"
    r"|account/(?:suspend|resume)"
    r"|bill/dispute\?[A-Za-z0-9=&_-]{1,200})"
)
# Only our own scripts, style sheets and pictures, and requests to ourselves; nothing inline, no eval, no frame, forms only to our own pages.
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    # A page and its part have one address: a browser's own store must not mix them up.
    "Vary": "HX-Request-Type",
}


def _without_direction_marks(value: object) -> object:
    """A value for a template: without characters that change the direction of the text around it. HTML is escaped elsewhere."""
    return shown(value, lines=True) if isinstance(value, str) and not isinstance(value, Markup) else value


_templates = Environment(
    loader=PackageLoader("tokenworks.pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    finalize=_without_direction_marks,
)  # fmt: skip


def _whole_days(text: str) -> Markup:
    """Escaped text in which no line breaks inside of a date."""
    return Markup(_DAY.sub(r'<span class="day">\g<0></span>', str(escape(shown(text)))))  # noqa: S704 - escaped here


_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_templates.filters["days"] = _whole_days
_templates.globals["asset"] = address


def checked_line(text: str) -> str:
    found = flaw(text)
    if found is not None:
        raise ValueError(f"it has {found}: leave it out")
    return text


FormText = Annotated[str, Form(max_length=200), AfterValidator(checked_line)]


@dataclass(frozen=True, slots=True)
class Visitor:
    """The principal of a page, and the subscriber of its account."""

    principal: Principal
    subscriber: Subscriber

    @property
    def is_member(self) -> bool:
        return self.principal.role == "member"


def visitor_of(request: Request, services: Services, *roles: Role) -> Visitor | None:
    """The visitor of a page; None if there is no session. `roles`: who may see the page, by default owner and admin. Raises
    `NotAllowed` for other roles.
    """
    try:
        principal = principal_of(request, services)
    except NotSignedIn:
        return None
    if principal.role not in (roles or ("owner", "admin")):
        raise NotAllowed("this page is the owner's")
    return Visitor(principal, own_subscriber(services, principal))


def language_of(request: Request, visitor: Visitor | None = None) -> Language:
    """The chosen language; else the subscriber's; for members and without a session, the browser's."""
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    if chosen not in {"zh", "en"}:
        chosen = (
            visitor.subscriber.language
            if visitor is not None and not visitor.is_member
            else request.headers.get("accept-language", "zh")[:2]
        )
    return "en" if chosen == "en" else "zh"


def theme_of(request: Request) -> str | None:
    """The appearance that the visitor chose: light or dark. None: as the device has it."""
    chosen = request.cookies.get(THEME_COOKIE)
    return chosen if chosen in {"light", "dark"} else None


def own_page_or_shop(text: str) -> str:
    """The path, if it is one of our pages; else the shop."""
    return text if _OWN_PAGE.fullmatch(text) else "/order"


def is_partial(request: Request) -> bool:
    """True if a script of the page asks for a part of it. A browser that goes back asks for the whole page."""
    headers = request.headers
    return headers.get("hx-request-type") == "partial" and "hx-history-restore-request" not in headers


def render(
    request: Request,
    services: Services,
    template: str,
    page: str,
    title: str,
    *,
    visitor: Visitor | None = None,
    error: TokenworksError | None = None,
    error_at: str | None = None,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **more: object,
) -> HTMLResponse:
    """Render a template. `page`: the entry that the navigation marks; `title`: a name in `WORDS`; `error_at`: the id of the field beside
    which the error is shown, too; `more`: variables of the template.
    """
    language = language_of(request, visitor)
    if error is not None and status == 200:
        status = 422
    return _rendered(
        request, language, services.operator, template, page, title, status=status, visitor=visitor, headers=headers,
        error=None if error is None else refusal(error, language), error_at=error_at, **more,
    )  # fmt: skip


def _rendered(
    request: Request,
    language: Language,
    operator: str,
    template: str,
    page: str,
    title: str,
    *,
    status: int,
    visitor: Visitor | None,
    headers: Mapping[str, str] | None = None,
    **more: object,
) -> HTMLResponse:
    words = WORDS[language]
    entries = entries_of(None if visitor is None else visitor.principal.role)
    html = _templates.get_template(template).render(
        language=language, t=words, page=page, title=words[title], operator=operator, current_page=_current_page(request, page),
        nav=entries, theme=theme_of(request), signed_in=visitor is not None, **more,
    )  # fmt: skip
    return HTMLResponse(html, status, headers={**HEADERS, **(headers or {})})


def _current_page(request: Request, page: str) -> str:
    """The page to which a choice of the language returns: the current one, without its query if a form may not carry that."""
    if request.method != "GET":
        return own_page_or_shop(f"/{page}")
    whole = f"{request.url.path}?{request.url.query}".rstrip("?")
    return whole if _OWN_PAGE.fullmatch(whole) else own_page_or_shop(request.url.path)


def render_staff(
    request: Request,
    template: str,
    title: str,
    operator: str,
    *,
    error: str | None = None,
    status: int = 200,
    **more: object,
) -> HTMLResponse:
    """Render a page of staff. `title`: a name in `STAFF_WORDS`; `more`: variables of the template."""
    language = language_of(request)
    words = STAFF_WORDS[language]
    html = _templates.get_template(template).render(
        language=language, t={**WORDS[language], "ops": words["ops"]}, s=words, page="ops", title=words[title], operator=operator,
        current_page="/ops", nav=STAFF_ENTRIES, theme=theme_of(request), signed_in=False, is_staff=True, error=error, error_at=None, **more,
    )  # fmt: skip
    return HTMLResponse(html, status, headers=HEADERS)


def sign_in_page(
    request: Request,
    services: Services,
    back: str,
    identifier: str | None = None,
    error: TokenworksError | None = None,
    *,
    error_at: str | None = None,
    status: int = 401,
) -> HTMLResponse:
    """The sign-in form: for a phone number, or (with `identifier`) for the code that was sent. It returns to `back`.

    Where another page was asked for, the status is 401. The part of a page has no room for the form: the browser goes there.
    """
    back = own_page_or_shop(back)
    if is_partial(request):
        return HTMLResponse("", 401, {**HEADERS, "HX-Redirect": f"/sign-in?back={quote(back)}"})
    page = back.lstrip("/").split("?")[0].split("/")[0] or "home"
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return render(
        request, services, "sign_in.html", page, "sign_in", error=error, error_at=error_at, status=status, identifier=identifier, back=back, headers=headers,
        has_passkeys=services.passkeys.is_offered(base_url.get()),
    )  # fmt: skip


# Error pages.


def show_error_pages(app: FastAPI) -> None:
    """Answer a browser's errors with a page. Programs still get problem details."""
    for kind, handler in list(app.exception_handlers.items()):
        # The framework's handler for web sockets, which this application does not have; and defects, since a page could have the same one.
        if iscoroutinefunction(handler) or kind is Exception:
            continue
        app.exception_handlers[kind] = _with_error_page(handler)


def _with_error_page(
    handler: Callable[[Request, Exception], object],
) -> Callable[[Request, Exception], Response]:
    def answer(request: Request, error: Exception) -> Response:
        response = handler(request, error)
        assert isinstance(response, Response)  # a coroutine's handler is left as it is
        if not wants_html(request) or response.media_type != "application/problem+json":
            return response
        return _error_page(request, response)

    return answer


def wants_html(request: Request) -> bool:
    """True for a browser: it accepts HTML and does not ask for JSON."""
    accept = request.headers.get("accept", "")
    return "text/html" in accept and "json" not in accept


def _error_page(request: Request, problem: Response) -> Response:
    visitor, operator = None, ""
    try:
        with request.app.state.open_services() as services:
            operator = services.operator
            visitor = visitor_of(request, services, "owner", "admin", "member")
    except TokenworksError:
        pass  # No visitor: no session, staff, or the database is away.
    language = language_of(request, visitor)
    detail = str(json.loads(bytes(problem.body)).get("detail", ""))
    kind = {404: "404", 403: "403", 405: "404", 503: "503"}.get(problem.status_code, "other")
    template = "error_part.html" if is_partial(request) else "error.html"
    page = _rendered(
        request, language, operator or "Tokenworks", template, "", f"error_{kind}", status=problem.status_code, visitor=visitor,
        error=None, error_at=None, explanation=WORDS[language][f"error_{kind}_more"],
        detail=detail if kind == "other" and language == "en" else "",
    )  # fmt: skip
    for name in ("retry-after", "allow"):
        if name in problem.headers:
            page.headers[name] = problem.headers[name]
    return page
