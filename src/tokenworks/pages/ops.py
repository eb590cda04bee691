"""/ops for now: sign-in and sign-out of staff, its sessions, and setting up an authenticator."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import AfterValidator

from tokenworks.kernel import NotFound, TokenworksError, Unavailable
from tokenworks.pages.assets import static
from tokenworks.pages.page import FormText, checked_line, language_of, render_staff
from tokenworks.pages.preferences import language, theme
from tokenworks.pages.sessions import device_of
from tokenworks.pages.words import SESSION_WORDS, STAFF_WORDS, staff_refusal
from tokenworks.subscriptions import minute_of
from tokenworks.trust import OidcClient, OidcPerson, OidcRefused, Origin, StaffSession, TooManyAttempts
from tokenworks.web.client import check_own_page
from tokenworks.web.errors import status_of
from tokenworks.web.principals import as_uuid, audit
from tokenworks.web.services import RequestServices, Services
from tokenworks.web.staff_door import (
    CurrentDoor,
    CurrentStaff,
    StaffDoor,
    allow_staff,
    drop_session,
    flow_of,
    origin_of,
    principal_of_session,
    set_flow,
    set_session,
    staff_session,
)

router = APIRouter(include_in_schema=False)
# What the pages of the staff port need beside /ops.
staff_port_router = APIRouter(include_in_schema=False)
staff_port_router.add_api_route("/static/{name}", static, methods=["GET"])
staff_port_router.add_api_route("/language", language, methods=["POST"])
staff_port_router.add_api_route("/theme", theme, methods=["POST"])

TEXT_CHARS_MAX: Final = 2048
Secret = Annotated[str, Form(max_length=100), AfterValidator(checked_line)]
Link = Annotated[str, Query(max_length=100), AfterValidator(checked_line)]
AnswerText = Annotated[str | None, Query(max_length=TEXT_CHARS_MAX)]
Done = Annotated[Literal["ended", "ended_others"] | None, Query()]


@staff_port_router.api_route("/", methods=["GET", "HEAD"])
@staff_port_router.api_route("/sign-in", methods=["GET"])
def to_ops() -> Response:
    return RedirectResponse("/ops", 303)


def _words(request: Request) -> Mapping[str, str]:
    return STAFF_WORDS[language_of(request)]


def _form(
    request: Request, door: StaffDoor, operator: str, error: TokenworksError | None = None, status: int = 200
) -> HTMLResponse:
    """The sign-in form."""
    page = render_staff(
        request, "ops_sign_in.html", "sign_in", operator, error=staff_refusal(error, language_of(request)), status=status,
        oidc=door.oidc is not None, needs_code=door.needs_code,
    )  # fmt: skip
    return _with_wait(page, error)


def _with_wait(page: HTMLResponse, error: TokenworksError | None) -> HTMLResponse:
    """The page of a refusal, with the seconds to wait if there were too many."""
    if isinstance(error, TooManyAttempts):
        page.headers["Retry-After"] = str(error.wait_s)
    return page


@router.get("/ops")
def ops(request: Request, services: RequestServices, door: CurrentDoor, done: Done = None) -> Response:
    session = staff_session(request, services, door)
    if session is None:
        return _form(request, door, services.operator, status=401)
    words = _words(request)
    account = services.staff_sign_in.account(session.name)
    live = services.staff_sessions.live(session.staff_id)
    devices = SESSION_WORDS[language_of(request)]
    return render_staff(
        request, "ops.html", "title", services.operator, done=words[done] if done else None,
        lead=words["lead"].format(name=session.name, role=words[session.role]), has_authenticator=account.has_authenticator,
        codes_left=words["codes_left"].format(count=account.recovery_codes_left),
        rows=[_row(one, session, words, devices) for one in live], others=len(live) > 1,
    )  # fmt: skip


def _row(
    one: StaffSession, current: StaffSession, words: Mapping[str, str], devices: Mapping[str, str]
) -> dict[str, object]:
    lines = [
        words["since"].format(at=minute_of(one.created_at)),
        words["seen"].format(at=minute_of(one.seen_at)),
        words["where"].format(place=one.seen_address or words["unknown_place"]),
        words["by"].format(method=words[f"method_{one.method}"]),
        words["until"].format(at=minute_of(one.expires_at)),
    ]
    is_this = one.session_id == current.session_id
    return {
        "id": str(one.session_id),
        "device": devices[device_of(one.client)],
        "lines": lines,
        "is_this": is_this,
    }


@router.get("/ops/sign-in")
def sign_in_form(request: Request, services: RequestServices, door: CurrentDoor) -> Response:
    return _form(request, door, services.operator)


@router.post("/ops/sign-in")
def sign_in(
    request: Request, services: RequestServices, door: CurrentDoor, token: Secret, code: Secret = ""
) -> Response:
    before = staff_session(request, services, door)
    try:
        opened = services.staff_sign_in.by_token(
            token, code, origin_of(request, door), needs_code=door.needs_code
        )
    except TokenworksError as error:
        return _form(request, door, services.operator, error, status_of(type(error)))
    _end_before(services, before)
    response = RedirectResponse("/ops", 303)
    set_session(request, response, opened.text, opened.expires_at)
    return response


def _end_before(services: Services, before: StaffSession | None) -> None:
    """End the session that the browser had: a sign-in never goes on in it."""
    if before is not None:
        services.staff_sessions.end(before.staff_id, before.session_id)


@router.get("/ops/sign-in/oidc")
def to_provider(request: Request, door: CurrentDoor) -> Response:
    """Redirect to the provider. No connection of the database is held while the provider answers."""
    client = _client(door)
    with request.app.state.open_services() as services:
        flow, operator = services.staff_sign_in.begin_oidc(), services.operator
    try:
        response = RedirectResponse(
            client.authorization_url(flow), 303, headers={"Cache-Control": "no-store"}
        )
    except Unavailable as error:
        return _form(request, door, operator, error, 503)
    set_flow(request, response, flow.cookie)
    return response


def _client(door: StaffDoor) -> OidcClient:
    if door.oidc is None:
        raise NotFound("there is no such page")
    return door.oidc


@router.get("/ops/sign-in/oidc/back")
def from_provider(
    request: Request,
    door: CurrentDoor,
    state: AnswerText = None,
    code: AnswerText = None,
    error: AnswerText = None,
    iss: AnswerText = None,
) -> Response:
    """Take the provider's answer. The page that follows leads on: a browser does not send a strict cookie with a redirect that began at
    another site.
    """
    client, origin, operator = _client(door), origin_of(request, door), ""
    said = {"code": code, "error": error, "iss": iss}
    answer = {name: text for name, text in said.items() if text is not None}
    try:
        with request.app.state.open_services() as services:
            operator = services.operator
        person = _person(request, client, state or "", answer, origin)
        with request.app.state.open_services() as services:
            opened = services.staff_sign_in.by_oidc(person, origin)
            _end_before(services, staff_session(request, services, door))
    except (OidcRefused, TooManyAttempts, Unavailable) as refused:
        return _form(request, door, operator, refused, status_of(type(refused)))
    response = render_staff(
        request, "ops_on.html", "going_on", operator, to="/ops", label="go_on", at_once=True
    )
    set_session(request, response, opened.text, opened.expires_at)
    return response


def _person(
    request: Request, client: OidcClient, state: str, answer: Mapping[str, str], origin: Origin
) -> OidcPerson:
    """The person whom the provider names. A refused answer is counted. No connection of the database is held while the provider answers."""
    with request.app.state.open_services() as services:
        flow = services.staff_sign_in.take_oidc(flow_of(request), state, origin)
        now_s = services.clock.now().timestamp()
    try:
        return client.person(flow, answer, now_s)
    except OidcRefused:
        with request.app.state.open_services() as services:
            services.staff_sign_in.count_oidc(origin)
        raise


@router.post("/ops/sign-out")
def sign_out(request: Request, services: RequestServices, door: CurrentDoor) -> Response:
    session = staff_session(request, services, door)
    there = None
    if session is not None:
        with services.transaction():
            services.staff_sessions.end(session.staff_id, session.session_id)
            audit(services, principal_of_session(session, request), "staff.sign_out", session.name)
        if session.method == "oidc" and door.oidc is not None:
            there = door.oidc.end_session_url(door.oidc.config.redirect_url.partition("/ops")[0] + "/ops")
    response: Response = RedirectResponse("/ops/sign-in", 303)
    if there is not None:
        response = render_staff(
            request,
            "ops_on.html",
            "signed_out",
            services.operator,
            to=there,
            label="sign_out_there",
            at_once=False,
        )
    drop_session(request, response)
    return response


@router.post("/ops/sessions/end", **allow_staff())
def end_session(request: Request, services: RequestServices, session: CurrentStaff, id: FormText) -> Response:
    """End one of the member's own sessions. A form that is sent twice changes nothing the second time."""
    session_id = as_uuid(id, "session")
    with services.transaction():
        if services.staff_sessions.end(session.staff_id, session_id):
            audit(services, principal_of_session(session, request), "staff.session_end", session_id)
        elif not services.staff_sessions.is_of(session.staff_id, session_id):
            raise NotFound("there is no such session")
    return RedirectResponse("/ops?done=ended", 303)


