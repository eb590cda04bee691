"""Where one is signed in: each session with its device and, coarsely, its place; ending one, or all others."""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from tokenworks.kernel import NotFound
from tokenworks.pages.page import FormText, Visitor, language_of, render, sign_in_page, visitor_of
from tokenworks.pages.words import SESSION_WORDS
from tokenworks.subscriptions import minute_of
from tokenworks.trust import Session
from tokenworks.web.principals import as_uuid, audit
from tokenworks.web.services import RequestServices, Services
from tokenworks.web.sign_in import live_sessions

router = APIRouter(include_in_schema=False)
SESSIONS_SHOWN: Final = 100
Done = Annotated[Literal["ended", "ended_others"] | None, Query()]
# What a browser calls itself has the name of its system, the more special one first: an iPad says Mac, too.
_SYSTEMS: Final = (
    ("iPhone", "iphone"), ("iPad", "ipad"), ("Android", "android"), ("Windows", "windows"), ("Macintosh", "mac"),
    ("Mac OS", "mac"), ("Linux", "linux"),
)  # fmt: skip


def device_of(client: str | None) -> str:
    """Which word says what somebody signed in with: never the text that the client sent."""
    return next((word for name, word in _SYSTEMS if name in (client or "")), "other")


def place_of(address: str | None) -> str | None:
    """An address as much as one needs to know one's own by: the first half of an IPv4 one, the first 32 bits of an IPv6 one."""
    try:
        parsed = ip_address((address or "").partition("%")[0])
    except ValueError:
        return None
    if parsed.version == 4:
        return ".".join(str(parsed).split(".")[:2]) + ".*.*"
    mapped = parsed.ipv4_mapped
    if mapped is not None:
        return place_of(str(mapped))
    return ":".join(parsed.exploded.split(":")[:2]) + ":…"


@router.get("/sessions")
def sessions(request: Request, services: RequestServices, done: Done = None) -> Response:
    visitor = visitor_of(request, services, "owner", "admin", "member")
    if visitor is None:
        return sign_in_page(request, services, "/sessions")
    words = SESSION_WORDS[language_of(request, visitor)]
    found = live_sessions(services, visitor.principal)
    # This one first, then one's own, then those of the others in the account.
    own_first = sorted(
        found,
        key=lambda s: (
            s.session_id != visitor.principal.session_id,
            s.member_id != visitor.principal.member_id,
        ),
    )
    names = {m.member_id: m.name for m in services.members.of(visitor.subscriber)}
    others = any(
        s.member_id == visitor.principal.member_id and s.session_id != visitor.principal.session_id
        for s in found
    )
    return render(
        request, services, "sessions.html", "sessions", "sessions", visitor=visitor, s=words,
        done=words[done] if done else None,
        rows=[_row(one, visitor, names, words) for one in own_first[:SESSIONS_SHOWN]], others=others,
        more=words["more"].format(count=len(found) - SESSIONS_SHOWN) if len(found) > SESSIONS_SHOWN else "",
    )  # fmt: skip


def _row(one: Session, visitor: Visitor, names: dict[Any, str], words: Mapping[str, str]) -> dict[str, Any]:
    seen = one.seen_at or one.created_at
    place = place_of(one.seen_address or one.address) or words["unknown_place"]
    lines = [
        words["since"].format(at=minute_of(one.created_at)),
        words["seen"].format(at=minute_of(seen)),
        words["where"].format(place=place),
        words["until"].format(at=minute_of(one.expires_at)),
    ]
    is_own = one.member_id == visitor.principal.member_id
    return {
        "id": str(one.session_id), "device": words[device_of(one.client)], "lines": lines,
        "is_this": one.session_id == visitor.principal.session_id,
        "of": "" if is_own else words["of"].format(name=names.get(one.member_id, "")),
    }  # fmt: skip


@router.post("/sessions/end")
def end(request: Request, services: RequestServices, id: FormText) -> Response:
    visitor = visitor_of(request, services, "owner", "admin", "member")
    if visitor is None:
        return sign_in_page(request, services, "/sessions")
    end_live_session(services, visitor, id)
    return RedirectResponse("/sessions?done=ended", 303)


def end_live_session(services: Services, visitor: Visitor, id_: str) -> None:
    """One that is listed; the same form again finds it ended, and does nothing. Raises `NotFound` for another's."""
    session_id = as_uuid(id_, "session")
    with services.transaction():
        if session_id in {one.session_id for one in live_sessions(services, visitor.principal)}:
            if services.identity.end_session(session_id):
                audit(services, visitor.principal, "session.end", session_id)
        elif visitor.is_member or not services.identity.has_session(
            visitor.subscriber.subscriber_id, session_id
        ):
            raise NotFound("there is no such session")


@router.post("/sessions/end-others")
def end_others(request: Request, services: RequestServices) -> Response:
    visitor = visitor_of(request, services, "owner", "admin", "member")
    if visitor is None:
        return sign_in_page(request, services, "/sessions")
    principal, subscriber_id = visitor.principal, visitor.subscriber.subscriber_id
    with services.transaction():
        ended = services.identity.end_other_sessions(subscriber_id, principal.member_id, principal.session_id)
        if ended:
            audit(services, principal, "session.end_others", subscriber_id, None, {"ended": ended})
    return RedirectResponse("/sessions?done=ended_others", 303)
