"""The door of staff in a browser: on which listener /ops is served, its cookies, and the principal of a request.

A request of a browser has a session in a cookie, and nothing else: a staff token opens no page. The cookie is `SameSite=Strict`; the one
with which a browser comes back from an OpenID provider is `Lax`, lives for minutes, and opens nothing.
"""

from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from fastapi import Depends, Request, Response

from tokenworks.kernel import NotFound
from tokenworks.trust import (
    Listener,
    NotAllowed,
    NotSignedIn,
    OidcClient,
    Origin,
    Principal,
    Role,
    StaffSession,
)
from tokenworks.web.client import check_own_page, client_address, is_secure
from tokenworks.web.principals import ALL_STAFF, RouteOptions
from tokenworks.web.services import RequestServices, Services

# With `__Host-` a browser takes a cookie only by TLS, for the whole host and for no other host (RFC 6265bis, section 4.1.3.2). Without
# TLS, which is on loopback alone, no browser would keep it.
COOKIE: Final = "tokenworks_staff"
FLOW_COOKIE: Final = "tokenworks_staff_flow"
FLOW_S: Final = 600


@dataclass(frozen=True, slots=True)
class StaffDoor:
    """How staff sign in on one listener. `hosts`: the names under which the listener is reached, in lower case and with their ports where
    these are given; empty: names and addresses of loopback alone, so that no page of another site reaches it by a name of its own (DNS
    rebinding). `needs_code`: a sign-in by staff token needs a second factor from everyone.
    """

    listener: Listener
    hosts: frozenset[str]
    needs_code: bool
    oidc: OidcClient | None = None


def is_loopback(host: str) -> bool:
    """True for `localhost` and for addresses of loopback."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _host_of(authority: str) -> str:
    return urlsplit(f"//{authority}").hostname or ""


def door_of(request: Request) -> StaffDoor:
    """The door of the listener that a request reached. Raises `NotFound` where staff is not served, or under another name."""
    door: StaffDoor | None = getattr(request.app.state, "staff_door", None)
    host = request.headers.get("host", "").lower()
    try:
        known = host in door.hosts if door is not None and door.hosts else is_loopback(_host_of(host))
        if door is not None and not door.hosts:
            known = known and is_loopback(client_address(request))
    except ValueError:
        known = False
    if door is None or not known:
        raise NotFound("there is no such page")
    return door


CurrentDoor = Annotated[StaffDoor, Depends(door_of)]


def origin_of(request: Request, door: StaffDoor) -> Origin:
    return Origin(door.listener, client_address(request), request.headers.get("user-agent"))


def _named(request: Request, cookie: str) -> str:
    return f"__Host-{cookie}" if is_secure(request) else cookie


def staff_session(request: Request, services: Services, door: StaffDoor) -> StaffSession | None:
    """The session of a request; None if there is none. Raises `NotAllowed` if a request that changes something comes from another site."""
    if request.method not in {"GET", "HEAD"}:
        check_own_page(request)
    text = request.cookies.get(_named(request, COOKIE), "")
    found = services.staff_sessions.find(text, door.listener, client_address(request)) if text else None
    # A session that was opened by a token alone, before the settings asked for a code, opens nothing now.
    return None if found is not None and found.method == "token" and door.needs_code else found


def principal_of_session(session: StaffSession, request: Request) -> Principal:
    return Principal(
        session.name, session.role, session_id=session.session_id, address=client_address(request)
    )


def _current(request: Request, services: RequestServices, door: CurrentDoor) -> StaffSession:
    session = staff_session(request, services, door)
    if session is None:
        raise NotSignedIn("sign in first: /ops")
    return session


CurrentStaff = Annotated[StaffSession, Depends(_current)]


def allow_staff(*roles: Role) -> RouteOptions:
    """Arguments of a route decorator for a page, a partial or a stream of /ops: the roles that may have it, by default all staff."""
    wanted = roles or ALL_STAFF

    def check(session: CurrentStaff) -> None:
        if session.role not in wanted:
            raise NotAllowed(f"this is for {', '.join(wanted)}; you are {session.role}")

    return {"dependencies": [Depends(check)], "openapi_extra": {"x-staff-roles": sorted(wanted)}}


def _set(
    request: Request,
    response: Response,
    cookie: str,
    text: str,
    same_site: Literal["strict", "lax"],
    *,
    ends: datetime | None = None,
    max_age_s: int | None = None,
) -> None:
    response.set_cookie(
        _named(request, cookie), text, max_age=max_age_s, expires=ends, path="/", secure=is_secure(request), httponly=True,
        samesite=same_site,
    )  # fmt: skip


def set_session(request: Request, response: Response, text: str, ends: datetime) -> None:
    _set(request, response, COOKIE, text, "strict", ends=ends)


def drop_session(request: Request, response: Response) -> None:
    _set(request, response, COOKIE, "", "strict", max_age_s=0)


def set_flow(request: Request, response: Response, text: str) -> None:
    """Keep a sign-in at the provider. `Lax`: the provider's redirect back is a navigation that another site began."""
    _set(request, response, FLOW_COOKIE, text, "lax", max_age_s=FLOW_S)


def flow_of(request: Request) -> str:
    return request.cookies.get(_named(request, FLOW_COOKIE), "")
