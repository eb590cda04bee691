"""Sign-in for the API and the pages: cookies of challenge and session, and the code that is sent after the response."""

from datetime import datetime
from typing import Annotated, Final, Literal

import structlog
from fastapi import Request, Response
from pydantic import Field
from starlette.background import BackgroundTask

from tokenworks.kernel import TokenworksError
from tokenworks.subscriptions import OpenedSession
from tokenworks.trust import Principal, Session
from tokenworks.web.client import check_own_page, client_address
from tokenworks.web.principals import COOKIE
from tokenworks.web.services import Services

log = structlog.get_logger()

CHALLENGE_COOKIE: Final = "tokenworks_challenge"
# As long as a code can be valid at most.
CHALLENGE_S: Final = 3600

Identifier = Annotated[str, Field(min_length=6, max_length=32)]


def send_code_later(request: Request, challenge: str, later: tuple[str, str] | None) -> BackgroundTask | None:
    """The task that sends a code after the response. Its failure is hidden from the client, which must not learn who has an account."""
    if later is None:
        return None

    def run() -> None:
        try:
            request.app.state.send_code(*later)
        except TokenworksError as error:
            log.warning("sign_in.code_not_sent", error=type(error).__name__)
            with request.app.state.open_services() as services:
                services.identity.not_sent(challenge)

    return BackgroundTask(run)


def sign_in(
    services: Services,
    request: Request,
    identifier: str,
    code: str,
    language: Literal["zh", "en"] = "zh",
    challenge: str | None = None,
) -> OpenedSession:
    """Exchange a code for a session. The challenge is the argument, else its cookie. Raises `NotAllowed`, and what `SignIns.enter`
    raises.
    """
    check_own_page(request)
    challenge = challenge or request.cookies.get(CHALLENGE_COOKIE)
    return services.sign_ins.enter(
        identifier, code, challenge, client_address(request), request.headers.get("user-agent"), language
    )


def set_cookie(response: Response, text: str, ends: datetime, *, secure: bool) -> None:
    response.set_cookie(COOKIE, text, expires=ends, httponly=True, secure=secure, samesite="strict", path="/")


def set_challenge(response: Response, text: str, *, secure: bool) -> None:
    """Set the cookie with which a browser's form sends the challenge. No response deletes it: the gateway relays one cookie of a
    response only, and a challenge whose code was used is worth nothing.
    """
    response.set_cookie(
        CHALLENGE_COOKIE, text, max_age=CHALLENGE_S, httponly=True, secure=secure, samesite="strict", path="/"
    )


def live_sessions(services: Services, principal: Principal) -> list[Session]:
    """Sessions that a principal may list and end: its own; for the owner of an account, those of all members."""
    assert principal.subscriber_id is not None
    return services.identity.sessions(
        principal.subscriber_id, None if principal.role == "owner" else principal.member_id
    )
