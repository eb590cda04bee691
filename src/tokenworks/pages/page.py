"""What every page is made with: who looks at it, in which language; errors for people."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Annotated, Any, Final

from fastapi import FastAPI, Form, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from pydantic import AfterValidator

from tokenworks.kernel import TokenworksError, flaw, shown
from tokenworks.pages.words import WORDS, refusal
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
# What a form may name as the page to come back to: one of ours, nothing of another site.
_OWN_PAGE = re.compile(
    r"/(?:(?:order|products|usage|keys|family|bill|privacy|sessions|terms|sign-in)(?:\?[A-Za-z0-9=&_-]{0,200})?"
    r"|products/[0-9a-f-]{36}/(?:change|cancel|pause|resume)(?:\?offering=[a-z0-9-]{1,63})?"
    r"|account/(?:suspend|resume)"
    r"|bill/dispute\?[A-Za-z0-9=&_-]{1,200})"
)
# Nothing but our own style sheet and pictures; no script, no frame, forms to ourselves alone.
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def _without_direction_marks(value: object) -> object:
    """What a page says: beside the escaping of HTML, nothing that turns the direction of the text around it."""
    return shown(value, lines=True) if isinstance(value, str) and not isinstance(value, Markup) else value


_templates = Environment(
    loader=PackageLoader("tokenworks.pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    finalize=_without_direction_marks,
)  # fmt: skip


def _whole_days(text: str) -> Markup:
    """A text in which no line breaks inside of a day."""
    return Markup(_DAY.sub(r'<span class="day">\g<0></span>', str(escape(shown(text)))))  # noqa: S704 - escaped here


_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_templates.filters["days"] = _whole_days


def _checked_line(text: str) -> str:
    found = flaw(text)
    if found is not None:
        raise ValueError(f"it has {found}: leave it out")
    return text


FormText = Annotated[str, Form(max_length=200), AfterValidator(_checked_line)]


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who is signed in, and whose account that is."""

    principal: Principal
    subscriber: Subscriber

    @property
    def is_member(self) -> bool:
        return self.principal.role == "member"


def visitor_of(request: Request, services: Services, *roles: Role) -> Visitor | None:
    """Who looks at the page; None where nobody is signed in. Raises `NotAllowed` for other roles (owner and admin, where none are
    named).
    """
    try:
        principal = principal_of(request, services)
    except NotSignedIn:
        return None
    if principal.role not in (roles or ("owner", "admin")):
        raise NotAllowed("this page is the owner's")
    return Visitor(principal, own_subscriber(services, principal))


def language_of(request: Request, visitor: Visitor | None = None) -> Language:
    """What was chosen, else the subscriber's own (a member's browser's), else the browser's."""
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    if chosen not in {"zh", "en"}:
        own_words = visitor is not None and not visitor.is_member
        chosen = (
            visitor.subscriber.language
            if visitor is not None and own_words
            else request.headers.get("accept-language", "zh")[:2]
        )
    return "en" if chosen == "en" else "zh"


def own_page_or_shop(text: str) -> str:
    """A path of our pages, or the shop's where it is none."""
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
    **more: Any,
) -> HTMLResponse:
    """`page`: what the navigation marks; `title`: a word of `WORDS`."""
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
    **more: Any,
) -> HTMLResponse:
    words = WORDS[language]
    here = f"{request.url.path}?{request.url.query}".rstrip("?") if request.method == "GET" else f"/{page}"
    html = _templates.get_template(template).render(
        language=language, t=words, page=page, title=words[title], operator=operator, here=own_page_or_shop(here),
        nav=("order",) if visitor is None else NAV[visitor.principal.role], signed_in=visitor is not None, **more,
    )  # fmt: skip
    return HTMLResponse(html, status, headers=HEADERS)


def sign_in_page(
    request: Request,
    services: Services,
    back: str,
    identifier: str | None = None,
    error: TokenworksError | None = None,
) -> HTMLResponse:
    """The sign-in form, for a code or (with `identifier`) with one; it leads back to a page of ours."""
    back = own_page_or_shop(back)
    page = back.lstrip("/").split("?")[0].split("/")[0]
    return render(
        request, services, "sign_in.html", page, "sign_in", error=error, identifier=identifier, back=back
    )


# Errors, for people.


def show_error_pages(app: FastAPI) -> None:
    """What a browser asks for and does not get is answered with a page; programs get problem details as before."""
    for kind, handler in list(app.exception_handlers.items()):
        if iscoroutinefunction(handler):
            continue  # The framework's own, of web sockets: there are none.
        app.exception_handlers[kind] = _with_error_page(handler)


def _with_error_page(handler: Callable[..., Any]) -> Callable[..., Any]:
    def answer(request: Request, error: Exception) -> Response:
        response: Response = handler(request, error)
        if not wants_html(request) or response.media_type != "application/problem+json":
            return response
        return _error_page(request, response)

    return answer


def wants_html(request: Request) -> bool:
    """True for a browser: it asks for HTML, and not for JSON."""
    accept = request.headers.get("accept", "")
    return "text/html" in accept and "json" not in accept


def _error_page(request: Request, problem: Response) -> Response:
    visitor, operator = None, ""
    try:
        with request.app.state.open_services() as services:
            operator = services.operator
            visitor = visitor_of(request, services, "owner", "admin", "member")
    except TokenworksError:
        pass  # The page is shown to nobody in particular: a stranger, staff, or while the database is away.
    language = language_of(request, visitor)
    detail = str(json.loads(bytes(problem.body)).get("detail", ""))
    kind = {404: "404", 403: "403", 405: "404", 503: "503"}.get(problem.status_code, "other")
    page = _rendered(
        request, language, operator or "Tokenworks", "error.html", "", f"error_{kind}", status=problem.status_code, visitor=visitor,
        error=None, said=WORDS[language][f"error_{kind}_more"],
        detail=detail if kind == "other" and language == "en" else "",
    )  # fmt: skip
    for name in ("retry-after", "allow"):
        if name in problem.headers:
            page.headers[name] = problem.headers[name]
    return page
