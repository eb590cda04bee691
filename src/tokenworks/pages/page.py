"""What all pages share: the visitor, the language, rendering, error pages."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Annotated, Final

from fastapi import FastAPI, Form, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from pydantic import AfterValidator

from tokenworks.kernel import TokenworksError, flaw, shown
from tokenworks.pages.words import STAFF_WORDS, WORDS, refusal
from tokenworks.subscriptions import Subscriber
from tokenworks.texts import Language
from tokenworks.trust import NotAllowed, NotSignedIn, Principal, Role
from tokenworks.web.principals import own_subscriber, principal_of
from tokenworks.web.services import Services

LANGUAGE_COOKIE: Final = "tokenworks_language"
NAV: Final[dict[Role, tuple[str, ...]]] = {
    "owner": ("order", "products", "usage", "keys", "family", "bill"),
    "admin": ("order", "products", "usage", "keys", "family", "bill"),
    "member": ("usage", "keys", "family"),
}
# Pages to which a form may return: only our own, never another site.
_OWN_PAGE = re.compile(
    r"/(?:(?:order|products|usage|keys|family|bill|privacy|sessions|terms|sign-in|ops)(?:\?[A-Za-z0-9=&_-]{0,200})?"
    r"|products/[0-9a-f-]{36}/(?:change|cancel|pause|resume)(?:\?offering=[a-z0-9-]{1,63})?"
    r"|account/(?:suspend|resume)"
    r"|bill/dispute\?[A-Za-z0-9=&_-]{1,200})"
)
# Only our own style sheet and pictures; no script, no frame, forms only to our own pages.
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
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


def own_page_or_shop(text: str) -> str:
    """The path, if it is one of our pages; else the shop."""
    return text if _OWN_PAGE.fullmatch(text) else "/order"


def render(
    request: Request,
    services: Services,
    template: str,
    page: str,
    title: str,
    *,
    visitor: Visitor | None = None,
    error: TokenworksError | None = None,
    status: int = 200,
    **more: object,
) -> HTMLResponse:
    """Render a template. `page`: the entry that the navigation marks; `title`: a name in `WORDS`; `more`: variables of the template."""
    language = language_of(request, visitor)
    if error is not None and status == 200:
        status = 422
    return _rendered(
        request, language, services.operator, template, page, title, status=status, visitor=visitor,
        error=None if error is None else refusal(error, language), **more,
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
    **more: object,
) -> HTMLResponse:
    words = WORDS[language]
    current_page = (
        f"{request.url.path}?{request.url.query}".rstrip("?") if request.method == "GET" else f"/{page}"
    )
    html = _templates.get_template(template).render(
        language=language, t=words, page=page, title=words[title], operator=operator, current_page=own_page_or_shop(current_page),
        nav=("order",) if visitor is None else NAV[visitor.principal.role], signed_in=visitor is not None, **more,
    )  # fmt: skip
    return HTMLResponse(html, status, headers=HEADERS)


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
        current_page="/ops", nav=("ops",), signed_in=False, error=error, **more,
    )  # fmt: skip
    return HTMLResponse(html, status, headers=HEADERS)


def sign_in_page(
    request: Request,
    services: Services,
    back: str,
    identifier: str | None = None,
    error: TokenworksError | None = None,
) -> HTMLResponse:
    """The sign-in form: for a phone number, or (with `identifier`) for the code that was sent. It returns to `back`."""
    back = own_page_or_shop(back)
    page = back.lstrip("/").split("?")[0].split("/")[0]
    return render(
        request, services, "sign_in.html", page, "sign_in", error=error, identifier=identifier, back=back
    )


# Error pages.


def show_error_pages(app: FastAPI) -> None:
    """Answer a browser's errors with a page. Programs still get problem details."""
    for kind, handler in list(app.exception_handlers.items()):
        if iscoroutinefunction(handler):
            continue  # The framework's handler for web sockets, which this application does not have.
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
    page = _rendered(
        request, language, operator or "Tokenworks", "error.html", "", f"error_{kind}", status=problem.status_code, visitor=visitor,
        error=None, explanation=WORDS[language][f"error_{kind}_more"],
        detail=detail if kind == "other" and language == "en" else "",
    )  # fmt: skip
    for name in ("retry-after", "allow"):
        if name in problem.headers:
            page.headers[name] = problem.headers[name]
    return page