@router.post("/ops/sessions/end-others", **allow_staff())
def end_others(request: Request, services: RequestServices, session: CurrentStaff) -> Response:
    with services.transaction():
        ended = services.staff_sessions.end_all(session.staff_id, session.session_id)
        if ended:
            principal = principal_of_session(session, request)
            audit(services, principal, "staff.session_end_others", session.name, None, {"ended": ended})
    return RedirectResponse("/ops?done=ended_others", 303)


# Setting up an authenticator.


def _enrol(
    request: Request, services: Services, link: str, error: TokenworksError | None = None, **more: object
) -> HTMLResponse:
    found = {"secret": None, "uri": None, "codes": (), **more}
    page = render_staff(
        request, "ops_enrol.html", "enrol", services.operator, error=staff_refusal(error, language_of(request)),
        status=200 if error is None else status_of(type(error)), link=link, **found,
    )  # fmt: skip
    return _with_wait(page, error)


@router.get("/ops/enrol")
def enrol_form(request: Request, services: RequestServices, door: CurrentDoor, link: Link = "") -> Response:
    return _enrol(request, services, link)


@router.post("/ops/enrol")
def enrol(
    request: Request, services: RequestServices, door: CurrentDoor, link: Secret, token: Secret
) -> Response:
    check_own_page(request)
    try:
        secret, uri = services.staff_sign_in.open_link(link, token, origin_of(request, door))
    except TokenworksError as error:
        return _enrol(request, services, link, error)
    return _enrol(request, services, link, secret=secret, uri=uri)


@router.post("/ops/enrol/confirm")
def confirm(
    request: Request, services: RequestServices, door: CurrentDoor, link: Secret, token: Secret, code: Secret
) -> Response:
    check_own_page(request)
    origin = origin_of(request, door)
    try:
        codes = services.staff_sign_in.confirm_link(link, token, code, origin)
    except TokenworksError as error:
        return _enrol(request, services, link, error)
    return _enrol(request, services, "", codes=codes)
